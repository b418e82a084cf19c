"""The scoring job with all data on a real S3 server: the results are the same as on the local disk."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pyarrow as pa
import pytest
import s3fs
from deltalake import DeltaTable

from msmtfn import storage
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.daily.publish import read_leads
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.scorer import Scorer, ScorerConfig
from msmtfn.leads.schema import parts_schema
from msmtfn.model.checkpoint import load_model
from tests.integration.job import DATE, run_job, write_short_calls

NUM_CALLS = 5


@pytest.fixture
def locations(tmp_path: Path, tiny_model: Path, s3: str) -> tuple[str, Path]:
    """Write the same manifest, recordings and model to S3 and to a local folder."""
    write_short_calls(tmp_path / "manifests", NUM_CALLS)
    remote = f"{s3}/{uuid.uuid4().hex}"
    filesystem = s3fs.S3FileSystem()
    filesystem.put(f"{tmp_path / 'manifests'}", f"{remote}/manifests", recursive=True)
    filesystem.put(f"{tiny_model}", f"{remote}/model", recursive=True)
    return remote, tmp_path


@pytest.mark.slow
def test_manifest_recordings_model_and_leads_may_all_be_on_s3(locations: tuple[str, Path], tiny_model: Path) -> None:
    remote, local = locations
    arguments = ["--date", DATE, "--manifests", f"{remote}/manifests", "--leads", f"{remote}/leads"]
    arguments += ["--model", f"{remote}/model", "--table", "delta"]
    job = run_job(*arguments)
    assert job.returncode == 0, job.stderr
    rows = read_leads(f"{remote}/leads", DATE).to_table(columns=["call_id", "lead_score"]).to_pylist()
    assert {row["call_id"]: row["lead_score"] for row in rows} == pytest.approx(
        local_scores(local, tiny_model), abs=1e-3
    )

    again = run_job(*arguments)
    assert again.returncode == 0, again.stderr
    assert "nothing was done" in again.stdout
    success = json.loads(s3fs.S3FileSystem().cat(f"{remote}/leads/date={DATE}/_SUCCESS"))
    assert success["calls"] == success["scored"] == NUM_CALLS
    left = s3fs.S3FileSystem().find(remote)
    assert not [name for name in left if "/_runs/" in name or "/leads.work/" in name]
    table = DeltaTable(f"{remote}/leads", storage_options=storage.object_store_options(remote))
    assert [uri.rpartition("/")[2] for uri in table.file_uris()] == success["files"]


def local_scores(folder: Path, model_folder: Path) -> dict[str, float]:
    """Score the same calls from the local disk, without Ray."""
    model = load_model(model_folder)
    manifest = open_manifest(str(folder / "manifests"), DATE)
    calls = pa.Table.from_batches(iter_calls(manifest))
    prepared = Preparer(PrepareConfig(), model.processor, manifest.root).prepare_batch(calls, ["row_id", "call_id"])
    scorer = Scorer(model.network, ScorerConfig())
    scored = scorer.score_batch(prepared, parts_schema([pa.field("call_id", pa.string())]))
    return dict(zip(scored["call_id"].to_pylist(), scored["lead_score"].to_pylist(), strict=True))
