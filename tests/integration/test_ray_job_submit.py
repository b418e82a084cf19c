"""`ray job submit` as typed by an operator, to a two-node cluster that requires a token."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from msmtfn.corpora.simulation.corpus import write_corpus
from msmtfn.corpora.simulation.plan import SimulationConfig
from msmtfn.model.checkpoint import is_trained
from tests.faults.ray_cluster import ADDRESSES
from tests.integration.job import DATE, read_day, write_short_calls
from tests.integration.ray_cluster import Submitter, run_ray_cluster

pytestmark = [pytest.mark.slow, pytest.mark.long]

NUM_CALLS = 60
LAST_LINES = 5


@pytest.fixture(scope="module")
def cluster() -> Iterator[Submitter]:
    with run_ray_cluster(cpus_per_node=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_short_calls(tmp_path_factory.mktemp("day") / "manifests", NUM_CALLS)


def score_command(date: dt.date, manifests: Path, leads: Path, model: Path) -> list[object]:
    return [
        *("python", "jobs/score_daily.py", "--date", date, "--manifests", manifests),
        *("--leads", leads, "--model", model),
    ]


def prepared_by_address(log: str, name: str) -> dict[str, int]:
    """Parse the number of calls that every node has prepared from the log."""
    (line,) = re.findall(rf"{name}: prepared on 2 nodes: (.*)", log)
    return {address: int(calls) for address, calls in re.findall(r"(\S+) \(node [0-9a-f]{8}\) (\d+) calls", line)}


def last_lines(log: str) -> str:
    return "\n".join(log.splitlines()[-LAST_LINES:])


def test_a_day_is_scored_and_both_nodes_prepare_calls(
    cluster: Submitter, manifests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    code, log = cluster.submit(*score_command(DATE, manifests, tmp_path / "leads", tiny_model))
    assert code == 0, log
    success, rows = read_day(tmp_path / "leads")
    assert (success["calls"], success["scored"]) == (NUM_CALLS, NUM_CALLS)
    assert sorted(row["call_id"] for row in rows) == [f"call-{number:03d}" for number in range(NUM_CALLS)]
    assert f"{NUM_CALLS} of {NUM_CALLS} calls done (100 %)" in log
    prepared = prepared_by_address(log, success["run_id"])
    assert sorted(prepared) == sorted(ADDRESSES)
    assert sum(prepared.values()) == NUM_CALLS


def test_a_day_without_a_manifest_fails_the_job_and_the_log_ends_with_the_reason(
    cluster: Submitter, manifests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    code, log = cluster.submit(*score_command(DATE - dt.timedelta(days=1), manifests, tmp_path / "leads", tiny_model))
    assert code == 1, log
    assert "there is no manifest for 2026-11-20" in last_lines(log)


def test_a_job_with_a_wrong_token_is_rejected(cluster: Submitter, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    code, log = cluster.submit("python", "jobs/score_daily.py", "--demo", RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert code == 1, log
    assert "AuthenticationError" in log


def test_two_workers_train_on_calls_that_both_nodes_prepared(cluster: Submitter, tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    config = SimulationConfig(calls=30, split=(24, 4, 2), brief=True, seed=7)
    write_corpus(tmp_path / "corpus", config, num_workers=1, report=lambda _: None)
    model = tmp_path / "model"
    code, log = cluster.submit(
        *("python", "jobs/train.py", "small", "--corpus", tmp_path / "corpus", "--out", model),
        *("--max-epochs", 2, "--num-workers", 2, "--prosody-epochs", 1),
    )
    assert code == 0, log
    assert is_trained(model)
    assert [json.loads(line)["epoch"] for line in (model / "epochs.jsonl").read_text().splitlines()] == [0, 1]
    prepared = prepared_by_address(log, "training")
    assert sorted(prepared) == sorted(ADDRESSES)
    assert sum(prepared.values()) == 24


def test_training_on_missing_days_fails_the_job_and_the_log_ends_with_the_reason(
    cluster: Submitter, manifests: Path, tmp_path: Path
) -> None:
    code, log = cluster.submit(
        *("python", "jobs/train.py", "small", "--manifests", manifests, "--from", "2027-01-01"),
        *("--out", tmp_path / "model"),
    )
    assert code == 1, log
    assert "has no day from 2027-01-01" in last_lines(log)
