"""The optimised forward passes give the leads of the reference: whole jobs on real recordings and the demo's day."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from msmtfn.calls.columns import TURN
from msmtfn.corpora import demo_model
from msmtfn.corpora.demo import write_demo_day
from msmtfn.daily.publish import read_leads
from msmtfn.labels import TASKS
from msmtfn.model.runtime.int8 import int8_matmul_is_exact
from tests.integration.job import DATE, run_job, write_manifest


def leads_of(folder: Path, *arguments: object) -> list[dict[str, Any]]:
    """Run a job and return its leads, sorted by call."""
    job = run_job("--date", DATE, "--leads", folder, "--max-rejected-share", 1, *arguments)
    assert job.returncode == 0, job.stderr
    rows: list[dict[str, Any]] = read_leads(str(folder), DATE).to_table().sort_by("call_id").to_pylist()
    return rows


def largest_difference(leads: list[dict[str, Any]], reference: list[dict[str, Any]]) -> float:
    """Check that the same calls are scored; return the largest difference between their probabilities."""
    assert [(row["call_id"], row["error_code"]) for row in leads] == [
        (row["call_id"], row["error_code"]) for row in reference
    ]
    probabilities, expected = (
        np.array(
            [[p for task in TASKS for p in row[task].values()] for row in rows if row["status"] == "scored"], float
        )
        for rows in (leads, reference)
    )
    assert len(expected)
    return float(np.abs(probabilities - expected).max())


@pytest.mark.slow
@pytest.mark.long
def test_unpadded_encoding_gives_the_leads_of_padded_encoding_on_real_recordings(
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
    unpadded = leads_of(tmp_path / "unpadded", *options)
    padded = leads_of(tmp_path / "padded", *options, "--encoding", "padded")
    assert len(unpadded) == len(rows)
    assert largest_difference(unpadded, padded) < 1e-4


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_demo_has_the_leads_of_padded_encoding_and_nearly_the_same_in_lower_precision(tmp_path: Path) -> None:
    manifests = write_demo_day(tmp_path, dt.date.fromisoformat(str(DATE)), num_calls=200, seed=7)
    options = ("--manifests", manifests, "--model", demo_model())
    unpadded = leads_of(tmp_path / "unpadded", *options)
    padded = leads_of(tmp_path / "padded", *options, "--encoding", "padded")
    assert largest_difference(unpadded, padded) < 1e-4
    assert [row["lead_rank"] for row in unpadded] == [row["lead_rank"] for row in padded]
    for precision in ("bf16", "int8") if int8_matmul_is_exact() else ("bf16",):
        low_precision = leads_of(tmp_path / precision, *options, "--precision", precision, "--device", "cpu")
        assert largest_difference(low_precision, unpadded) <= 0.02
        agreement = [
            row["intent_predicted"] == expected["intent_predicted"]
            for row, expected in zip(low_precision, unpadded, strict=True)
        ]
        assert np.mean(agreement) >= 0.995
