"""Show the progress of a job: poll its figures from a thread, and show them as a bar or as a log line now and then."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn

LOG_INTERVAL_SEC: Final = 15.0


@contextmanager
def poll(look: Callable[[], None], interval_sec: float, *, at_end: bool = False) -> Iterator[None]:
    """Call a function periodically, from a thread.

    Args:
        look: the function.
        interval_sec: seconds between two calls.
        at_end: whether to call it once more at the end.
    """
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(interval_sec):
            look()
        if at_end:
            look()

    watcher = threading.Thread(target=watch, daemon=True, name="progress")
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()


class LineLog:
    """Log that takes at most one line every `LOG_INTERVAL_SEC`.

    Args:
        logger: the log.
        at_once: whether the first line is logged at once, and not after an interval.
    """

    def __init__(self, logger: logging.Logger, *, at_once: bool = False) -> None:
        self.logger = logger
        self.last_line = -math.inf if at_once else time.monotonic()

    def show(self, line: str, *, is_last: bool = False) -> None:
        """Log a line if it is time, or if it is the last."""
        now = time.monotonic()
        if is_last or now - self.last_line >= LOG_INTERVAL_SEC:
            self.last_line = now
            self.logger.info("%s", line)


class TimeLeft:
    """Estimate of the time left, from the rate since a starting point."""

    def __init__(self, total: float, done: float = 0.0) -> None:
        self.total, self.done_before = total, done
        self.started = time.monotonic()

    def rate(self, done: float) -> float:
        """Return what is done per second since the start."""
        return (done - self.done_before) / max(time.monotonic() - self.started, 1e-9)

    def describe(self, done: float) -> str:
        """Return the seconds left in words."""
        rate = self.rate(done)
        return f"{(self.total - done) / rate:.0f} s left" if rate else "time left unknown"


@contextmanager
def show_bar(
    console: Console, name: str, total: float, *columns: ProgressColumn
) -> Iterator[Callable[[str, float], None]]:
    """Show a bar on a terminal.

    Args:
        console: the terminal.
        name: what is being done.
        total: what is to be done.
        columns: columns between the bar and the line.

    Yields:
        A function that shows a line, and how much is done.
    """
    shown = (TextColumn(name), BarColumn(), *columns, TextColumn("{task.fields[line]}"), TimeElapsedColumn())
    with Progress(*shown, console=console) as progress:
        task = progress.add_task(name, total=total, line="starting")
        yield lambda line, done: progress.update(task, completed=done, line=line)
