"""Work in progress outside the leads; what an older version left inside them is finished and cleared away."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from msmtfn import storage
from msmtfn.daily.day import finish_run, open_run
from msmtfn.daily.lock import lock_day
from msmtfn.daily.publish import publish_day, read_leads
from msmtfn.daily.state import RunState
from msmtfn.daily.work import default_work
from msmtfn.errors import UsageError
from tests.daily.parts import DATE, RECORD, SCHEMA, scored, write_parts
from tests.daily.plain_graph import Killed, PlainGraph, plan, write_manifest

OTHER_DISK = Path("/dev/shm")


def report(done: int, rejected: int, resumed: int) -> None:
    """Show nothing."""


def test_the_work_lies_beside_the_leads_however_they_are_spelled(tmp_path: Path) -> None:
    assert default_work(f"{tmp_path}/leads/") == default_work(f"file://{tmp_path}/leads") == f"{tmp_path}/leads.work"
    assert default_work("s3://bucket/leads/") == "s3://bucket/leads.work"
    for whole in ("s3://bucket", "s3://bucket/", "/"):
        with pytest.raises(UsageError, match="set --work"):
            default_work(whole)


def test_a_published_day_leaves_nothing_in_the_leads_but_itself(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifests", 3)
    day = plan(tmp_path / "manifests", str(tmp_path / "leads"))
    with lock_day(str(tmp_path / "leads"), DATE) as check:
        run = open_run(day)
        assert list((tmp_path / "leads").rglob("*.parquet")) == []
        finish_run(run, report, check)
    assert [path.name for path in (tmp_path / "leads").iterdir()] == [f"date={DATE}"]
    assert list((tmp_path / "leads.work").iterdir()) == []


def test_a_run_that_the_version_before_left_in_the_leads_is_resumed_and_cleared_away(
    place: str, tmp_path: Path
) -> None:
    manifests, leads = tmp_path / "manifests", f"{place}/leads"
    write_manifest(manifests, 3)
    old = replace(plan(manifests, leads, PlainGraph([{0}], dies_in=0)), work=f"{leads}/_runs")
    with pytest.raises(Killed):
        finish_run(open_run(old), report)
    storage.write_text(f"{leads}/_runs/theirs/notes.txt", "theirs")
    day = plan(manifests, leads)
    assert day.find_state() is RunState.LEFT_OVER
    run = open_run(day)
    assert (run.folder.path, run.resumed) == (f"{leads}/_runs/{day.run_id}", 1)
    finish_run(run, report)
    assert read_leads(leads, DATE).count_rows() == 3
    assert storage.list_files(f"{leads}/_runs/{day.run_id}/parts", "") == []
    assert storage.exists(f"{leads}/_runs/theirs/notes.txt")


def test_a_new_day_whose_work_is_on_another_disk_is_published(tmp_path: Path) -> None:
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second disk")
    work = OTHER_DISK / f"msmtfn-{tmp_path.name}"
    try:
        shutil.move(write_parts(str(tmp_path), "run-1", [[scored(0, 1.0)]]), work)
        publish_day(str(tmp_path / "leads"), DATE, str(work), SCHEMA, 1, RECORD)
    finally:
        shutil.rmtree(work)
    assert read_leads(str(tmp_path / "leads"), DATE).count_rows() == 1
