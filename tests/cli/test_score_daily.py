"""What the nightly command shows and does with days; `tests/integration` runs it as a process."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from msmtfn.cli.command import SafeConsole
from msmtfn.cli.score_daily import _describe_plan
from msmtfn.daily.day import finish_run, open_run
from msmtfn.daily.lock import lock_day
from tests.daily.parts import DATE
from tests.daily.plain_graph import commit, plan, write_manifest


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "manifests", 3)
    return tmp_path / "manifests"


@pytest.fixture
def leads(tmp_path: Path) -> str:
    return str(tmp_path / "leads")


def last_line_of_plan(manifests: Path, leads: str) -> str:
    console = SafeConsole(file=io.StringIO(), width=120)
    console.print(_describe_plan([plan(manifests, leads)]))
    return str(console.file.getvalue().splitlines()[-1])  # type: ignore[attr-defined]


def test_a_dry_run_tells_the_state_of_the_days_run(manifests: Path, leads: str) -> None:
    shown = [last_line_of_plan(manifests, leads)]
    run = open_run(plan(manifests, leads))
    for row_ids in ([], [0], [1, 2]):
        commit(run.task, row_ids)
        shown.append(last_line_of_plan(manifests, leads))
    finish_run(open_run(plan(manifests, leads)), lambda *_: None)
    shown.append(last_line_of_plan(manifests, leads))
    assert shown == [
        f"{DATE}: planned; the same command starts",
        f"{DATE}: copied, 0 of 3 calls committed; the same command resumes",
        f"{DATE}: left over, 1 of 3 calls committed; the same command resumes",
        f"{DATE}: complete, 3 of 3 calls committed; the same command publishes",
        f"{DATE}: published; nothing is left to do",
    ]


def test_a_dry_run_names_the_process_that_works_on_the_day(manifests: Path, leads: str) -> None:
    commit(open_run(plan(manifests, leads)).task, [0])
    with lock_day(leads, DATE):
        assert f"{DATE}: running, 1 of 3 calls committed; locked by process " in last_line_of_plan(manifests, leads)
