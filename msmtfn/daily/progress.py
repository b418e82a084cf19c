"""Progress of a run: a progress bar on a terminal, a line every 15 seconds in a log."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

logger = logging.getLogger(__name__)

SECONDS_A_LINE: Final = 15.0


class Reporter(Protocol):
    """Callback that receives the progress of a run."""

    def __call__(self, done: int, rejected: int, resumed: int) -> None:
        """Report the calls done in total, those rejected by this run and those done by an earlier run."""


class Pace:
    """Rate of a run and estimate of its remaining time."""

    def __init__(self, num_calls: int) -> None:
        self.num_calls = num_calls
        self.started = time.monotonic()

    def describe(self, done: int, rejected: int, resumed: int) -> str:
        """Return the number of rejects, the rate of this run and the remaining time in one line."""
        rate = (done - resumed) / max(time.monotonic() - self.started, 1e-9)
        left = f"{(self.num_calls - done) / rate:.0f} s left" if rate else "time left unknown"
        return f"{rejected} rejected, {rate:.1f} calls/s, {left}"


@contextmanager
def show_progress(console: Console, num_calls: int) -> Iterator[Reporter]:
    """Show a run's progress on a terminal, or log it if there is none."""
    pace = Pace(num_calls)
    if not console.is_terminal:
        yield _LogReporter(pace)
        return
    columns = (
        TextColumn("scoring"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("scoring", total=num_calls, pace="starting")

        def report(done: int, rejected: int, resumed: int) -> None:
            progress.update(task, completed=done, pace=pace.describe(done, rejected, resumed))

        yield report


class _LogReporter:
    """Reporter that logs at most one line every `SECONDS_A_LINE`, and one when the run is complete."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.last_line = -math.inf
        self.is_complete = False

    def __call__(self, done: int, rejected: int, resumed: int) -> None:
        now = time.monotonic()
        completes_now = done >= self.pace.num_calls and not self.is_complete
        if now - self.last_line < SECONDS_A_LINE and not completes_now:
            return
        self.last_line = now
        self.is_complete = self.is_complete or completes_now
        percent = 100 * done / max(self.pace.num_calls, 1)
        logger.info(
            "%d of %d calls done (%.0f %%), %s",
            done,
            self.pace.num_calls,
            percent,
            self.pace.describe(done, rejected, resumed),
        )
