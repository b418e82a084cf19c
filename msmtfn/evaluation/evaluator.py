"""Evaluation of a model on labelled calls: score them, and compare the predictions with the labels.

The calls are scored in this process, or by the daily job's graph on the whole cluster; both give the same table.

Shapes: C calls, K classes of a task.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn import storage
from msmtfn.errors import TrainingDataError
from msmtfn.evaluation.cluster import score_on_cluster
from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.evaluation.metrics import TaskMetrics, all_metrics
from msmtfn.evaluation.shuffling import Shuffle, shuffle_rounds
from msmtfn.features.prepare import PREPARED, PrepareConfig, Preparer
from msmtfn.features.sandbox import SandboxedPreparer
from msmtfn.inference.scorer import BATCH_CALLS, Scorer, ScorerConfig
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.schema import HEADS, HEADS_PREFIX, OUTCOME, SCORED, parts_schema
from msmtfn.model.checkpoint import Model
from msmtfn.rows import ROW_ID
from msmtfn.scoring.graph import ScoringConfig

logger = logging.getLogger(__name__)

Report = Callable[[str, int, int], None]
"""Receives a stage, `prepared` or `scored`, the number of calls that have passed it, rejects included, and of all."""

PASSED: Final = ("call_id", "intent", "language")
"""Columns of the labelled calls that pass through."""

PREDICTIONS: Final = pa.schema(
    [
        pa.field("call_id", pa.string()),
        pa.field("intent", pa.string()),
        *(OUTCOME.field(name) for name in (*TASKS, "intent_predicted", "prediction_set")),
        *HEADS,
    ]
)
"""One row per call: its label, its calibrated probabilities in each task, the most probable of the five intents, its
prediction set, and the probabilities of the heads as they are."""


@dataclass(frozen=True)
class Evaluation:
    """Labelled calls with a model's predictions.

    Attributes:
        root: root folder of the manifests that the calls come from.
        calls: one row per call, in the order of the manifests: its row id, id, label and language, and the columns
            `leads.schema.OUTCOME`, which hold the predictions or the reason of the reject, and `leads.schema.HEADS`.
    """

    root: str
    calls: pa.Table

    @cached_property
    def scored(self) -> pa.Table:
        """The calls that were scored, in order."""
        return self.calls.filter(pc.equal(self.calls["status"], SCORED))

    @property
    def call_ids(self) -> list[str]:
        """Ids of the calls that were scored."""
        ids: list[str] = self.scored["call_id"].to_pylist()
        return ids

    @property
    def intents(self) -> npt.NDArray[np.int64]:
        """(C,) index in `INTENTS` of the label of each scored call."""
        return np.array([INTENTS.index(intent) for intent in self.scored["intent"].to_pylist()], dtype=np.int64)

    @property
    def probabilities(self) -> dict[str, npt.NDArray[np.float32]]:
        """(C, K) calibrated probabilities of the scored calls, by task."""
        return self._arrays("")

    @property
    def heads(self) -> dict[str, npt.NDArray[np.float32]]:
        """(C, K) probabilities of the scored calls before calibration, as the head of each task gives them."""
        return self._arrays(HEADS_PREFIX)

    @property
    def rejected(self) -> dict[str, int]:
        """Number of calls that could not be prepared or scored, by reason (`errors.RejectCode`)."""
        rejects = self.calls.filter(pc.not_equal(self.calls["status"], SCORED))
        return dict(sorted(Counter(rejects["error_code"].to_pylist()).items()))

    def metrics(self) -> dict[str, TaskMetrics]:
        """Compute the metrics of each task on the calls that were scored.

        Raises:
            TrainingDataError: no call was scored.
        """
        self._check_scored()
        return all_metrics(self.probabilities, self.intents)

    def head_metrics(self) -> dict[str, TaskMetrics]:
        """Compute the same metrics of the heads as they are, before calibration.

        Raises:
            TrainingDataError: no call was scored.
        """
        self._check_scored()
        return all_metrics(self.heads, self.intents)

    def as_table(self) -> pa.Table:
        """Return the calls that were scored as rows of `PREDICTIONS`."""
        return self.scored.select(PREDICTIONS.names).cast(PREDICTIONS).combine_chunks()

    def _check_scored(self) -> None:
        if not len(self.scored):
            raise TrainingDataError(
                f"none of the {len(self.calls)} calls of {self.root} can be scored: {self.rejected}"
            )

    def _arrays(self, prefix: str) -> dict[str, npt.NDArray[np.float32]]:
        columns = {task: self.scored[f"{prefix}{task}"] for task in TASKS}
        return {
            task: np.stack([pc.struct_field(columns[task], k).to_numpy() for k in range(len(classes))], axis=1)
            for task, classes in TASKS.items()
        }


def evaluate_calls(
    model: Model,
    split: LabelledSplit,
    prepare: PrepareConfig,
    scorer: ScorerConfig,
    *,
    work: str | None = None,
    shuffle: Shuffle = "none",
    seed: int = 0,
    report: Report = lambda _stage, _done, _all: None,
) -> Evaluation:
    """Score labelled calls, in this process or on the cluster.

    In this process, `BATCH_CALLS` are in memory at once, or all of them if a modality is shuffled.

    Args:
        model: the model to evaluate; it is not changed.
        split: the labelled calls.
        prepare: how recordings are turned into the network's inputs.
        scorer: how the network is run; evidence is never computed.
        work: folder for work in progress on the cluster, of its own for each split and model; Ray must be running. None
            scores in this process.
        shuffle: the modality of which every round receives that of another round of any call. The accuracy that
            remains comes from the other modality and from the number of rounds. In this process only.
        seed: seed of the shuffling.
        report: receives the progress.

    Raises:
        JobError: the calls cannot be scored; on the cluster, calling this again resumes where it stopped.
        TrainingDataError: there is no other round to shuffle with.
        ValueError: a modality is to be shuffled on the cluster.
    """
    if work is not None and shuffle != "none":
        raise ValueError(f"shuffle is {shuffle!r} and work is {work!r}; shuffling takes all rounds in this process")
    rows = split.rows.set_column(0, ROW_ID, pa.array(np.arange(len(split.rows))))
    parts = parts_schema(rows.schema.field(name) for name in PASSED)
    schema, scorer = pa.schema([*parts, *HEADS]), replace(scorer, evidence=False)
    root = storage.absolute(split.root)
    if work is None:
        preparer = Preparer(prepare, model.processor, root)
        calls = _score_in_process(rows, schema, model, preparer, scorer, shuffle, seed, report)
    else:
        config = ScoringConfig(prepare=prepare, scorer=scorer)

        def report_scored(done: int) -> None:
            report("scored", done, len(rows))

        calls = score_on_cluster(rows, schema, model, config, root, work, report_scored).sort_by(ROW_ID)
    evaluation = Evaluation(split.root, calls)
    if rejected := evaluation.rejected:
        logger.warning("%d of %d calls cannot be evaluated: %s", sum(rejected.values()), len(calls), rejected)
    return evaluation


def _score_in_process(
    rows: pa.Table,
    schema: pa.Schema,
    model: Model,
    preparer: Preparer,
    scorer: ScorerConfig,
    shuffle: Shuffle,
    seed: int,
    report: Report,
) -> pa.Table:
    sandboxed = SandboxedPreparer(preparer, preparer.config.guard, [ROW_ID, *PASSED], PREPARED)
    batches = _prepare(rows, sandboxed, report)
    if shuffle != "none":
        batches = shuffle_rounds(list(batches), shuffle, seed)
    network_scorer = Scorer(model.network, scorer, calibration=model.calibration)
    scored: list[pa.Table] = []
    for batch in batches:
        scored.append(network_scorer.score_batch(batch, schema))
        report("scored", sum(map(len, scored)), len(rows))
    return pa.concat_tables(scored)


def _prepare(rows: pa.Table, preparer: SandboxedPreparer, report: Report) -> Iterator[pa.Table]:
    for start in range(0, len(rows), BATCH_CALLS):
        batch = preparer.prepare_batch(rows.slice(start, BATCH_CALLS))
        report("prepared", min(start + BATCH_CALLS, len(rows)), len(rows))
        yield batch
