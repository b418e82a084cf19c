"""Progress of a training run: a board where the first worker posts events, and a thread that reports them.

Nothing here imports Ray: the trainer makes an actor of the board, and passes in how to read it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from msmtfn.progress import poll
from msmtfn.training.events import EpochDone, Report, StepDone, TrainingEvent, TrainingStarted

SECONDS_BETWEEN_REPORTS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of the board.

    Attributes:
        events: starts and finished epochs since the board was made.
        step: the latest step; None before the first.
    """

    events: tuple[TrainingStarted | EpochDone, ...]
    step: StepDone | None


class ProgressBoard:
    """The events that the first worker has posted, and the reason why training stopped, if it did."""

    def __init__(self) -> None:
        self.step: StepDone | None = None
        self.events: list[TrainingStarted | EpochDone] = []
        self.stop_reason = ""

    def post(self, event: TrainingEvent) -> None:
        """Keep an event; a step replaces the one before."""
        if isinstance(event, StepDone):
            self.step = event
        else:
            self.events.append(event)

    def stop(self, reason: str) -> None:
        """Keep the reason why training cannot continue."""
        self.stop_reason = reason

    def why_stopped(self) -> str:
        """Return the reason why training stopped, or an empty string."""
        return self.stop_reason

    def read(self) -> Progress:
        """Return a snapshot of the board."""
        return Progress(tuple(self.events), self.step)


@contextlib.contextmanager
def report_progress(read: Callable[[], Progress | None], report: Report) -> Iterator[None]:
    """Report the board's events from a thread, every two seconds and once more at the end.

    Args:
        read: returns a snapshot of the board, or None while the board cannot be reached.
        report: receives every start and finished epoch once, and then the latest step.
    """
    num_reported = 0

    def report_new() -> None:
        nonlocal num_reported
        progress = read()
        if progress is None:
            return
        for event in progress.events[num_reported:]:
            report(event)
        if progress.step is not None:
            report(progress.step)
        num_reported = len(progress.events)

    with poll(report_new, SECONDS_BETWEEN_REPORTS, at_end=True):
        yield
