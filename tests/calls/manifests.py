"""Write manifests of one day and read them back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from msmtfn import storage
from msmtfn.calls.manifest import Manifest, iter_calls, open_manifest

DATE = dt.date(2026, 3, 2)
SECRET = "my card number is four two four two"
Row = dict[str, Any]


def day_of(root: Path | str) -> str:
    return f"{root}/date=2026-03-02"


def write(root: Path | str, table: pa.Table | Mapping[str, Any], file: str = "calls.parquet") -> str:
    """Write one file of the day's manifest and return its address."""
    location = f"{day_of(root)}/{file}"
    storage.make_folder(day_of(root))
    storage.write_parquet(location, table if isinstance(table, pa.Table) else pa.table(dict(table)))
    return location


def calls(number: int, start: int = 0, **columns: Any) -> dict[str, Any]:
    """Return the required columns of some calls, and the given columns."""
    ids = [f"c{index}" for index in range(start, start + number)]
    return {"call_id": ids, "uri": [f"{call_id}.wav" for call_id in ids], **columns}


def rows_of(manifest: Manifest) -> list[Row]:
    return [row for batch in iter_calls(manifest) for row in batch.to_pylist()]


def read(root: Path | str, **options: Any) -> list[Row]:
    return rows_of(open_manifest(str(root), DATE, **options))


def column(root: Path | str, name: str) -> list[Any]:
    return [row[name] for row in read(root)]


def turns_read(root: Path, turns: pa.Array) -> Any:
    write(root, calls(len(turns), turns=turns))
    return column(root, "turns")


def turn(
    speaker: str | None = "agent", start_sec: float | None = 0.0, end_sec: float | None = 1.0, text: str | None = "a"
) -> Row:
    return {"speaker": speaker, "start_sec": start_sec, "end_sec": end_sec, "text": text}


def fingerprint(root: Path | str) -> str:
    return open_manifest(str(root), DATE).fingerprint
