"""Evaluation of a model on labelled calls, as they are or with one modality shuffled between rounds.

The calls pass through the two stages of scoring, a batch at a time, in one process and without Ray.

Shape letters: C calls, K classes of a task, R rounds.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn import storage
from msmtfn.corpora.simulation.corpus import CEILINGS_NAME
from msmtfn.errors import TrainingDataError
from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.evaluation.metrics import TaskMetrics, all_metrics
from msmtfn.features.prepare import INPUTS, PREPARED, PrepareConfig, Preparer
from msmtfn.features.sandbox import SandboxedPreparer
from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig, split_calls
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.schema import OUTCOME, SCORED
from msmtfn.model.checkpoint import Model

logger = logging.getLogger(__name__)

Shuffle = Literal["none", "audio", "text"]
Report = Callable[[str, int], None]
"""Receives a stage, `prepared` or `scored`, and the number of calls that have passed it, rejects included."""

BATCH_CALLS: Final = 16
_LABELLED: Final = (pa.field("call_id", pa.string()), pa.field("intent", pa.string()))
_PREDICTED: Final = tuple(OUTCOME.field(name) for name in (*TASKS, "intent_predicted"))

PREDICTIONS: Final = pa.schema([*_LABELLED, *_PREDICTED])
"""One row per call: its label, its probabilities in each task, and the most probable of the five intents."""

_SCORED_CALLS: Final = pa.schema([*_LABELLED, OUTCOME.field("status"), OUTCOME.field("error_code"), *_PREDICTED])
_COLUMNS_OF_MODALITY: Final = {"audio": ("samples", "round_samples"), "text": ("tokens", "round_tokens")}
"""The columns of `INPUTS` with the values of a modality, and with their number in each round."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The predictions of a model for labelled calls.

    Attributes:
        call_ids: ids of the calls that were scored, in the order of the manifests.
        intents: (C,) index of each call's label in `INTENTS`.
        probabilities: (C, K) probabilities, by task.
        rejected: number of calls that could not be prepared or scored, by reason (`errors.RejectCode`).
    """

    call_ids: list[str]
    intents: npt.NDArray[np.int64]
    probabilities: dict[str, npt.NDArray[np.float32]]
    rejected: dict[str, int]

    def metrics(self) -> dict[str, TaskMetrics]:
        """Compute the metrics of each task."""
        return all_metrics(self.probabilities, self.intents)

    def as_table(self) -> pa.Table:
        """Return the calls as rows of `PREDICTIONS`."""
        structs = [
            pa.StructArray.from_arrays(
                [pa.array(column) for column in self.probabilities[task].T], fields=list(PREDICTIONS.field(task).type)
            )
            for task in TASKS
        ]
        labels, predicted = (
            pa.array([INTENTS[index] for index in indices], pa.string())
            for indices in (self.intents, self.probabilities["five"].argmax(axis=1))
        )
        return pa.table([pa.array(self.call_ids, pa.string()), labels, *structs, predicted], schema=PREDICTIONS)


def evaluate_calls(
    model: Model,
    split: LabelledSplit,
    prepare: PrepareConfig,
    scorer: ScorerConfig,
    *,
    shuffle: Shuffle = "none",
    seed: int = 0,
    report: Report = lambda _step, _done: None,
) -> Evaluation:
    """Score labelled calls, with `BATCH_CALLS` in memory at once, or all of them if a modality is shuffled.

    Args:
        model: the model to evaluate; it is not changed.
        split: the labelled calls.
        prepare: how recordings are turned into the network's inputs.
        scorer: how the network is run.
        shuffle: the modality of which every round receives that of another round of any call. The accuracy that
            remains comes from the other modality and from the number of rounds.
        seed: seed of the shuffling.
        report: receives the progress.

    Raises:
        TrainingDataError: no call can be scored, or there is no other round to shuffle with.
    """
    preparer = Preparer(prepare, model.processor, storage.absolute(split.root))
    guarded = SandboxedPreparer(preparer, prepare.guard, [column.name for column in _LABELLED], PREPARED)
    batches = _prepare(split.rows, guarded, report)
    if shuffle != "none":
        batches = shuffle_rounds(list(batches), shuffle, seed)
    network_scorer = Scorer(model.network, scorer)
    scored: list[pa.Table] = []
    for batch in batches:
        scored.append(network_scorer.score_batch(batch, _SCORED_CALLS))
        report("scored", sum(map(len, scored)))
    return _evaluation(pa.concat_tables(scored), split)


def shuffle_rounds(batches: Sequence[pa.Table], modality: Literal["audio", "text"], seed: int) -> Iterator[pa.Table]:
    """Give every round the audio, or the text, of another round of any call; each is given exactly once.

    Args:
        batches: rows as `Preparer.prepare_batch` returns them; they stay in memory, the samples as int16.
        modality: the modality that is shuffled.
        seed: seed of the shuffling.

    Yields:
        The batches with the columns of that modality replaced.

    Raises:
        TrainingDataError: there is one round only.
    """
    values, lengths = _COLUMNS_OF_MODALITY[modality]
    calls = [[_rounds_of(call, modality) for call in split_calls(batch)] for batch in batches]
    rounds = [each for batch in calls for call in batch for each in call]
    if len(rounds) == 1:
        raise TrainingDataError(f"there is one round only, and no other to take its {modality} from; give more calls")
    donors = iter(_other_rounds(len(rounds), seed))
    for batch, old in zip(batches, calls, strict=True):
        new = [[rounds[next(donors)] for _ in call] for call in old]
        yield _with_column(
            _with_column(batch, values, [_concatenate(call, values) for call in new]),
            lengths,
            [[len(each) for each in call] for call in new],
        )


def read_ceilings(corpus: str) -> dict[str, Any] | None:
    """Read the highest accuracies that any reader of a simulated corpus can reach; None for another kind of corpus.

    Args:
        corpus: a folder or an s3:// address.

    Returns:
        `best_possible` with the accuracies on all calls that could be drawn, and `best_reader_of` with those on each
        split; both by task and reader.

    Raises:
        TrainingDataError: the file does not hold such accuracies.
        StorageError: the file cannot be read.
    """
    path = storage.join(storage.absolute(corpus), CEILINGS_NAME)
    text = storage.read_text(path)
    if text is None:
        return None
    try:
        content: dict[str, Any] = json.loads(text)
        for ceilings in (content["best_possible"], *content["best_reader_of"].values()):
            _check_ceilings(ceilings)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise TrainingDataError(
            f"{path} does not hold the ceilings of a simulated corpus; make the corpus again, or remove the file"
        ) from exc
    return content


def _prepare(rows: pa.Table, preparer: SandboxedPreparer, report: Report) -> Iterator[pa.Table]:
    for start in range(0, len(rows), BATCH_CALLS):
        batch = preparer.prepare_batch(rows.slice(start, BATCH_CALLS))
        report("prepared", min(start + BATCH_CALLS, len(rows)))
        yield batch


def _evaluation(calls: pa.Table, split: LabelledSplit) -> Evaluation:
    is_scored = pc.equal(calls["status"], SCORED)
    rejected = dict(sorted(Counter(calls.filter(pc.invert(is_scored))["error_code"].to_pylist()).items()))
    scored = calls.filter(is_scored)
    if not len(scored):
        raise TrainingDataError(f"none of the {len(calls)} calls of {split.root} can be scored: {rejected}")
    if rejected:
        logger.warning("%d of %d calls cannot be evaluated: %s", len(calls) - len(scored), len(calls), rejected)
    return Evaluation(
        call_ids=scored["call_id"].to_pylist(),
        intents=np.array([INTENTS.index(intent) for intent in scored["intent"].to_pylist()], dtype=np.int64),
        probabilities={
            task: np.stack(
                [pc.struct_field(scored[task], index).to_numpy() for index in range(len(classes))],
                axis=1,
            )
            for task, classes in TASKS.items()
        },
        rejected=rejected,
    )


def _other_rounds(num_rounds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return (R,) the index of the round that each round receives from.

    All rounds form one random cycle, and each receives from its predecessor, so that none receives from itself.
    """
    cycle = np.random.default_rng(seed).permutation(num_rounds)
    donors = np.empty_like(cycle)
    donors[cycle] = np.roll(cycle, 1)
    return donors


def _rounds_of(call: CallRounds, modality: Literal["audio", "text"]) -> list[npt.NDArray[Any]]:
    return list(call.samples if modality == "audio" else call.tokens)


def _concatenate(rounds: Sequence[npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    dtype = INPUTS.field(name).type.value_type.to_pandas_dtype()
    return np.concatenate([np.zeros(0, dtype), *rounds])


def _with_column(batch: pa.Table, name: str, rows: Sequence[Any]) -> pa.Table:
    field = INPUTS.field(name)
    return batch.set_column(batch.schema.get_field_index(name), field, pa.array(rows, field.type))


def _check_ceilings(ceilings: Mapping[str, Mapping[str, float]]) -> None:
    for accuracy in chain.from_iterable(ceilings[task].values() for task in TASKS):
        float(accuracy)
