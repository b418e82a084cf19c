"""The network over batches of prepared calls. A plain callable, no Ray; the actor of the graph holds one.

A batch of calls is taken apart into rounds, the rounds go through the encoders and the fusion in groups under a
budget of samples, and the results are put together again by call. On a CPU each thread has a group of its own: threads
that share one wait for each other at the end of every product.

Shapes: R rounds, C calls, D width of the fusion.
"""

from __future__ import annotations

import copy
import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from msmtfn.errors import CallError, RejectCode
from msmtfn.features.prepare import FULL_SCALE
from msmtfn.inference.feed import RoundBatch, feed_rounds, group_rounds
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.ranking import LeadWeights, lead_scores
from msmtfn.leads.schema import REJECTED, SCORED
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.precision import (
    ScoringPrecision,
    autocast,
    cpu_has_bf16,
    merge_weight_norm,
    narrow_weights,
    pack_weights,
    quantize_encoders,
    uses_bf16,
)

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
BATCH_CALLS: Final = 16
BATCH_CALLS_OF_GPU: Final = 64
"""Enough rounds for several full batches of about the same length; 200 rounds, 55 MB of samples."""

ROUNDS_PER_GPU_GROUP: Final = 32
GROUPS_PER_ROUND: Final = 4
"""Of the greatest length, on a CPU: small enough that all threads are done at about the same time."""

VERDICT: Final = ("status", "error_code", "error_detail")
"""Columns that the stage before fills for the calls it rejects, and this one for all others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerConfig:
    """How the network is run and what its probabilities are worth."""

    device: Device = "auto"
    """Where the network runs; auto takes a GPU where there is one."""
    encoding: Literal["unpadded", "padded"] = "unpadded"
    """Whether rounds are encoded as long as they are, or all padded to the longest as the paper has it: the same
    results to rounding error; the second is the slow way to check the first."""
    precision: ScoringPrecision = "auto"
    """Of the encoders' and the fusion's matrix products; auto takes bf16 on a GPU that has it. int8, for CPUs, is that
    of the encoders' linear layers, with bf16 for the rest where the CPU has instructions for it, else fp32."""
    samples_per_batch: int = 0
    """Samples, padding included, that go through the encoders at once; 0 takes a quarter of the longest round for each
    thread of a CPU, and 32 of them on a GPU."""
    lead_weights: LeadWeights = field(default_factory=LeadWeights)
    """What a call of each intent is worth."""

    def __post_init__(self) -> None:
        """Check the budget, and that the precision is to be had.

        Raises:
            ValueError: the budget is negative, or the precision is one for rounds that are not padded, on a CPU.
        """
        if self.samples_per_batch < 0:
            raise ValueError(f"samples_per_batch is {self.samples_per_batch}; it must be at least 0")
        if self.precision == "int8" and (self.device, self.encoding) != ("cpu", "unpadded"):
            raise ValueError(
                f"precision is int8, device is {self.device} and encoding is {self.encoding}; int8 is for rounds that "
                "are not padded, on a CPU: say device cpu and encoding unpadded with it"
            )


@dataclass(frozen=True, slots=True)
class CallRounds:
    """What the network reads of one call, as views of the batch's memory.

    Attributes:
        samples: int16 samples of each round.
        tokens: token ids of each round.
    """

    samples: list[npt.NDArray[np.int16]]
    tokens: list[npt.NDArray[np.int32]]


class Scorer:
    """Scores batches of prepared calls with a copy of one network."""

    def __init__(
        self,
        network: MsmtFn,
        config: ScorerConfig,
        *,
        model_version: str = "",
        run_id: str = "",
        owns_network: bool = False,
    ) -> None:
        """Lay a copy of the network's weights out for the device.

        Args:
            network: stays as it is, unless `owns_network`.
            config: how it is run.
            model_version: for the rows' lineage.
            run_id: likewise.
            owns_network: convert `network` itself, which saves a copy of its weights; nothing else may use it then.
        """
        if not owns_network:
            network = copy.deepcopy(network)
        on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.network = network.train(False).to(self.device)
        self.config = config
        if config.precision == "bf16" and not on_gpu and not cpu_has_bf16():
            logger.warning("this CPU has no instructions for bf16, which takes longer here than fp32: choose that")
        longest = network.config.max_round_samples
        self.padded_length = longest if config.encoding == "padded" else None
        if self.padded_length is None:
            merge_weight_norm(self.network)
            if config.precision == "int8":
                quantize_encoders(self.network)
            if uses_bf16(config.precision, self.device):
                narrow_weights(self.network)
            pack_weights(self.network)
        budget = longest * ROUNDS_PER_GPU_GROUP if on_gpu else longest // GROUPS_PER_ROUND
        self.budget = config.samples_per_batch or budget
        self.threads = None
        if not on_gpu and self.padded_length is None:
            self.threads = _single_threads(torch.get_num_threads())
        self.model_version = model_version
        self.run_id = run_id

    def score_batch(self, batch: pa.Table, schema: pa.Schema) -> pa.Table:
        """Score calls.

        Args:
            batch: rows as `Preparer.prepare_batch` makes them.
            schema: of the result.

        Returns:
            The columns of `schema`, one row for each row of the batch, in its order.
        """
        ready = pc.is_null(batch["status"]).to_numpy(zero_copy_only=False)
        calls = list(split_calls(batch, np.flatnonzero(ready)))
        outcomes = iter(self.score_calls(calls))
        scored_at = dt.datetime.now(dt.UTC)
        rows = [
            self._scored_columns(next(outcomes), scored_at) if is_ready else self._lineage(scored_at)
            for is_ready in ready
        ]
        before = batch.select([name for name in schema.names if name in batch.schema.names])
        return _joined(before, rows, schema)

    def probabilities(self, calls: Sequence[CallRounds]) -> dict[str, npt.NDArray[np.float32]]:
        """Classify calls.

        Returns:
            An array (C, number of classes) a task; each row sums to 1.
        """
        with torch.inference_mode():
            samples = [waveform for call in calls for waveform in call.samples]
            tokens = [ids for call in calls for ids in call.tokens]
            groups = group_rounds(np.array([len(each) for each in samples]), self.budget, self.padded_length)
            batches = feed_rounds(groups, samples, tokens, self.network.config.text.pad_token_id, self.device)
            run = self.threads.map if self.threads and len(groups) > 1 else map
            vectors = torch.cat(list(run(self.encode, batches)))
            order = torch.from_numpy(np.argsort(np.concatenate(groups))).to(self.device)
            logits = self.network.classify_calls(vectors[order], [len(call.samples) for call in calls])
            return {task: torch.softmax(logits[task].float(), dim=1).cpu().numpy() for task in TASKS}

    def encode(self, batch: RoundBatch) -> Tensor:
        """Give each of some rounds its vector (R, D), float32."""
        is_padded = self.padded_length is not None
        # Both are known to the thread that entered them alone.
        with torch.inference_mode(), autocast(self.config.precision if is_padded else "fp32", self.device):
            vectors: Tensor = self.network.encode_rounds(
                batch.samples.float() / FULL_SCALE,
                batch.num_samples,
                batch.input_ids,
                batch.num_tokens,
                padded=is_padded,
            )
        return vectors.float()

    def score_calls(self, calls: Sequence[CallRounds]) -> list[dict[str, npt.NDArray[np.float32]] | CallError]:
        """Classify calls one by one where they fail together.

        Returns:
            For each call the probabilities of each task, or why there are none: what fails in a batch is tried alone,
            so that it costs no other call.
        """
        if not calls:
            return []
        try:
            arrays = self.probabilities(calls)
            return [_one_call(arrays, index) for index in range(len(calls))]
        except torch.AcceleratorError:  # a RuntimeError too, but none that another try in this process can mend
            raise
        except RuntimeError as exc:  # of PyTorch: out of memory, a kernel that fails
            reason = f"{type(exc).__name__} in the network: {_first_line(exc)}"
            if len(calls) == 1:
                logger.exception("a call could not be scored")
                return [CallError(RejectCode.SCORING_FAILED, reason)]
        # Not in the handler: its exception would keep the failed batch's tensors alive (PyTorch FAQ, out of memory).
        logger.warning("a batch of %d calls could not be scored (%s); trying them one by one", len(calls), reason)
        return [self.score_calls([call])[0] for call in calls]

    def _scored_columns(
        self, outcome: dict[str, npt.NDArray[np.float32]] | CallError, scored_at: dt.datetime
    ) -> dict[str, Any]:
        if isinstance(outcome, CallError):
            return {
                "status": REJECTED,
                "error_code": str(outcome.code),
                "error_detail": outcome.detail,
                **self._lineage(scored_at),
            }
        five = outcome["five"]
        return {
            "status": SCORED,
            **{task: dict(zip(TASKS[task], outcome[task].tolist(), strict=True)) for task in TASKS},
            "intent_predicted": INTENTS[int(five.argmax())],
            "lead_score": float(lead_scores(five[None], self.config.lead_weights)[0]),
            **self._lineage(scored_at),
        }

    def _lineage(self, scored_at: dt.datetime) -> dict[str, Any]:
        return {"model_version": self.model_version, "run_id": self.run_id, "scored_at": scored_at}


def split_calls(batch: pa.Table, rows: Iterable[int] | None = None) -> Iterator[CallRounds]:
    """Cut the flat columns of prepared calls, of all rows or of some, into rounds, without a copy."""
    samples, round_samples, tokens, round_tokens = (
        batch[name] for name in ("samples", "round_samples", "tokens", "round_tokens")
    )
    for row in range(len(batch)) if rows is None else map(int, rows):
        yield CallRounds(
            samples=_split(samples[row].values, round_samples[row].values),
            tokens=_split(tokens[row].values, round_tokens[row].values),
        )


def _single_threads(number: int) -> ThreadPoolExecutor:
    """Threads in each of which PyTorch computes by itself; what it uses in the thread that asks stays as it is."""
    return ThreadPoolExecutor(number, "network", initializer=torch.set_num_threads, initargs=(1,))


def _split(values: pa.Array, lengths: pa.Array) -> list[npt.NDArray[Any]]:
    ends = np.cumsum(lengths.to_numpy())
    return np.split(values.to_numpy(), ends[:-1]) if len(ends) else []


def _one_call(arrays: dict[str, npt.NDArray[np.float32]], index: int) -> dict[str, npt.NDArray[np.float32]] | CallError:
    probabilities = {task: array[index] for task, array in arrays.items()}
    if not all(np.isfinite(array).all() for array in probabilities.values()):
        return CallError(RejectCode.SCORING_FAILED, "the network's result is not a number")
    return probabilities


def _joined(before: pa.Table, rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """The columns of the stages before, and beside or over them what scoring says of each row."""
    columns = []
    for column in schema:
        said = pa.array([row.get(column.name) for row in rows], column.type)
        if column.name in VERDICT:
            said = pc.coalesce(said, before[column.name])
        elif column.name in before.schema.names:
            said = before[column.name]
        columns.append(said)
    return pa.table(columns, schema=schema)


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0][:200]
