"""The fast ways of the network give the plain way's leads: whole jobs, on real recordings and the demo's day."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from msmtfn.calls.manifest import TURN
from msmtfn.corpora import demo_model
from msmtfn.corpora.demo import write_demo_day
from msmtfn.daily.publish import read_leads
from msmtfn.labels import TASKS
from msmtfn.model.runtime.int8 import int8_matmul_is_exact
from tests.integration.job import DATE, run_job, write_manifest


def leads_of(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """The leads of a job, ordered by call."""
    job = run_job("--date", DATE, "--leads", folder, "--max-rejected-share", 1, *arguments)
    assert job.returncode == 0, job.stderr
    rows: list[dict[str, Any]] = read_leads(str(folder), DATE).to_table().sort_by("call_id").to_pylist()
    return rows


def largest_difference(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> float:
    """Of the probabilities of the calls that are scored, which must be the same ones."""
    assert [(row["call_id"], row["error_code"]) for row in some] == [
        (row["call_id"], row["error_code"]) for row in others
    ]
    one, other = (
        np.array(
            [[p for task in TASKS for p in row[task].values()] for row in rows if row["status"] == "scored"], float
        )
        for rows in (some, others)
    )
    assert len(one)
    return float(np.abs(one - other).max())


@pytest.mark.slow
def test_the_leads_of_real_recordings_are_those_of_the_plain_way(
    recordings: Path, tiny_model: Path, tmp_path: Path, ray_address: str
) -> None:
    turns = json.loads((recordings / "auto_repairs_40.turns.json").read_text())
    rows = [
        {"call_id": path.stem, "uri": path.name, "turns": turns if path.stem == "auto_repairs_40" else None}
        for path in sorted(recordings.iterdir())
        if path.suffix in {".wav", ".flac"}
    ]
    schema = pa.schema([("call_id", pa.string()), ("uri", pa.string()), ("turns", pa.list_(TURN))])
    manifests = write_manifest(tmp_path / "manifests", rows, schema)
    for row in rows:
        shutil.copy(recordings / str(row["uri"]), manifests)
    options = ("--manifests", manifests, "--model", tiny_model)
    fast = leads_of(tmp_path / "fast", *options)
    plain = leads_of(tmp_path / "plain", *options, "--encoding", "padded")
    assert len(fast) == len(rows)
    assert largest_difference(fast, plain) < 1e-4


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_leads_of_the_demo_are_those_of_the_plain_way_and_in_fewer_bits_nearly(tmp_path: Path) -> None:
    manifests = write_demo_day(tmp_path, dt.date.fromisoformat(str(DATE)), num_calls=200, seed=7)
    options = ("--manifests", manifests, "--model", demo_model())
    fast = leads_of(tmp_path / "fast", *options)
    plain = leads_of(tmp_path / "plain", *options, "--encoding", "padded")
    assert largest_difference(fast, plain) < 1e-4
    assert [row["lead_rank"] for row in fast] == [row["lead_rank"] for row in plain]
    for precision in ("bf16", "int8") if int8_matmul_is_exact() else ("bf16",):
        rough = leads_of(tmp_path / precision, *options, "--precision", precision, "--device", "cpu")
        assert largest_difference(fast, rough) <= 0.02
        same = [one["intent_predicted"] == other["intent_predicted"] for one, other in zip(fast, rough, strict=True)]
        assert np.mean(same) >= 0.995
