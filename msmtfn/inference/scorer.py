"""Scoring of batches of prepared calls with the network, in plain Python without Ray.

Each actor of the graph holds one scorer, which knows nothing of runs.

A batch of calls is split into rounds, the rounds go through the encoders and the fusion in groups of similar length
under a budget of samples, and their vectors are put back together by call. On a CPU each thread computes its own group,
since threads that share one wait for each other at the end of every matrix product.

Shapes: R rounds, C calls, D width of the fusion.
"""

from __future__ import annotations

import copy
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

from msmtfn.errors import CallError, RejectCode, require
from msmtfn.features.processor import FULL_SCALE
from msmtfn.inference.feed import RoundBatch, feed_rounds, group_rounds
from msmtfn.labels import INTENTS, TASKS, UnrankedReason
from msmtfn.leads.ranking import LeadWeights, lead_scores
from msmtfn.leads.schema import REJECTED, SCORED
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.precision import (
    ScoringPrecision,
    autocast,
    cast_to_bf16_,
    cpu_has_bf16,
    merge_weight_norm,
    pack_weights,
    quantize_encoders,
    uses_bf16,
)

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
BATCH_CALLS: Final = 16
GPU_BATCH_CALLS: Final = 64
"""Enough for several full groups of rounds of similar length: about 200 rounds, 55 MB of samples."""

ROUNDS_PER_GPU_GROUP: Final = 32
GROUPS_PER_ROUND: Final = 4
"""On a CPU a group holds this fraction of a maximum-length round: small enough that all threads finish together."""

VERDICT_COLUMNS: Final = ("status", "error_code", "error_detail")
"""Columns that the preparation fills for the calls it rejects, and this stage for all others."""

UNRANKED: Final = "unranked_reason"
REFUSAL: Final = INTENTS.index("D")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerConfig:
    """Options of running the network, and the value of each intent in the lead score."""

    device: Device = "auto"
    """Device that runs the network; auto means a GPU if there is one."""
    encoding: Literal["unpadded", "padded"] = "unpadded"
    """Whether rounds are encoded without padding, or padded to the maximum length as in the paper. Both give the same
    results up to rounding; padded is slow and serves to check unpadded."""
    precision: ScoringPrecision = "auto"
    """Precision of the matrix products in the encoders and the fusion; auto means bf16 on a GPU that supports it, else
    fp32. int8, on CPUs only, quantises the encoders' linear layers and runs the rest in bf16 if the CPU has bf16
    instructions, else in fp32."""
    samples_per_batch: int = 0
    """Maximum number of samples, padding included, that are encoded at once; 0 means a quarter of the maximum round per
    thread on a CPU, and 32 maximum rounds on a GPU."""
    lead_weights: LeadWeights = field(default_factory=LeadWeights)
    """Value of each intent in the lead score."""
    max_refusal_probability: float = 0.5
    """Maximum probability of class D, explicit refusal, of a call that gets a rank; one above it is refused."""

    def __post_init__(self) -> None:
        """Check the budget and the precision.

        Raises:
            ValueError: the budget is negative, the maximum probability is none, or the precision is int8 without a CPU
                or without unpadded encoding.
        """
        refusal = self.max_refusal_probability
        require(0 <= refusal <= 1, "max_refusal_probability", refusal, "between 0 and 1")
        require(self.samples_per_batch >= 0, "samples_per_batch", self.samples_per_batch, "at least 0")
        has_int8 = (self.device, self.encoding) == ("cpu", "unpadded")
        cure = (
            f"another with device {self.device} and encoding {self.encoding}, since int8 needs device cpu and encoding "
            "unpadded"
        )
        require(has_int8 or self.precision != "int8", "precision", self.precision, cure)


@dataclass(frozen=True, slots=True)
class CallRounds:
    """Inputs of the network for the rounds of one call, as views of the batch's memory.

    Attributes:
        samples: the samples of each round.
        tokens: the token ids of each round.
    """

    samples: list[npt.NDArray[np.int16]]
    tokens: list[npt.NDArray[np.int32]]


class Scorer:
    """Scorer of batches of prepared calls with a copy of one network."""

    def __init__(
        self,
        network: MsmtFn,
        config: ScorerConfig,
        *,
        owns_network: bool = False,
    ) -> None:
        """Lay a copy of the network's weights out for the device.

        Args:
            network: stays as it is, unless `owns_network`.
            config: how it is run.
            owns_network: convert `network` itself, which saves a copy of its weights; nothing else may use it then.
        """
        if not owns_network:
            network = copy.deepcopy(network)
        on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.network = network.train(False).to(self.device)
        self.config = config
        if config.precision == "bf16" and not on_gpu and not cpu_has_bf16():
            logger.warning("this CPU has no instructions for bf16, which is slower here than fp32; choose fp32")
        max_samples = network.config.max_round_samples
        self.padded_length = max_samples if config.encoding == "padded" else None
        if self.padded_length is None:
            merge_weight_norm(self.network)
            if config.precision == "int8":
                quantize_encoders(self.network)
            if uses_bf16(config.precision, self.device):
                cast_to_bf16_(self.network)
            pack_weights(self.network)
        budget = max_samples * ROUNDS_PER_GPU_GROUP if on_gpu else max_samples // GROUPS_PER_ROUND
        self.budget = config.samples_per_batch or budget
        self.threads = None
        if not on_gpu and self.padded_length is None:
            self.threads = _single_threaded_pool(torch.get_num_threads())

    def score_batch(self, batch: pa.Table, schema: pa.Schema) -> pa.Table:
        """Score calls.

        Args:
            batch: rows as returned by `Preparer.prepare_batch`.
            schema: schema of the result; a column that neither the batch nor this stage has is null.

        Returns:
            The columns of `schema`, one row per row of the batch, in order.
        """
        ready = pc.is_null(batch["status"]).to_numpy(zero_copy_only=False)
        calls = list(split_calls(batch, np.flatnonzero(ready)))
        outcomes = iter(self.score_calls(calls))
        rows = [self._scored_columns(next(outcomes)) if is_ready else {} for is_ready in ready]
        columns = batch.select([name for name in schema.names if name in batch.schema.names])
        return _merge_columns(columns, rows, schema)

    def probabilities(self, calls: Sequence[CallRounds]) -> dict[str, npt.NDArray[np.float32]]:
        """Classify calls.

        Returns:
            For each task an array (C, number of classes), whose rows sum to 1.
        """
        with torch.inference_mode():
            samples = [waveform for call in calls for waveform in call.samples]
            tokens = [ids for call in calls for ids in call.tokens]
            groups = group_rounds(np.array([len(waveform) for waveform in samples]), self.budget, self.padded_length)
            batches = feed_rounds(groups, samples, tokens, self.network.config.text.pad_token_id, self.device)
            apply = self.threads.map if self.threads is not None and len(groups) > 1 else map
            vectors = torch.cat(list(apply(self.encode, batches)))
            order = torch.from_numpy(np.argsort(np.concatenate(groups))).to(self.device)
            logits = self.network.classify_calls(vectors[order], [len(call.samples) for call in calls])
            return {task: torch.softmax(logits[task].float(), dim=1).cpu().numpy() for task in TASKS}

    def encode(self, batch: RoundBatch) -> Tensor:
        """Encode a batch of rounds as vectors (R, D), float32."""
        is_padded = self.padded_length is not None
        # Inference mode and autocast are thread-local, so each thread must enter them.
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
        """Return the probabilities of each call, or why there are none.

        If a batch fails, its calls are tried one by one, to lose only the failing ones.
        """
        if not calls:
            return []
        try:
            arrays = self.probabilities(calls)
            return [_one_call(arrays, index) for index in range(len(calls))]
        except torch.AcceleratorError:  # a RuntimeError, too, but retrying in this process cannot help
            raise
        except RuntimeError as exc:  # PyTorch: out of memory, or a kernel that fails
            reason = f"{type(exc).__name__} in the network: {_first_line(exc)}"
            if len(calls) == 1:
                logger.exception("a call could not be scored")
                return [CallError(RejectCode.SCORING_FAILED, reason)]
        # Outside the handler, whose exception would keep the tensors of the failed batch alive (PyTorch FAQ on memory).
        logger.warning("a batch of %d calls could not be scored (%s); trying them one by one", len(calls), reason)
        return [self.score_calls([call])[0] for call in calls]

    def _scored_columns(self, outcome: dict[str, npt.NDArray[np.float32]] | CallError) -> dict[str, Any]:
        if isinstance(outcome, CallError):
            return {"status": REJECTED, "error_code": str(outcome.code), "error_detail": outcome.detail}
        five = outcome["five"]
        return {
            "status": SCORED,
            **{task: dict(zip(TASKS[task], outcome[task].tolist(), strict=True)) for task in TASKS},
            "intent_predicted": INTENTS[int(five.argmax())],
            "lead_score": float(lead_scores(five[None], self.config.lead_weights)[0]),
            UNRANKED: UnrankedReason.REFUSED if five[REFUSAL] > self.config.max_refusal_probability else None,
        }


def split_calls(batch: pa.Table, rows: Iterable[int] | None = None) -> Iterator[CallRounds]:
    """Split the flat columns of prepared calls into rounds without copying, for all rows or the given ones."""
    samples, round_samples, tokens, round_tokens = (
        batch[name] for name in ("samples", "round_samples", "tokens", "round_tokens")
    )
    for row in range(len(batch)) if rows is None else map(int, rows):
        yield CallRounds(
            samples=_split(samples[row].values, round_samples[row].values),
            tokens=_split(tokens[row].values, round_tokens[row].values),
        )


def _single_threaded_pool(num_threads: int) -> ThreadPoolExecutor:
    """Make a pool of threads in which PyTorch uses one thread each; its setting in the calling thread is unchanged."""
    return ThreadPoolExecutor(num_threads, "network", initializer=torch.set_num_threads, initargs=(1,))


def _split(values: pa.Array, lengths: pa.Array) -> list[npt.NDArray[Any]]:
    ends = np.cumsum(lengths.to_numpy())
    return np.split(values.to_numpy(), ends[:-1]) if len(ends) else []


def _one_call(arrays: dict[str, npt.NDArray[np.float32]], index: int) -> dict[str, npt.NDArray[np.float32]] | CallError:
    probabilities = {task: array[index] for task, array in arrays.items()}
    if not all(np.isfinite(array).all() for array in probabilities.values()):
        return CallError(RejectCode.SCORING_FAILED, "the network's result is not a number")
    return probabilities


def _merge_columns(earlier: pa.Table, rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Merge the columns of the earlier stages with the scored rows, which take precedence in the verdict columns."""
    columns = []
    for field_ in schema:
        column = pa.array([row.get(field_.name) for row in rows], field_.type)
        if field_.name in VERDICT_COLUMNS:
            column = pc.coalesce(column, earlier[field_.name])
        elif field_.name == UNRANKED:  # of a rejected call there is none
            is_scored = pa.array([row.get("status") == SCORED for row in rows], pa.bool_())
            column = pc.if_else(is_scored, pc.coalesce(earlier[UNRANKED], column), None)
        elif field_.name in earlier.schema.names:
            column = earlier[field_.name]
        columns.append(column)
    return pa.table(columns, schema=schema)


def _first_line(exc: BaseException) -> str:
    return str(exc).strip().partition("\n")[0][:200]
