"""The calls that a pass of the graph left over, because a process died with them or storage failed.

The engine drops a block whose worker dies again and again, and goes on; the graph leaves out a call that kills the
process in which it is prepared, or whose recording storage does not give. What is not committed is tried once more, a
call at a time; what kills its process again is rejected then, so that such a call costs itself only.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn import storage
from msmtfn.errors import RejectCode, ScoringError, StorageError
from msmtfn.features.prepare import Preparer
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.leads.schema import REJECTED
from msmtfn.model.checkpoint import PackedNetwork
from msmtfn.rows import ROW_ID
from msmtfn.scoring.counter import RunFigures
from msmtfn.scoring.pipeline import PipelineConfig, ScoringTask, score_calls

logger = logging.getLogger(__name__)

CRASHED_PART: Final = "crashed.parquet"
DETAIL: Final = "the work on this call alone failed every time: its process died, or the log says more"
PENDING: Final = ".pending.parquet"


def score_until_complete(
    task: ScoringTask,
    preparer: Preparer,
    network: PackedNetwork,
    scorer: ScorerConfig,
    config: PipelineConfig,
    report: Callable[[int, int], None],
) -> list[RunFigures]:
    """Score what is not committed, so that every call is; Ray must be up.

    What its worker dies of, or storage does not give, is tried once more, alone. What its worker dies of again is
    rejected; where storage still fails, so does the job.

    Args:
        task: what to read and where to write.
        preparer: makes the network's inputs.
        network: to score with.
        scorer: how it is run.
        config: how the work is spread.
        report: told, every so often, how many of the task's calls are done, and how many of this run's rejected.

    Returns:
        What each pass has done.

    Raises:
        ScoringError: the engine gave up, or so many processes died that it is not the calls.
        StorageError: storage does not give recordings.
    """
    passes: list[RunFigures] = []
    left = left_over(task)
    allowed = max(1, int(config.max_crashed_share * task.num_calls))
    for alone in (False, True):
        done_before = task.num_calls - len(left)

        def tell(done: int, rejected: int, before: int = done_before) -> None:
            report(min(before + done, task.num_calls), rejected)

        figures = score_calls(task, preparer, network, scorer, config, tell, alone=alone, num_left=len(left))
        passes.append(figures)
        left = left_over(task)
        if not len(left):
            return passes
        logger.warning("%s: %d calls are left, whose processes or storage failed", task.run_id, len(left))
        if figures.unavailable and (alone or len(left) > allowed):
            raise StorageError(
                f"storage did not give the recordings of {figures.unavailable} calls; see that it answers, and takes "
                "the credentials of every machine; the same command goes on where it stopped"
            )
    if len(left) > allowed:
        raise ScoringError(
            f"the work on {len(left)} calls failed even alone, more than --max-crashed-share allows ({allowed}), so it "
            "is not the calls; see the errors above; the same command goes on where it stopped"
        )
    reject_crashed(task, left)
    return passes


def committed_ids(task: ScoringTask) -> npt.NDArray[np.int64]:
    """Row ids of the calls that are scored and committed, by the engine's notes; 8 MB a million calls."""
    filesystem, _ = storage.arrow_filesystem_of(task.checkpoint)
    notes = [file for file in storage.list_files(task.checkpoint, ".parquet") if not file.endswith(PENDING)]
    paths = [storage.arrow_filesystem_of(file)[1] for file in notes]
    schema = pa.schema([(ROW_ID, pa.int64())])
    dataset = pads.dataset(paths, schema=schema, filesystem=filesystem, format="parquet")
    ids = dataset.to_table(cache_metadata=False)[ROW_ID]
    committed: npt.NDArray[np.int64] = ids.to_numpy()
    return committed


def settle_commits(task: ScoringTask) -> None:
    """Finish the commits that a killed run was in the midst of.

    S3 has no rename: a note is committed by a copy and a deletion. Between the two it stands there as pending and as
    committed, and the engine would take the calls' part away as pending and leave them out as committed.
    """
    notes = set(storage.list_files(task.checkpoint, ".parquet"))
    for note in notes:
        if note.endswith(PENDING) and note.removesuffix(PENDING) + ".parquet" in notes:
            storage.delete(note)


def left_over(task: ScoringTask) -> npt.NDArray[np.int64]:
    """Row ids of the calls that are not committed."""
    return np.setdiff1d(np.arange(task.num_calls), committed_ids(task))


def forget_crashed(task: ScoringTask) -> None:
    """Drop the rejects that an earlier run wrote in the place of its left-over calls: they get another chance."""
    storage.delete(storage.join(task.parts, CRASHED_PART))


def reject_crashed(task: ScoringTask, row_ids: npt.NDArray[np.int64]) -> None:
    """Write a reject into the parts for each of the given calls."""
    filesystem, calls = storage.arrow_filesystem_of(task.calls)
    rows = pads.dataset(calls, filesystem=filesystem).to_table(filter=pc.field(ROW_ID).isin(pa.array(row_ids)))
    said = {
        "status": REJECTED,
        "error_code": str(RejectCode.WORKER_CRASHED),
        "error_detail": DETAIL,
        "model_version": task.model_version,
        "run_id": task.run_id,
        "scored_at": dt.datetime.now(dt.UTC),
    }
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.schema.names
        else pa.array([said.get(field.name)] * len(rows), field.type)
        for field in task.schema
    ]
    storage.write_parquet(storage.join(task.parts, CRASHED_PART), pa.table(columns, schema=task.schema))
