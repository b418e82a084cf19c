"""Select the rejects of a published day that could succeed now, and carry the rest of the day over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn import storage
from msmtfn.calls.manifest import ROW_ERROR
from msmtfn.daily.publish import ROWS_PER_FILE
from msmtfn.daily.success import Success
from msmtfn.errors import RejectCode
from msmtfn.rows import ROW_ID

RETRYABLE: Final = (
    RejectCode.AUDIO_NOT_FOUND,
    RejectCode.AUDIO_TIMEOUT,
    RejectCode.WORKER_CRASHED,
    RejectCode.ASR_TIMEOUT,
)
"""Reasons that may be temporary: a late recording, slow storage, a failed machine, a recogniser that hung."""

_IS_RETRYABLE: Final = pc.is_in(pc.field("error_code"), pa.array([str(code) for code in RETRYABLE]))


def count_retryable(success: Success) -> int:
    """Count the rejects of a published day that could succeed now."""
    return sum(success.rejected_by_reason.get(str(code), 0) for code in RETRYABLE)


def rows_to_retry(batches: Iterable[pa.RecordBatch], leads: pads.Dataset) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a manifest that are to be scored again, renumbered from 0.

    Args:
        batches: batches of the manifest.
        leads: the published leads of the day.
    """
    call_ids = leads.to_table(columns=["call_id"], filter=_IS_RETRYABLE)["call_id"].combine_chunks()
    next_id = 0
    for batch in batches:
        # Of rows with the same id only the first was fetched; the others were rejected as `bad_row` and remain so.
        wanted = pc.and_(pc.is_in(batch.column("call_id"), call_ids), pc.is_null(batch.column(ROW_ERROR)))
        chosen = batch.filter(wanted)
        ids = pa.array(np.arange(next_id, next_id + len(chosen)))
        next_id += len(chosen)
        yield chosen.set_column(chosen.schema.get_field_index(ROW_ID), chosen.schema.field(ROW_ID), ids)


def carry_over(
    leads: pads.Dataset, parts: str, schema: pa.Schema, first_id: int, rows_per_file: int | None = None
) -> None:
    """Write all other calls of a published day to a run's parts, numbered from `first_id` on.

    A column that the day lacks, because an older version has published it, is null in its calls.
    """
    others = leads.to_batches(filter=~_IS_RETRYABLE, batch_size=rows_per_file or ROWS_PER_FILE)
    for number, batch in enumerate(batch for batch in others if len(batch)):
        ids = pa.array(np.arange(first_id, first_id + len(batch)))
        first_id += len(batch)
        rows = pa.Table.from_batches([batch]).append_column(schema.field(ROW_ID), ids)
        # Leads of an older version lack columns.
        columns = [
            rows[field.name].cast(field.type) if field.name in rows.schema.names else pa.nulls(len(rows), field.type)
            for field in schema
        ]
        carried = pa.table(columns, schema=schema)
        storage.write_parquet(storage.join(parts, f"carried-{number:05d}.parquet"), carried)
