from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from msmtfn.training import progress
from msmtfn.training.events import EpochDone, StepDone, TrainingEvent, TrainingStarted
from msmtfn.training.progress import Progress, ProgressBoard, report_progress

STARTED = TrainingStarted(first_epoch=0, num_workers=2)
EPOCH = EpochDone(0, 1.0, 1.0, {"five": 0.5}, 10.0, 60.0, is_best=True)


def step(number: int) -> StepDone:
    return StepDone(epoch=0, step=number, num_steps=9, loss=1.0, rounds_per_sec=2.0)


def test_the_board_keeps_all_events_but_only_the_latest_step() -> None:
    board = ProgressBoard()
    for event in (STARTED, step(1), step(2), EPOCH):
        board.post(event)
    assert board.read() == Progress((STARTED, EPOCH), step(2))


def test_the_board_keeps_the_reason_why_training_stopped() -> None:
    board = ProgressBoard()
    assert board.why_stopped() == ""
    board.stop("the loss is nan")
    assert board.why_stopped() == "the loss is nan"


def test_what_was_posted_last_is_reported_at_the_end() -> None:
    board, reported = ProgressBoard(), list[TrainingEvent]()
    with report_progress(board.read, reported.append):
        for event in (STARTED, step(1), EPOCH):
            board.post(event)
    assert reported == [STARTED, EPOCH, step(1)]


def test_every_event_is_reported_once_although_the_board_cannot_always_be_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_REPORTS", 0.001)
    snapshots: Iterator[Any] = iter([None, Progress((STARTED,), None), None, Progress((STARTED, EPOCH), None)])
    reported = list[TrainingEvent]()

    def read() -> Progress | None:
        return next(snapshots, Progress((STARTED, EPOCH), None))

    with report_progress(read, reported.append):
        while len(reported) < 2:
            time.sleep(0.001)
    assert reported == [STARTED, EPOCH]
