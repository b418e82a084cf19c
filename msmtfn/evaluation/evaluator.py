"""A model on labelled calls: what it says of each, against the labels; and what it says without one of its senses.

The calls go through the two stages of scoring, a batch at a time, in one process and without Ray.

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
from msmtfn.features.sandbox import GuardedPreparer
from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig, split_calls
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.schema import OUTCOME, SCORED
from msmtfn.model.checkpoint import Model

logger = logging.getLogger(__name__)

Shuffle = Literal["none", "audio", "text"]
Report = Callable[[str, int], None]
"""Told what has been done with how many calls, rejects included: they are prepared, or scored."""

BATCH_CALLS: Final = 16
_LABELLED: Final = (pa.field("call_id", pa.string()), pa.field("intent", pa.string()))
_PREDICTED: Final = tuple(OUTCOME.field(name) for name in (*TASKS, "intent_predicted"))

PREDICTIONS: Final = pa.schema([*_LABELLED, *_PREDICTED])
"""A row a call: its label, its probabilities in each task, and the intent of the largest of five."""

_JUDGED: Final = pa.schema([*_LABELLED, OUTCOME.field("status"), OUTCOME.field("error_code"), *_PREDICTED])
_SIDES: Final = {"audio": ("samples", "round_samples"), "text": ("tokens", "round_tokens")}
"""The columns of `INPUTS` that hold a side of the rounds, and how long each is."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a model says of labelled calls.

    Attributes:
        call_ids: of the calls that were scored, in the order of the manifests.
        intents: (C,) index of each one's label in `INTENTS`.
        probabilities: (C, K) a task.
        rejected: how many more calls could not be prepared or scored, by reason (`errors.RejectCode`).
    """

    call_ids: list[str]
    intents: npt.NDArray[np.int64]
    probabilities: dict[str, npt.NDArray[np.float32]]
    rejected: dict[str, int]

    def metrics(self) -> dict[str, TaskMetrics]:
        """What the predictions of each task are worth."""
        return all_metrics(self.probabilities, self.intents)

    def as_table(self) -> pa.Table:
        """The calls as rows of `PREDICTIONS`."""
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
    """Score labelled calls, `BATCH_CALLS` in memory at once; all of them where a side is shuffled.

    Args:
        model: to judge; it stays as it is.
        split: the calls.
        prepare: how recordings are read.
        scorer: how the network is run.
        shuffle: the side of which every round gets that of another round, of any call: what is left of the accuracy
            is what the other side, and the number of rounds, tell.
        seed: of the shuffling.
        report: told how far it is.

    Raises:
        TrainingDataError: no call can be scored, or there is no other round to shuffle with.
    """
    preparer = Preparer(prepare, model.network.config, model.tokenizer, storage.absolute(split.root))
    guarded = GuardedPreparer(preparer, prepare.guard, [column.name for column in _LABELLED], PREPARED)
    batches = _prepare(split.rows, guarded, report)
    if shuffle != "none":
        batches = shuffle_rounds(list(batches), shuffle, seed)
    judge = Scorer(model.network, scorer)
    judged: list[pa.Table] = []
    for batch in batches:
        judged.append(judge.score_batch(batch, _JUDGED))
        report("scored", sum(map(len, judged)))
    return _evaluation(pa.concat_tables(judged), split)


def shuffle_rounds(batches: Sequence[pa.Table], side: Literal["audio", "text"], seed: int) -> Iterator[pa.Table]:
    """Give every round the audio, or the text, of another one, drawn from all rounds of all calls; each is given once.

    Args:
        batches: rows as `Preparer.prepare_batch` makes them; they stay in memory, the samples as int16.
        side: what is shuffled.
        seed: of the draw.

    Yields:
        The batches with that side's columns replaced; nothing else is another.

    Raises:
        TrainingDataError: there is one round only.
    """
    values, lengths = _SIDES[side]
    calls = [[_rounds_of(call, side) for call in split_calls(batch)] for batch in batches]
    rounds = [each for batch in calls for call in batch for each in call]
    if len(rounds) == 1:
        raise TrainingDataError(f"there is one round only, and no other to take its {side} from; give more calls")
    givers = iter(_other_rounds(len(rounds), seed))
    for batch, old in zip(batches, calls, strict=True):
        new = [[rounds[next(givers)] for _ in call] for call in old]
        yield _with_column(
            _with_column(batch, values, [_joined(call, values) for call in new]),
            lengths,
            [[len(each) for each in call] for call in new],
        )


def read_ceilings(corpus: str) -> dict[str, Any] | None:
    """How often the best possible readers of a simulated corpus are right; None for a corpus of another kind.

    Args:
        corpus: a folder or an s3:// address.

    Returns:
        `best_possible`, of all calls that could be drawn, and `best_reader_of` each split; accuracies by task and
        reader.

    Raises:
        TrainingDataError: the file holds something else.
        StorageError: the file cannot be read.
    """
    place = storage.join(storage.absolute(corpus), CEILINGS_NAME)
    text = storage.read_text(place)
    if text is None:
        return None
    try:
        content: dict[str, Any] = json.loads(text)
        for ceilings in (content["best_possible"], *content["best_reader_of"].values()):
            _check_ceilings(ceilings)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise TrainingDataError(
            f"{place} does not hold the ceilings of a simulated corpus; make the corpus again, or remove the file"
        ) from exc
    return content


def _prepare(rows: pa.Table, preparer: GuardedPreparer, report: Report) -> Iterator[pa.Table]:
    for start in range(0, len(rows), BATCH_CALLS):
        batch = preparer.prepare_batch(rows.slice(start, BATCH_CALLS))
        report("prepared", min(start + BATCH_CALLS, len(rows)))
        yield batch


def _evaluation(judged: pa.Table, split: LabelledSplit) -> Evaluation:
    is_scored = pc.equal(judged["status"], SCORED)
    rejected = dict(sorted(Counter(judged.filter(pc.invert(is_scored))["error_code"].to_pylist()).items()))
    scored = judged.filter(is_scored)
    if not len(scored):
        raise TrainingDataError(f"none of the {len(judged)} calls of {split.root} can be scored: {rejected}")
    if rejected:
        logger.warning("%d of %d calls cannot be judged: %s", len(judged) - len(scored), len(judged), rejected)
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
    """(R,) which round each one gets: one random circle through all, so that none gets its own."""
    circle = np.random.default_rng(seed).permutation(num_rounds)
    givers = np.empty_like(circle)
    givers[circle] = np.roll(circle, 1)
    return givers


def _rounds_of(call: CallRounds, side: Literal["audio", "text"]) -> list[npt.NDArray[Any]]:
    return list(call.samples if side == "audio" else call.tokens)


def _joined(rounds: Sequence[npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    dtype = INPUTS.field(name).type.value_type.to_pandas_dtype()
    return np.concatenate([np.zeros(0, dtype), *rounds])


def _with_column(batch: pa.Table, name: str, rows: Sequence[Any]) -> pa.Table:
    field = INPUTS.field(name)
    return batch.set_column(batch.schema.get_field_index(name), field, pa.array(rows, field.type))


def _check_ceilings(ceilings: Mapping[str, Mapping[str, float]]) -> None:
    for accuracy in chain.from_iterable(ceilings[task].values() for task in TASKS):
        float(accuracy)
