"""Run a graph until every call is committed, although processes die and storage fails.

Ray Data drops a block whose worker dies repeatedly and continues; the graph leaves out a call that kills the process
that prepares it, or whose recording the storage does not deliver. Calls that are not committed are tried once more, one
at a time. A call that kills its process again is rejected, so that it does not affect other calls.
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
from msmtfn.daily.graph import PassFigures, RunPass, Task
from msmtfn.errors import BatchesFailedError, RejectCode, ScoringError, StorageError
from msmtfn.leads.schema import REJECTED
from msmtfn.rows import ROW_ID

logger = logging.getLogger(__name__)

DETAIL: Final = "the work on this call alone failed every time: its process died, or the log says more"


def run_until_complete(
    task: Task, run_pass: RunPass, max_crashed_share: float, report: Callable[[int, int], None]
) -> list[PassFigures]:
    """Run passes of a graph until every call of a task is committed or rejected; Ray must be running.

    A call whose worker died, or whose recording could not be fetched, is tried once more, alone. If its worker dies
    again, it is rejected; if storage still fails, the job fails.

    Args:
        task: the calls to read and the folder to write.
        run_pass: runs one pass of the graph.
        max_crashed_share: maximum share of the calls, and at least one call, that may be rejected.
        report: callback that receives the number of the task's calls done and the number rejected by this run.

    Returns:
        The figures of each pass.

    Raises:
        ScoringError: Ray Data gave up, or too many processes died for the calls to be the cause.
        StorageError: storage does not deliver recordings.
    """
    passes: list[PassFigures] = []
    left = task.folder.uncommitted_ids(task.num_calls)
    allowed = max(1, int(max_crashed_share * task.num_calls))
    for alone in (False, True):
        done_before = task.num_calls - len(left)

        def report_total(done: int, rejected: int, before: int = done_before) -> None:
            report(min(before + done, task.num_calls), rejected)

        figures = _run_pass(run_pass, task, report_total, alone=alone, num_left=len(left))
        passes += [figures] if figures is not None else []
        left = task.folder.uncommitted_ids(task.num_calls)
        if not len(left):
            return passes
        logger.warning("%s: %d calls are not done: their processes died, or storage failed", task.run_id, len(left))
        if figures is not None and figures.unavailable and (alone or len(left) > allowed):
            raise StorageError(
                f"storage did not deliver the recordings of {figures.unavailable} calls; check that it responds and "
                "accepts the credentials of every machine; the same command resumes where this one stopped"
            )
    if len(left) > allowed:
        causes = [figures.cause for figures in passes if figures.cause]
        cause = f" (the last failure: {causes[-1]})" if causes else ""
        raise ScoringError(
            f"the work on {len(left)} calls failed even alone, more than --max-crashed-share allows ({allowed}), so "
            f"the calls are not the cause{cause}; see the errors above; the same command resumes where this one stopped"
        )
    reject_crashed(task, left)
    return passes


def _run_pass(
    run_pass: RunPass, task: Task, report: Callable[[int, int], None], *, alone: bool, num_left: int
) -> PassFigures | None:
    """Run a pass and return its figures; None if batch after batch failed, so that the calls must be tried alone."""
    try:
        return run_pass(task, report, alone=alone, num_left=num_left)
    except BatchesFailedError as exc:
        logger.warning("%s: %s; the calls are tried one by one", task.run_id, exc)
        return None


def reject_crashed(task: Task, row_ids: npt.NDArray[np.int64]) -> None:
    """Write a reject into the parts for each of the given calls."""
    filesystem, calls = storage.arrow_filesystem_of(task.folder.calls)
    rows = pads.dataset(calls, filesystem=filesystem).to_table(filter=pc.field(ROW_ID).isin(pa.array(row_ids)))
    outcome = {
        "status": REJECTED,
        "error_code": str(RejectCode.WORKER_CRASHED),
        "error_detail": DETAIL,
        "model_version": task.model_version,
        "run_id": task.run_id,
        **dict.fromkeys(("scored_at", "transcribed_at"), dt.datetime.now(dt.UTC)),
    }
    passed = task.schema.names[: task.schema.names.index("status")]
    columns = [
        rows[field.name].cast(field.type)
        if field.name in passed
        else pa.array([outcome.get(field.name)] * len(rows), field.type)
        for field in task.schema
    ]
    storage.write_parquet(task.folder.crashed, pa.table(columns, schema=task.schema))
