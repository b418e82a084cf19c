import io
import logging
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from rich.console import Console

from msmtfn import progress
from msmtfn.daily.progress import Pace, show_progress
from msmtfn.progress import LOG_INTERVAL_SEC

Advance = Callable[[float], None]


@pytest.fixture
def advance(monkeypatch: pytest.MonkeyPatch) -> Advance:
    """Replace the module's clock by one that the test advances; it starts near 0, as shortly after a boot."""
    clock = SimpleNamespace(now=3.0)

    def move(seconds: float) -> None:
        clock.now += seconds

    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return move


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Return a function that returns the messages logged so far."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def log_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=False)


def terminal_console() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def output_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_rate_does_not_count_calls_done_by_an_earlier_run(advance: Advance) -> None:
    pace = Pace(100)
    advance(10.0)
    assert pace.describe(60, 3, 40) == "3 rejected, 2.0 calls/s, 20 s left"


def test_the_time_left_is_unknown_until_this_run_has_done_a_call(advance: Advance) -> None:
    pace = Pace(100)
    assert pace.describe(0, 0, 0) == "0 rejected, 0.0 calls/s, time left unknown"
    advance(10.0)
    assert pace.describe(40, 0, 40) == "0 rejected, 0.0 calls/s, time left unknown"


def test_the_first_report_is_logged_immediately(advance: Advance, lines: Callable[[], list[str]]) -> None:
    with show_progress(log_console(), 8) as report:
        advance(1.0)
        report(2, 1, 0)
    assert lines() == ["2 of 8 calls done (25 %), 1 rejected, 2.0 calls/s, 3 s left"]


def test_lines_are_logged_at_most_once_per_interval(advance: Advance, lines: Callable[[], list[str]]) -> None:
    with show_progress(log_console(), 1000) as report:
        for done in range(1, 62):  # one report a second gives lines at 1, 16, 31, 46 and 61
            advance(LOG_INTERVAL_SEC / 15)
            report(done, 0, 0)
    assert [line.split()[0] for line in lines()] == ["1", "16", "31", "46", "61"]


def test_the_end_is_logged_immediately_and_only_once(advance: Advance, lines: Callable[[], list[str]]) -> None:
    with show_progress(log_console(), 4) as report:
        for done in (3, 4, 4):
            advance(0.5)
            report(done, 0, 0)
    assert [line.split(",")[0] for line in lines()] == ["3 of 4 calls done (75 %)", "4 of 4 calls done (100 %)"]


def test_a_day_without_calls_is_reported_as_done(advance: Advance, lines: Callable[[], list[str]]) -> None:
    with show_progress(log_console(), 0) as report:
        report(0, 0, 0)
    assert lines() == ["0 of 0 calls done (0 %), 0 rejected, 0.0 calls/s, time left unknown"]


def test_a_log_shows_no_progress_bar(advance: Advance) -> None:
    console = log_console()
    with show_progress(console, 4) as report:
        report(2, 0, 0)
    assert not output_of(console)


def test_a_terminal_shows_a_bar_the_counts_and_the_rate(advance: Advance, lines: Callable[[], list[str]]) -> None:
    console = terminal_console()
    with show_progress(console, 20) as report:
        advance(4.0)
        report(10, 2, 2)
    output = output_of(console)
    assert "━" in output
    assert "10/20" in output
    assert "2 rejected, 2.0 calls/s, 5 s left" in output
    assert lines() == []


def test_the_cursor_is_restored_when_the_run_fails(advance: Advance) -> None:
    console = terminal_console()
    with pytest.raises(KeyError), show_progress(console, 20):
        raise KeyError
    assert output_of(console).endswith("\x1b[?25h")  # shows the cursor
