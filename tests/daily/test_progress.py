import io
import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

from msmtfn.daily import progress
from msmtfn.daily.progress import SECONDS_A_LINE, Pace, show_progress

Advance = Callable[[float], None]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Let seconds pass on the module's clock, which starts soon after the machine did."""
    now = [3.0]

    def move(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return move


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged so far."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def log() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def shown_on(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_pace_counts_what_this_run_has_done_and_not_what_an_earlier_one_had(advance: Advance) -> None:
    pace = Pace(100)
    advance(10.0)
    assert pace.describe(60, 3, 40) == "3 rejected, 2.0 calls/s, 20 s left"


def test_the_time_left_is_unknown_while_nothing_is_done(advance: Advance) -> None:
    pace = Pace(100)
    assert pace.describe(0, 0, 0) == "0 rejected, 0.0 calls/s, time left unknown"
    advance(10.0)
    assert pace.describe(40, 0, 40) == "0 rejected, 0.0 calls/s, time left unknown"


def test_the_first_report_is_logged_at_once(advance: Advance, lines: Callable[[], list[str]]) -> None:
    with show_progress(log(), 8) as report:
        advance(1.0)
        report(2, 1, 0)
    assert lines() == ["2 of 8 calls done (25 %), 1 rejected, 2.0 calls/s, 3 s left"]


def test_no_two_lines_are_logged_within_the_seconds_of_a_line(advance: Advance, lines: Callable[[], list[str]]) -> None:
    with show_progress(log(), 1000) as report:
        for done in range(1, 62):  # one a second: lines at 1, 16, 31, 46 and 61
            advance(SECONDS_A_LINE / 15)
            report(done, 0, 0)
    assert [line.split()[0] for line in lines()] == ["1", "16", "31", "46", "61"]


def test_the_end_is_logged_at_once_and_once(advance: Advance, lines: Callable[[], list[str]]) -> None:
    with show_progress(log(), 4) as report:
        for done in (3, 4, 4):
            advance(0.5)
            report(done, 0, 0)
    assert [line.split(",")[0] for line in lines()] == ["3 of 4 calls done (75 %)", "4 of 4 calls done (100 %)"]


def test_a_day_without_calls_is_done(advance: Advance, lines: Callable[[], list[str]]) -> None:
    with show_progress(log(), 0) as report:
        report(0, 0, 0)
    assert lines() == ["0 of 0 calls done (0 %), 0 rejected, 0.0 calls/s, time left unknown"]


def test_a_log_gets_no_bars(advance: Advance) -> None:
    console = log()
    with show_progress(console, 4) as report:
        report(2, 0, 0)
    assert not shown_on(console)


def test_a_terminal_shows_a_bar_the_counts_and_the_pace(advance: Advance, lines: Callable[[], list[str]]) -> None:
    console = terminal()
    with show_progress(console, 20) as report:
        advance(4.0)
        report(10, 2, 2)
    shown = shown_on(console)
    assert "━" in shown
    assert "10/20" in shown
    assert "2 rejected, 2.0 calls/s, 5 s left" in shown
    assert lines() == []


def test_a_terminal_is_left_in_order_when_the_run_fails(advance: Advance) -> None:
    console = terminal()
    with pytest.raises(KeyError), show_progress(console, 20):
        raise KeyError
    assert shown_on(console).endswith("\x1b[?25h")  # the cursor is back
