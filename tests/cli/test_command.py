from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from msmtfn.cli import main
from msmtfn.cli.command import SafeConsole, run_command
from msmtfn.errors import JobError, LockedError, StorageError, UsageError


@pytest.mark.parametrize(("error", "code"), [(JobError, 1), (StorageError, 1), (UsageError, 2), (LockedError, 4)])
def test_a_job_error_ends_the_job_with_its_exit_code_and_one_line(
    error: type[JobError], code: int, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise error("fix this")

    with caplog.at_level(logging.ERROR):
        assert run_command(fail) == code
    assert [record.getMessage() for record in caplog.records] == ["fix this"]


def test_a_finished_job_returns_its_own_exit_code_or_zero() -> None:
    assert run_command(lambda: None) == 0
    assert run_command(lambda: 3) == 3


def last_line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return line


def test_an_unexpected_exception_is_logged_and_named_in_the_last_line_without_its_message(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    transcript = "a transcript"

    def fail() -> None:
        raise KeyError(transcript)

    assert run_command(fail, job="score_daily") == 1
    error = "unexpected KeyError; the stack trace is in the log"
    assert last_line(capsys) == {"job": "score_daily", "exit_code": 1, "error": error}
    assert "in fail" in caplog.text
    assert transcript not in caplog.text


def test_a_full_disk_is_named_in_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        Path("/dev/full").write_text("a part")

    assert run_command(fail, job="train") == 1
    assert "No space left on device" in last_line(capsys)["error"]


@pytest.mark.parametrize("code", [1, 3, 143, "out of\nfuel"])
def test_a_library_that_ends_the_process_is_no_wrong_usage(code: int | str, capsys: pytest.CaptureFixture[str]) -> None:
    def leave() -> None:
        sys.exit(code)

    assert run_command(leave, job="train") == 1
    shown = str(code).replace("\n", r"\n")
    assert last_line(capsys) == {"job": "train", "exit_code": 1, "error": f"something ended the process ({shown})"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_lets_the_job_clean_up_and_write_its_last_line(number: int, code: int) -> None:
    program = textwrap.dedent("""
        import signal, sys, time
        from msmtfn.cli.command import SafeConsole, run_command
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
        days = [{"date": "2026-11-21", "exit_code": 0}]
        def work():
            try:
                print("started", flush=True)
                time.sleep(60)
            finally:
                print("cleaned up", flush=True)
        sys.exit(run_command(work, job="score_daily", content={"days": days}))
    """)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code
    cleaned_up, line = output.splitlines()
    assert cleaned_up == "cleaned up"
    assert json.loads(line) == {
        "job": "score_daily",
        "exit_code": code,
        "days": [{"date": "2026-11-21", "exit_code": 0}],
        "error": "stopped by a signal; run the same command again",
    }


def test_what_the_locale_cannot_write_is_escaped_and_does_not_end_the_job() -> None:
    program = textwrap.dedent("""
        import logging, sys
        from msmtfn.cli.command import SafeConsole, run_command
        def work():
            SafeConsole().print("leads of 客户")
            logging.error("no 客户")
            raise OSError(2, "there is no file", "/客户")
        sys.exit(run_command(work, job="score_daily"))
    """)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    shown, line = process.stdout.splitlines()
    assert shown == r"leads of \u5ba2\u6237"
    assert r"no \u5ba2\u6237" in process.stderr
    assert process.returncode == json.loads(line)["exit_code"] == 1
    assert "/客户" in json.loads(line)["error"]


@pytest.mark.parametrize(("columns", "is_whole"), [(None, True), ("60", False)])
def test_a_table_is_cut_only_at_the_width_of_a_terminal_or_at_the_one_that_is_set(
    columns: str | None, is_whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    console = SafeConsole(file=io.StringIO())
    table = Table("call", "place")
    table.add_row("a" * 90, "b" * 90)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    assert ("a" * 90 in console.file.getvalue()) is is_whole


def test_a_wrong_option_is_wrong_usage_and_help_is_not_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score-daily", "--no-such-option"]) == 2
    assert last_line(capsys)["exit_code"] == 2
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["score-daily", "--help"])
    assert '"exit_code"' not in capsys.readouterr().out


@pytest.mark.parametrize("action", ["print(1, flush=True)", "pass"])
def test_a_job_that_nobody_reads_ends_quietly_with_the_code_of_a_broken_pipe(action: str) -> None:
    program = f"""
        import sys, time
        from msmtfn.cli.command import run_command
        def work():
            sys.stdin.read()
            {action}
        sys.exit(run_command(work, job="train"))
    """
    command, pipe = [sys.executable, "-c", textwrap.dedent(program)], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 128 + signal.SIGPIPE


def test_a_broken_pipe_of_another_process_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise BrokenPipeError("the child has ended")

    assert run_command(fail, job="train") == 1
    assert "the child has ended" in last_line(capsys)["error"]
