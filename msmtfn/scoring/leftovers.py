"""The calls that a pass of the graph left over, because their workers died with them.

The engine drops a block whose worker dies again and again, and goes on. What it has not committed is tried once more, a
call at a time; what is left then is rejected, so that such a call costs itself only.
"""

from __future__ import annotations

import datetime as dt
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from msmtfn import storage
from msmtfn.errors import RejectCode
from msmtfn.leads.schema import REJECTED, ROW_ID
from msmtfn.scoring.pipeline import ScoringTask

CRASHED_PART: Final = "crashed.parquet"
DETAIL: Final = "the process that worked on this call alone died every time"


def committed_ids(task: ScoringTask) -> npt.NDArray[np.int64]:
    """Row ids of the calls that are scored and committed, by the engine's notes; 8 MB a million calls."""
    ids = [np.zeros(0, np.int64)]
    for file in storage.list_files(task.checkpoint, ".parquet"):
        if not file.endswith(".pending.parquet"):
            with storage.open_for_reading(file) as handle:
                ids.append(pq.read_table(handle, columns=[ROW_ID])[ROW_ID].to_numpy())
    return np.concatenate(ids)


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
