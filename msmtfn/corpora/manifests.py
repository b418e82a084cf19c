"""Write a day's manifest in the form that `calls.manifest` reads."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from msmtfn.calls.columns import TURN

CALLS: Final = pa.schema(
    [
        ("call_id", pa.string()),
        ("uri", pa.string()),
        ("started_at", pa.timestamp("us", tz="UTC")),
        ("domain", pa.string()),
        ("language", pa.string()),
        ("agent_id", pa.string()),
        ("customer_id", pa.string()),
        ("agent_channel", pa.int64()),
        ("turns", pa.list_(TURN)),
        ("intent", pa.string()),
    ]
)
"""Columns of a manifest (design, section 3)."""

OPENS_AT_UTC: Final = datetime.time(hour=1, tzinfo=datetime.UTC)  # 9 a.m. in China
OPEN_SEC: Final = 9 * 3600


def write_manifest(root: Path, date: datetime.date, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write a day's calls to `<root>/date=<date>/calls.parquet`."""
    folder = root / f"date={date.isoformat()}"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / "calls.parquet")


def opening_time(date: datetime.date) -> datetime.datetime:
    """Return the time at which the call centre opens on a day."""
    return datetime.datetime.combine(date, OPENS_AT_UTC)
