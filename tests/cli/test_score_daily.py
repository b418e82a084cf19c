"""What the nightly command shows and does with days; `tests/integration` runs it as a process."""

from __future__ import annotations

import datetime as dt
import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from msmtfn.cli import main
from msmtfn.cli.command import SafeConsole
from msmtfn.cli.days import describe_plan, run_day
from msmtfn.daily.day import finish_run, open_run
from msmtfn.daily.lock import lock_day
from msmtfn.daily.runner import DayRunner
from msmtfn.daily.work import default_work
from tests.daily.parts import DATE
from tests.daily.plain_graph import PlainGraph, commit, plan, write_manifest
from tests.speech.tiny import write_tiny_ctc

TRANSCRIPT = "a transcript"


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    write_manifest(tmp_path / "manifests", 3)
    return tmp_path / "manifests"


@pytest.fixture
def leads(tmp_path: Path) -> str:
    return str(tmp_path / "leads")


def last_line_of_plan(manifests: Path, leads: str) -> str:
    console = SafeConsole(file=io.StringIO(), width=200)
    console.print(describe_plan([plan(manifests, leads)], "score"))
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


class BuggyGraph(PlainGraph):
    """Graph whose first model cannot be loaded because of a bug."""

    def load(self, manifests: str) -> Any:
        self.load = super().load  # type: ignore[method-assign, assignment]
        raise KeyError(TRANSCRIPT)


def test_a_bug_in_one_day_does_not_keep_the_other_days_from_being_scored(
    manifests: Path, leads: str, caplog: pytest.LogCaptureFixture
) -> None:
    next_day = DATE + dt.timedelta(days=1)
    shutil.copytree(manifests / f"date={DATE}", manifests / f"date={next_day}")
    runner = DayRunner(
        manifests=str(manifests),
        root=leads,
        work=default_work(leads),
        graph=BuggyGraph(),
        console=SafeConsole(file=io.StringIO()),
        start_ray=lambda: None,
        verb="scoring",
    )
    results: list[dict[str, Any]] = []
    shown: list[str] = []
    codes = [
        run_day(runner, date, 0.2, results, lambda _plan, success: shown.append(success.run_id))
        for date in (DATE, next_day)
    ]
    assert (codes, len(shown)) == ([1, 0], 1)
    error = "unexpected KeyError; the stack trace is in the log"
    assert results[0] == {"date": str(DATE), "exit_code": 1, "error": error}
    assert (results[1]["date"], results[1]["scored"]) == (str(next_day), 3)
    assert "in load" in caplog.text
    assert TRANSCRIPT not in caplog.text


def test_a_dry_run_names_the_process_that_works_on_the_day(manifests: Path, leads: str) -> None:
    commit(open_run(plan(manifests, leads)).task, [0])
    with lock_day(leads, DATE):
        assert f"{DATE}: running, 1 of 3 calls committed; locked by process " in last_line_of_plan(manifests, leads)


def test_a_dry_run_with_a_recogniser_plans_the_transcription_first(
    manifests: Path, leads: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"--manifests": manifests, "--leads": leads, "--transcripts": tmp_path / "transcripts"}
    models = {"--model": tiny_model, "--recogniser": write_tiny_ctc(tmp_path / "asr")}
    before = sorted(tmp_path.rglob("*"))
    options = [str(part) for option in (places | models).items() for part in option]
    assert main(["score-daily", "--date", str(DATE), *options, "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert any("to transcribe" in line for line in shown)
    assert f"{DATE}: planned; the same command starts" in shown
    assert f"{DATE}: scored as soon as it is transcribed" in shown
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--demo", "--recogniser", "demo"], "--recogniser cannot be combined with --demo"),
        (["--demo", "--transcripts", "transcripts"], "--transcripts cannot be combined with --demo"),
        (["--with-transcripts", "--manifests", "calls", "--leads", "leads"], "--with-transcripts is for --demo"),
    ],
)
def test_options_that_the_demo_has_itself_are_wrong_usage(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["score-daily", *options]) == 2
    assert message in capsys.readouterr().out.splitlines()[-1]
