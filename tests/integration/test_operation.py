"""The nightly job as run by a scheduler or an engineer on call: ranges, the newest day, locks and dry runs."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from msmtfn.daily.lock import lock_day
from msmtfn.daily.state import PENDING
from tests.integration.job import DATE, run_job, start_job, write_short_calls

DAY_BEFORE = DATE - dt.timedelta(days=1)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Write two days of four calls each."""
    root = write_short_calls(tmp_path / "manifests", 4)
    shutil.copytree(root / f"date={DATE}", root / f"date={DAY_BEFORE}")
    return root


def parse_summary(output: str) -> dict[str, Any]:
    """Parse the last line of a job's output, which is JSON."""
    line: dict[str, Any] = json.loads(output.splitlines()[-1])
    return line


def wait_until_committed(leads: Path, timeout_sec: float = 400.0) -> None:
    """Wait until a run has committed its first calls."""
    deadline = time.monotonic() + timeout_sec
    work = leads.with_name("leads.work")
    while all(file.name.endswith(PENDING) for file in work.glob("*/checkpoint/*.parquet")):
        assert time.monotonic() < deadline, "no call was committed"
        time.sleep(0.05)


def location_options(manifests: Path, model: Path) -> list[object]:
    return ["--manifests", manifests, "--leads", manifests.parent / "leads", "--model", model]


@pytest.mark.slow
@pytest.mark.long
def test_a_range_of_days_is_planned_and_scored(manifests: Path, tiny_model: Path, ray_address: str) -> None:
    arguments = [*location_options(manifests, tiny_model), "--from", DAY_BEFORE - dt.timedelta(days=9)]
    first = run_job(*arguments, "--to", DAY_BEFORE, RAY_ADDRESS=ray_address)
    assert first.returncode == 0, first.stderr
    assert [day["date"] for day in parse_summary(first.stdout)["days"]] == [str(DAY_BEFORE)]

    planned = run_job(*arguments, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert not (manifests.parent / "leads" / f"date={DATE}").exists()
    published, due = (line for line in planned.stdout.splitlines() if line.startswith("│"))
    assert re.search(rf"{DAY_BEFORE}.* 4 .* 0 .*nothing, it is published", published)
    assert re.search(rf"{DATE}.* 4 .* 4 .*score", due)
    expected = float(re.search(r"(\d+) s", due)[1])  # type: ignore[index]
    assert expected == pytest.approx(parse_summary(first.stdout)["days"][0]["seconds"], abs=0.51)

    both = run_job(*arguments, RAY_ADDRESS=ray_address)
    assert both.returncode == 0, both.stderr
    assert "nothing was done" in both.stdout
    assert [(day["date"], day["scored"]) for day in parse_summary(both.stdout)["days"]] == [
        (str(DAY_BEFORE), 4),
        (str(DATE), 4),
    ]


@pytest.mark.slow
@pytest.mark.long
def test_a_day_that_fails_does_not_affect_the_other_days(manifests: Path, tiny_model: Path, ray_address: str) -> None:
    (manifests / f"date={DAY_BEFORE}" / "calls.parquet").write_bytes(b"no Parquet")
    job = run_job(*location_options(manifests, tiny_model), "--from", DAY_BEFORE, RAY_ADDRESS=ray_address)
    assert job.returncode == 1
    broken, scored = parse_summary(job.stdout)["days"]
    assert (broken["date"], broken["exit_code"], scored["scored"]) == (str(DAY_BEFORE), 1, 4)
    assert "cannot be read as Parquet" in broken["error"]


@pytest.mark.slow
def test_a_day_that_another_run_has_locked_is_not_scored(manifests: Path, tiny_model: Path) -> None:
    with lock_day(str(manifests.parent / "leads"), DATE):
        job = run_job("--date", DATE, *location_options(manifests, tiny_model))
    assert job.returncode == parse_summary(job.stdout)["exit_code"] == 4
    assert f"another run is working on {DATE}" in job.stderr.splitlines()[-1]
    assert not (manifests.parent / "leads" / f"date={DATE}").exists()


@pytest.mark.slow
def test_a_terminated_run_ends_in_seconds_frees_the_day_and_resumes(
    tmp_path: Path, tiny_model: Path, ray_address: str
) -> None:
    manifests = write_short_calls(tmp_path / "manifests", 40)
    arguments = [*location_options(manifests, tiny_model), "--date", DATE, "--block-calls", 1]
    job = start_job(*arguments, RAY_ADDRESS=ray_address)
    wait_until_committed(tmp_path / "leads")
    job.send_signal(signal.SIGTERM)
    output, log = job.communicate(timeout=30)
    assert job.returncode == parse_summary(output)["exit_code"] == 128 + signal.SIGTERM, log
    assert "run the same command again" in parse_summary(output)["error"]
    assert not list((tmp_path / "leads" / "_runs").glob("lock-*"))

    again = run_job(*arguments, RAY_ADDRESS=ray_address)
    assert again.returncode == 0, again.stderr
    (day,) = parse_summary(again.stdout)["days"]
    assert day["calls_resumed"] > 0
    assert day["scored"] == 40
