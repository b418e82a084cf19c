"""Text that others wrote reaches the terminal and the log escaped."""

from __future__ import annotations

import io
import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Group
from rich.table import Table
from rich.text import Text

from msmtfn.cli import models
from msmtfn.cli.command import SafeConsole, SafeFormatter
from msmtfn.daily.summary import summarize
from msmtfn.registry.records import Decision, GateConfig, VersionRecord
from tests.daily.parts import DATE, publish, scored

HOSTILE = "\x1b]0;title\x07\x1b[2J[bold red]x[/] :skull:\x9b31m\N{RIGHT-TO-LEFT OVERRIDE}"
SHOWN = "\\x1b]0;title\\x07\\x1b[2J[bold red]x[/] :skull:\\x9b31m\\u202e"


def printed(*parts: object) -> str:
    console = SafeConsole(file=io.StringIO(), width=200, force_terminal=False)
    console.print(*parts, highlight=False)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_hostile_text_is_printed_as_it_is_read() -> None:
    assert printed(HOSTILE) == f"{SHOWN}\n".replace("\\x07", "")  # rich itself drops the bell
    assert printed(Text("\x1b[31m a")) == "\\x1b[31m a\n"


def test_no_control_character_of_a_cell_or_a_group_reaches_the_terminal() -> None:
    table = Table("[red]call")
    table.add_row(Text("\x1b[31mid"))  # laid out before it is escaped, so a table escapes ids itself to show them whole
    shown = printed(Group(table, Text("\x9bend")))
    assert "[red]call" in shown
    assert "\\x1b[31m" in shown
    assert "\\x9bend" in shown
    assert "\x1b" not in shown


def test_the_summary_shows_a_hostile_id_and_model_whole(tmp_path: Path) -> None:
    success = publish(str(tmp_path), [[scored(0, 1.0, call_id=f"{HOSTILE}\nend")]])
    hostile = replace(success, model="m\x1b[2J\n  scored    9")
    shown = printed(summarize(str(tmp_path), DATE, hostile, is_trained=True))
    assert f"{SHOWN}\\nend" in shown
    assert "model     m\\x1b[2J\\n  scored    9, version" in shown
    assert "\x1b" not in shown


def test_the_console_still_writes_its_own_colours() -> None:
    console = SafeConsole(file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(Text("warning", style="red"))
    assert console.file.getvalue() == "\x1b[31mwarning\x1b[0m\n"  # type: ignore[attr-defined]


def test_hostile_text_in_the_log_is_escaped_and_cannot_look_like_another_event() -> None:
    record = logging.LogRecord("msmtfn", logging.ERROR, "", 0, "call %s", ("\x1b[2J\n2026-03-02 INFO forged",), None)
    assert SafeFormatter("%(levelname)s: %(message)s").format(record) == (
        "ERROR: call \\x1b[2J\n    2026-03-02 INFO forged"
    )


def test_the_trace_of_an_exception_is_escaped_too() -> None:
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        record = logging.LogRecord("msmtfn", logging.ERROR, "", 0, "failed", None, sys.exc_info())
    shown = SafeFormatter("%(message)s").format(record)
    assert "ValueError: \\x1b[2J" in shown
    assert "\x1b" not in shown


def test_the_models_command_shows_hostile_records_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    decision = Decision(passed=True, reason=f"{HOSTILE}\nv9", calls=3, candidate=0.5, config=GateConfig())
    record = VersionRecord(version="v0001", run="r", added_at="[red]now", decision=decision)
    (tmp_path / "v0001.json").write_text(json.dumps(record.as_json()))
    assert models.main("models", ["list", "--models", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1
    assert f"[red]now  passed: 50.0 % of 3 held-out calls classified correctly; {SHOWN}\\nv9" in shown
