"""Parts of a run as scoring writes them, made up, for the tests of what is done with them."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from msmtfn import storage
from msmtfn.daily.publish import PARTS_FOLDER, publish_day
from msmtfn.daily.success import Success
from msmtfn.daily.work import default_work, run_folder
from msmtfn.leads.schema import REJECTED, SCORED, parts_schema

DATE = dt.date(2026, 3, 2)
SCHEMA = parts_schema([pa.field("call_id", pa.string())])
RECORD = Success(
    date=DATE,
    run_id="run-1",
    model="tiny",
    model_version="v1",
    calls_resumed=0,
    seconds=12.5,
    published_at="2026-03-03T04:05:06+00:00",
    versions={"msmtfn": "0.2.0"},
)
EMPTY = replace(RECORD, publication="0123abcd")
"""The record of a published day without a call."""
Row = dict[str, Any]


def scored(row_id: int, lead_score: float, **columns: Any) -> Row:
    """A scored call, a minute long; its id is `c<row_id>` unless it is given."""
    row = {"row_id": row_id, "call_id": f"c{row_id}", "status": SCORED, "lead_score": lead_score}
    return {**row, "duration_sec": 60.0, "num_rounds": 2, "intent_predicted": "A", **columns}


def rejected(row_id: int, error_code: str = "bad_row", **columns: Any) -> Row:
    """A call that could not be scored."""
    row = {"row_id": row_id, "call_id": f"c{row_id}", "status": REJECTED, "error_code": error_code}
    return {**row, "error_detail": "why", **columns}


def write_parts(leads: str, run_id: str, parts: Sequence[Sequence[Row]], schema: pa.Schema = SCHEMA) -> str:
    """Write the parts of a run; its folder."""
    run = run_folder(default_work(leads), run_id)
    folder = storage.join(run, PARTS_FOLDER)
    storage.make_folder(folder)
    for number, rows in enumerate(parts):
        named = [{"run_id": run_id, **row} for row in rows]
        storage.write_parquet(storage.join(folder, f"{number}.parquet"), pa.Table.from_pylist(named, schema=schema))
    return run


def publish(
    leads: str,
    parts: Sequence[Sequence[Row]],
    run_id: str = "run-1",
    num_calls: int | None = None,
    schema: pa.Schema = SCHEMA,
) -> Success:
    """Write the parts of a run and publish the day from them."""
    run = write_parts(leads, run_id, parts, schema)
    expected = sum(map(len, parts)) if num_calls is None else num_calls
    return publish_day(leads, DATE, run, schema, expected, replace(RECORD, run_id=run_id))


def write_success(leads: str | Path, date: dt.date = DATE, **changes: Any) -> None:
    """Write the `_SUCCESS` of a day without a file, as somebody who changes fields of its JSON."""
    content = {**EMPTY.as_dict(), "date": date.isoformat(), **changes}
    storage.write_text(f"{leads}/date={date}/_SUCCESS", json.dumps(content))
