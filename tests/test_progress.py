from __future__ import annotations

import logging
import threading
from types import SimpleNamespace

import pytest

from msmtfn import progress
from msmtfn.progress import LOG_INTERVAL_SEC, LineLog, TimeLeft, poll


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=3.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_a_function_is_polled_until_the_end_and_once_more() -> None:
    looks: list[int] = []
    polled_twice = threading.Event()

    def look() -> None:
        looks.append(len(looks))
        if len(looks) == 2:
            polled_twice.set()

    with poll(look, 0.001, at_end=True):
        assert polled_twice.wait(10)
    assert len(looks) > 2


def test_without_a_look_at_the_end_a_short_job_is_not_polled() -> None:
    looks: list[None] = []
    with poll(lambda: looks.append(None), 60.0):
        pass
    assert looks == []


def test_the_thread_ends_with_a_job_that_fails() -> None:
    with pytest.raises(KeyError), poll(lambda: None, 60.0):
        raise KeyError
    assert "progress" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(("at_once", "expected"), [(True, ["0", "15", "30", "31"]), (False, ["15", "30", "31"])])
def test_a_line_is_logged_once_per_interval_and_at_the_end(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture, at_once: bool, expected: list[str]
) -> None:
    caplog.set_level(logging.INFO)
    log = LineLog(logging.getLogger("test"), at_once=at_once)
    for second in range(32):
        log.show(str(second), is_last=second == 31)
        clock.now += LOG_INTERVAL_SEC / 15
    assert caplog.messages == expected


def test_the_time_left_follows_from_the_rate_since_the_start(clock: SimpleNamespace) -> None:
    time_left = TimeLeft(100, done=20)
    assert time_left.describe(20) == "time left unknown"
    clock.now += 10
    assert (time_left.rate(60), time_left.describe(60)) == (4.0, "10 s left")
