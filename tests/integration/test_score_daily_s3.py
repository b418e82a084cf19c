"""The same job where everything stands on S3, against a real server: the same results as on local disk."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
import s3fs

from msmtfn.leads.publish import read_leads
from tests.integration.job import DATE, run_job, write_short_calls

NUM_CALLS = 5


@pytest.fixture
def places(tmp_path: Path, tiny_model: Path, s3: str) -> tuple[str, Path]:
    """The same manifest, recordings and model: a place on S3 and a local folder."""
    write_short_calls(tmp_path / "manifests", NUM_CALLS)
    place = f"{s3}/{uuid.uuid4().hex}"
    filesystem = s3fs.S3FileSystem()
    filesystem.put(f"{tmp_path / 'manifests'}", f"{place}/manifests", recursive=True)
    filesystem.put(f"{tiny_model}", f"{place}/model", recursive=True)
    return place, tmp_path


def test_manifest_recordings_model_and_leads_may_all_stand_on_s3(
    places: tuple[str, Path], tiny_model: Path, ray_address: str
) -> None:
    remote, local = places
    arguments = ["--date", DATE, "--manifests", f"{remote}/manifests", "--leads", f"{remote}/leads"]
    job = run_job(*arguments, "--model", f"{remote}/model")
    assert job.returncode == 0, job.stderr
    beside = run_job(
        *("--date", DATE, "--manifests", local / "manifests", "--leads", local / "leads", "--model", tiny_model),
        RAY_ADDRESS=ray_address,
    )
    assert beside.returncode == 0, beside.stderr
    assert values_of(f"{remote}/leads") == pytest.approx(values_of(str(local / "leads")), abs=1e-5)

    again = run_job(*arguments, "--model", f"{remote}/model")
    assert again.returncode == 0, again.stderr
    assert "nothing was done" in again.stdout
    success = json.loads(s3fs.S3FileSystem().cat(f"{remote}/leads/date={DATE}/_SUCCESS"))
    assert success["calls"] == success["scored"] == NUM_CALLS
    assert not [name for name in s3fs.S3FileSystem().find(f"{remote}/leads") if "/_runs/" in name]


def values_of(leads: str) -> dict[str, float]:
    """Each call's score."""
    rows: list[dict[str, Any]] = read_leads(leads, DATE).to_table(columns=["call_id", "lead_score"]).to_pylist()
    return {row["call_id"]: row["lead_score"] for row in rows}
