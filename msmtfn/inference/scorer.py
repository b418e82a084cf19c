"""Scoring of batches of prepared calls with the network, in plain Python without Ray.

Each actor of the graph holds one scorer, which knows nothing of runs.

A batch of calls is split into rounds, the rounds go through the encoders and the fusion in groups of similar length
under a budget of samples, and their vectors are put back together by call. The heads' probabilities are calibrated, and
the rounds that moved the score are found from the same vectors. On a CPU each thread computes its own group,
since threads that share one wait for each other at the end of every matrix product.

Shapes: R rounds, C calls, D width of the fusion.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from msmtfn.errors import CallError, RejectCode, require
from msmtfn.features.processor import FULL_SCALE
from msmtfn.inference.calibration import calibrate, prediction_sets
from msmtfn.inference.evidence import Evidence, find_evidence
from msmtfn.inference.feed import RoundBatch, feed_rounds, group_rounds
from msmtfn.labels import INTENTS, TASKS, UnrankedReason
from msmtfn.leads.ranking import LeadWeights, lead_scores
from msmtfn.leads.schema import HEADS_PREFIX, REJECTED, SCORED
from msmtfn.model.calibration import Calibration
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

if TYPE_CHECKING:
    from msmtfn.model.base import CallNetwork

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
    evidence: bool = True
    """Whether to find the rounds that moved each score most."""

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


@dataclass(frozen=True, slots=True)
class ScoredCall:
    """The result of scoring one call.

    Attributes:
        heads: for each task the probabilities (number of classes,) of its head, as the network gives them.
        probabilities: the same after calibration: sums of one distribution over the intents.
        prediction_set: the intents that the call may have at 90 % coverage, most likely first.
        lead_score: 0 to 100.
        evidence: the rounds that moved the score most; None if they were not asked for.
    """

    heads: dict[str, npt.NDArray[np.float32]]
    probabilities: dict[str, npt.NDArray[np.float32]]
    prediction_set: list[str]
    lead_score: float
    evidence: list[Evidence] | None

    @property
    def intent(self) -> str:
        """The most likely of the five intents."""
        return INTENTS[int(self.probabilities["five"].argmax())]

    def refusal(self, max_probability: float) -> UnrankedReason | None:
        """Return the reason to give the call no rank if class D is more probable than this; else None."""
        return UnrankedReason.REFUSED if self.probabilities["five"][REFUSAL] > max_probability else None


class Scorer:
    """Scorer of batches of prepared calls with a copy of one network."""

    def __init__(
        self,
        network: CallNetwork,
        config: ScorerConfig,
        *,
        calibration: Calibration | None = None,
        owns_network: bool = False,
    ) -> None:
        """Lay a copy of the network's weights out for the device.

        Args:
            network: stays as it is, unless `owns_network`.
            config: how it is run.
            calibration: of the model that the network belongs to; by default that of a model that has none.
            owns_network: convert `network` itself, which saves a copy of its weights; nothing else may use it then.
        """
        if not owns_network:
            network = copy.deepcopy(network)
        on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
        self.device = torch.device("cuda" if on_gpu else "cpu")
        self.network = network.train(False).to(self.device)
        self.config = config
        self.calibration = calibration or Calibration()
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
        ready_rows = np.flatnonzero(ready)
        outcomes = self.score_calls(list(split_calls(batch, ready_rows)))
        rows: list[dict[str, Any]] = [{} for _ in ready]
        for row, outcome in zip(ready_rows.tolist(), outcomes, strict=True):
            rows[row] = _scored_columns(outcome, batch["rounds"][row], self.config.max_refusal_probability)
        columns = batch.select([name for name in schema.names if name in batch.schema.names])
        return _merge_columns(columns, rows, schema)

    def probabilities(self, calls: Sequence[CallRounds]) -> dict[str, npt.NDArray[np.float32]]:
        """Classify calls with the four heads as they are, without calibration.

        Returns:
            For each task an array (C, number of classes), whose rows sum to 1.
        """
        with torch.inference_mode():
            sides = self.encode_calls(calls)
            return self.classify(sides[:, 0], [len(call.samples) for call in calls])

    def encode_calls(self, calls: Sequence[CallRounds]) -> Tensor:
        """Return the vectors of all rounds in order: (R, 2, D) if evidence is asked for, else (R, 1, D)."""
        samples = [waveform for call in calls for waveform in call.samples]
        tokens = [ids for call in calls for ids in call.tokens]
        groups = group_rounds(np.array([len(waveform) for waveform in samples]), self.budget, self.padded_length)
        batches = feed_rounds(groups, samples, tokens, self.network.config.text.pad_token_id, self.device)
        apply = self.threads.map if self.threads is not None and len(groups) > 1 else map
        vectors = torch.cat(list(apply(self.encode, batches)))
        return vectors[torch.from_numpy(np.argsort(np.concatenate(groups))).to(self.device)]

    def classify(self, vectors: Tensor, rounds_per_call: list[int]) -> dict[str, npt.NDArray[np.float32]]:
        """Return the heads' probabilities (C, number of classes) for each task."""
        logits = self.network.classify_calls(vectors, rounds_per_call)
        return {task: torch.softmax(logits[task].float(), dim=1).cpu().numpy() for task in TASKS}

    def encode(self, batch: RoundBatch) -> Tensor:
        """Encode a batch of rounds as float32 vectors: (R, 2, D) if evidence is asked for, else (R, 1, D)."""
        is_padded = self.padded_length is not None
        arguments = batch.samples.float() / FULL_SCALE, batch.num_samples, batch.input_ids, batch.num_tokens
        # Inference mode and autocast are thread-local, so each thread must enter them.
        with torch.inference_mode(), autocast(self.config.precision if is_padded else "fp32", self.device):
            vectors: Tensor
            if self.config.evidence:
                vectors = self.network.encode_sides(*arguments, padded=is_padded)
            else:
                vectors = self.network.encode_rounds(*arguments, padded=is_padded)[:, None]
        return vectors.float()

    def score_calls(self, calls: Sequence[CallRounds]) -> list[ScoredCall | CallError]:
        """Return the score of each call, or why it has none.

        If a batch fails, its calls are tried one by one, to lose only the failing ones.
        """
        if not calls:
            return []
        try:
            return self._score(calls)
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

    def _score(self, calls: Sequence[CallRounds]) -> list[ScoredCall | CallError]:
        rounds_per_call = [len(call.samples) for call in calls]
        with torch.inference_mode():
            sides = self.encode_calls(calls)
            heads = self.classify(sides[:, 0], rounds_per_call)
            probabilities = calibrate(heads, self.calibration)
            sets = prediction_sets(probabilities["five"], self.calibration)
            scores = lead_scores(probabilities["five"], self.config.lead_weights)
            evidence: Sequence[list[Evidence] | None] = [None] * len(calls)
            if self.config.evidence:
                evidence = find_evidence(
                    sides,
                    rounds_per_call,
                    scores,
                    np.array([self._is_read(len(ids)) for call in calls for ids in call.tokens]),
                    np.array([self._is_heard(len(waveform)) for call in calls for waveform in call.samples]),
                    self.score_vectors,
                )
        return [
            ScoredCall(_row(heads, index), _row(probabilities, index), sets[index], float(scores[index]), found)
            if all(np.isfinite(array[index]).all() for array in heads.values())
            else CallError(RejectCode.SCORING_FAILED, "the network's result is not a number")
            for index, found in enumerate(evidence)
        ]

    def score_vectors(self, vectors: Tensor, rounds_per_call: list[int]) -> npt.NDArray[np.float32]:
        """Return the lead scores (C,) of calls from their rounds' vectors (R, D)."""
        probabilities = calibrate(self.classify(vectors, rounds_per_call), self.calibration)
        return lead_scores(probabilities["five"], self.config.lead_weights)

    def _is_read(self, num_tokens: int) -> bool:
        return self.network.config.modalities != "audio" and num_tokens > 0

    def _is_heard(self, num_samples: int) -> bool:
        config = self.network.config
        num_frames: int = config.num_frames(num_samples)
        return config.modalities != "text" and num_frames > 0


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


def _row(arrays: dict[str, npt.NDArray[np.float32]], index: int) -> dict[str, npt.NDArray[np.float32]]:
    return {task: array[index] for task, array in arrays.items()}


def _scored_columns(
    outcome: ScoredCall | CallError, rounds: pa.ListScalar, max_refusal_probability: float
) -> dict[str, Any]:
    """Return the columns of a call by name, the heads' own probabilities included.

    Args:
        outcome: the result of scoring the call.
        rounds: start and end of its rounds, as prepared.
        max_refusal_probability: maximum probability of class D of a call that gets a rank.
    """
    if isinstance(outcome, CallError):
        return {"status": REJECTED, "error_code": str(outcome.code), "error_detail": outcome.detail}
    return {
        "status": SCORED,
        **{task: _by_class(task, array) for task, array in outcome.probabilities.items()},
        **{f"{HEADS_PREFIX}{task}": _by_class(task, array) for task, array in outcome.heads.items()},
        "intent_predicted": outcome.intent,
        "prediction_set": outcome.prediction_set,
        "lead_score": outcome.lead_score,
        UNRANKED: outcome.refusal(max_refusal_probability),
        "evidence": None
        if outcome.evidence is None
        else [
            {
                "start_sec": rounds[each.first_round]["start_sec"].as_py(),
                "end_sec": rounds[each.last_round]["end_sec"].as_py(),
                "change": each.change,
                "side": each.side,
            }
            for each in outcome.evidence
        ],
    }


def _by_class(task: str, probabilities: npt.NDArray[np.float32]) -> dict[str, float]:
    return dict(zip(TASKS[task], probabilities.tolist(), strict=True))


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
