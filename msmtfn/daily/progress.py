"""Progress of a run: a progress bar on a terminal, a line every 15 seconds in a log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import MofNCompleteColumn

from msmtfn.progress import LineLog, TimeLeft, show_bar

logger = logging.getLogger(__name__)


class Reporter(Protocol):
    """Callback that receives the progress of a run."""

    def __call__(self, done: int, rejected: int, resumed: int) -> None:
        """Report the calls done in total, those rejected by this run and those done by an earlier run."""


@contextmanager
def show_progress(console: Console, num_calls: int, verb: str = "scoring") -> Iterator[Reporter]:
    """Show a run's progress on a terminal, or log it if there is none.

    Args:
        console: the terminal.
        num_calls: number of calls of the run.
        verb: what is done with them.
    """
    pace = Pace(num_calls)
    if not console.is_terminal:
        yield _log_reporter(pace)
        return
    with show_bar(console, verb, num_calls, MofNCompleteColumn()) as show:
        yield lambda done, rejected, resumed: show(pace.describe(done, rejected, resumed), done)


class Pace:
    """Rate of a run and estimate of its remaining time."""

    def __init__(self, num_calls: int) -> None:
        self.num_calls = num_calls
        self.time_left = TimeLeft(num_calls)

    def describe(self, done: int, rejected: int, resumed: int) -> str:
        """Return the number of rejects, the rate of this run and the remaining time in one line."""
        self.time_left.done_before = resumed
        return f"{rejected} rejected, {self.time_left.rate(done):.1f} calls/s, {self.time_left.describe(done)}"


def _log_reporter(pace: Pace) -> Reporter:
    """Return a reporter that logs a line now and then, and one when the run is complete."""
    log = LineLog(logger, at_once=True)
    is_complete = False

    def report(done: int, rejected: int, resumed: int) -> None:
        nonlocal is_complete
        completes_now = done >= pace.num_calls and not is_complete
        is_complete = is_complete or completes_now
        percent = 100 * done / max(pace.num_calls, 1)
        line = f"{done} of {pace.num_calls} calls done ({percent:.0f} %), {pace.describe(done, rejected, resumed)}"
        log.show(line, is_last=completes_now)

    return report
