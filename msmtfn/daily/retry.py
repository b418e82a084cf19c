"""The rejects of a published day that could succeed now, and how the rest of the day is carried over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn import storage
from msmtfn.calls.manifest import ROW_ERROR
from msmtfn.daily.publish import ROWS_PER_FILE
from msmtfn.errors import RejectCode
from msmtfn.rows import ROW_ID
from msmtfn.scoring.pipeline import ScoringTask

RETRYABLE: Final = (RejectCode.AUDIO_NOT_FOUND, RejectCode.AUDIO_TIMEOUT, RejectCode.WORKER_CRASHED)
"""A recording that was late, a storage that was slow, a machine that failed; what is wrong with a recording stays."""

_IS_RETRYABLE: Final = pc.is_in(pc.field("error_code"), pa.array([str(code) for code in RETRYABLE]))


def count_retryable(success: Mapping[str, Any]) -> int:
    """Rejects of a day, by its `_SUCCESS`, that could succeed now."""
    return sum(success["rejected_by_reason"].get(str(code), 0) for code in RETRYABLE)


def rows_to_retry(batches: Iterable[pa.RecordBatch], leads: pads.Dataset) -> Iterator[pa.RecordBatch]:
    """Of a manifest's rows those to be scored again, numbered anew from 0.

    Args:
        batches: of the manifest.
        leads: the published day.
    """
    call_ids = leads.to_table(columns=["call_id"], filter=_IS_RETRYABLE)["call_id"].combine_chunks()
    next_id = 0
    for batch in batches:
        # Of rows with one id the first was looked for; the others are `bad_row` and stay so.
        wanted = pc.and_(pc.is_in(batch.column("call_id"), call_ids), pc.is_null(batch.column(ROW_ERROR)))
        chosen = batch.filter(wanted)
        ids = pa.array(np.arange(next_id, next_id + len(chosen)))
        next_id += len(chosen)
        yield chosen.set_column(chosen.schema.get_field_index(ROW_ID), chosen.schema.field(ROW_ID), ids)


def carry_over(leads: pads.Dataset, task: ScoringTask, first_id: int) -> None:
    """Write all other calls of a published day to a run's parts, numbered from `first_id` on."""
    others = leads.to_batches(filter=~_IS_RETRYABLE, batch_size=ROWS_PER_FILE)
    for number, batch in enumerate(batch for batch in others if len(batch)):
        ids = pa.array(np.arange(first_id, first_id + len(batch)))
        first_id += len(batch)
        rows = pa.Table.from_batches([batch]).append_column(task.schema.field(ROW_ID), ids)
        carried = rows.select(task.schema.names).cast(task.schema)
        storage.write_parquet(storage.join(task.parts, f"carried-{number:05d}.parquet"), carried)
