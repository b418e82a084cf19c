"""Columns that pass through a whole job: their types and values in the leads are those of the manifest."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.job import DATE, run_job, write_short_calls

TYPES: dict[str, tuple[Any, pa.DataType]] = {
    "consent_until": (dt.datetime(9999, 12, 31), pa.timestamp("us")),
    "nanoseconds": (dt.datetime(2026, 3, 2, 1, 2, 3, 4), pa.timestamp("ns")),
    "zoned": (dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC), pa.timestamp("ms", "UTC")),
    "price": (decimal.Decimal("12.30"), pa.decimal128(9, 2)),
    "huge": (decimal.Decimal(10**50), pa.decimal256(60, 0)),
    "half": (0.5, pa.float16()),
    "waited": (dt.timedelta(seconds=3), pa.duration("us")),
    "at": (dt.time(9, 30), pa.time64("us")),
    "tags": ([["a"], []], pa.list_(pa.list_(pa.string()))),
    "long": (["x"], pa.large_list(pa.large_string())),
    "pair": ([1, 2], pa.list_(pa.int8(), 2)),
    "scores": ([("a", 1)], pa.map_(pa.string(), pa.int32())),
    "crm": ({"id": 2**63, "when": dt.date(2026, 1, 1)}, pa.struct([("id", pa.uint64()), ("when", pa.date32())])),
    "raw": (b"\xff\x00", pa.binary()),
    "digest": (b"1234", pa.binary(4)),
    "nothing": (None, pa.null()),
}


@pytest.mark.slow
@pytest.mark.long
def test_every_type_passes_through_a_job_unchanged(tmp_path: Path, tiny_model: Path) -> None:
    manifests = Path(write_short_calls(tmp_path / "manifests", 2))
    (file,) = (manifests / f"date={DATE}").glob("*.parquet")
    table = pq.read_table(file, partitioning=None)
    for name, (value, kind) in TYPES.items():
        table = table.append_column(name, pa.array([value, None], kind))
    part = file.with_name("hour=10") / "part.parquet"
    part.parent.mkdir()
    pq.write_table(table.append_column("Status", pa.array(["open", "done"])), part)
    file.unlink()
    job = run_job("--date", DATE, "--manifests", manifests, "--leads", tmp_path / "leads", "--model", tiny_model)
    assert job.returncode == 0, job.stderr
    (leads,) = (tmp_path / "leads" / f"date={DATE}").glob("*.parquet")
    published = pq.read_table(leads, partitioning=None).sort_by("call_id")
    assert published["manifest_Status"].to_pylist() == ["open", "done"]
    assert {name: published.schema.field(name).type for name in TYPES} == {
        name: kind for name, (_, kind) in TYPES.items()
    }
    assert {name: published[name].to_pylist() for name in TYPES} == {
        name: [value, None] for name, (value, _) in TYPES.items()
    }
