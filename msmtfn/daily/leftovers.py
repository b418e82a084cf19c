"""Retry the calls that a pass of the pipeline did not commit, because a process died or storage failed.

Ray Data drops a block whose worker dies repeatedly and continues; the pipeline skips a call that kills the process that
prepares it, or whose recording the storage does not deliver. Calls that are not committed are tried once more, one at a
time. A call that kills its process again is rejected, so that it does not affect other calls.
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
    """Score until every call of a task is committed; Ray must be running.

    A call whose worker died, or whose recording could not be fetched, is tried once more, alone. If its worker dies
    again, it is rejected; if storage still fails, the job fails.

    Args:
        task: the calls to read and the folders to write.
        preparer: prepares the network's inputs.
        network: the network to score with.
        scorer: options of the network.
        config: options of the pipeline.
        report: callback that receives the number of the task's calls done and the number rejected by this run.

    Returns:
        The figures of each pass.

    Raises:
        ScoringError: Ray Data gave up, or too many processes died for the calls to be the cause.
        StorageError: storage does not deliver recordings.
    """
    passes: list[RunFigures] = []
    left = left_over(task)
    allowed = max(1, int(config.max_crashed_share * task.num_calls))
    for alone in (False, True):
        done_before = task.num_calls - len(left)

        def report_total(done: int, rejected: int, before: int = done_before) -> None:
            report(min(before + done, task.num_calls), rejected)

        figures = score_calls(task, preparer, network, scorer, config, report_total, alone=alone, num_left=len(left))
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
    """Return the row ids of the committed calls, from Ray Data's checkpoint; 8 MB per million calls."""
    filesystem, _ = storage.arrow_filesystem_of(task.checkpoint)
    notes = [file for file in storage.list_files(task.checkpoint, ".parquet") if not file.endswith(PENDING)]
    paths = [storage.arrow_filesystem_of(file)[1] for file in notes]
    schema = pa.schema([(ROW_ID, pa.int64())])
    dataset = pads.dataset(paths, schema=schema, filesystem=filesystem, format="parquet")
    ids = dataset.to_table(cache_metadata=False)[ROW_ID]
    committed: npt.NDArray[np.int64] = ids.to_numpy()
    return committed


def settle_commits(task: ScoringTask) -> None:
    """Finish the commits that a killed run had begun.

    S3 has no rename, so Ray Data commits a checkpoint file by a copy and a deletion. Between them, the file is both
    pending and committed: Ray Data would delete the calls' part as pending, and skip the calls as committed.
    """
    notes = set(storage.list_files(task.checkpoint, ".parquet"))
    for note in notes:
        if note.endswith(PENDING) and note.removesuffix(PENDING) + ".parquet" in notes:
            storage.delete(note)


def left_over(task: ScoringTask) -> npt.NDArray[np.int64]:
    """Return the row ids of the calls that are not committed."""
    return np.setdiff1d(np.arange(task.num_calls), committed_ids(task))


def forget_crashed(task: ScoringTask) -> None:
    """Delete the rejects that an earlier run wrote for crashed calls, so that these calls are tried again."""
    storage.delete(storage.join(task.parts, CRASHED_PART))


def reject_crashed(task: ScoringTask, row_ids: npt.NDArray[np.int64]) -> None:
    """Write a reject into the parts for each of the given calls."""
    filesystem, calls = storage.arrow_filesystem_of(task.calls)
    rows = pads.dataset(calls, filesystem=filesystem).to_table(filter=pc.field(ROW_ID).isin(pa.array(row_ids)))
    outcome = {
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
        else pa.array([outcome.get(field.name)] * len(rows), field.type)
        for field in task.schema
    ]
    storage.write_parquet(storage.join(task.parts, CRASHED_PART), pa.table(columns, schema=task.schema))
