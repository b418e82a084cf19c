from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pytest
import ray

from msmtfn.daily.counter import Batch, RunCounter, describe_nodes, open_counter, prepare_counted


def test_nodes_are_listed_busiest_first_with_their_ids() -> None:
    line = describe_nodes(
        {"a1a1a1a1ffff": 40, "b2b2b2b2ffff": 120, "gone": 3}, {"a1a1a1a1ffff": "10.0.0.1", "b2b2b2b2ffff": "10.0.0.1"}
    )
    assert line == (
        "prepared on 3 nodes: 10.0.0.1 (node b2b2b2b2) 120 calls, 10.0.0.1 (node a1a1a1a1) 40 calls, "
        "unknown (node gone) 3 calls"
    )


def test_one_node_and_no_node_are_described() -> None:
    assert describe_nodes({"a1": 2}, {"a1": "10.0.0.1"}) == "prepared on 1 node: 10.0.0.1 (node a1) 2 calls"
    assert describe_nodes({}, {}) == "prepared no calls"


def test_scored_and_prepared_calls_are_counted_separately() -> None:
    counter = RunCounter(10, metrics=None)
    for node_id, calls in (("a", 2), ("b", 1), ("a", 3)):
        counter.add_prepared(node_id, calls, seconds=0.5)
    counter.add(Batch({"scored": 1, "bad_row": 1}, unavailable=0, audio_sec=60.0, seconds=2.0))
    counter.add(Batch({"scored": 3}, unavailable=4, audio_sec=90.0, seconds=1.0, unranked={"refused": 2}))
    figures = counter.read()
    assert (figures.done, figures.rejected, figures.unavailable) == (5, 1, 4)
    assert figures.unranked == {"refused": 2}
    assert figures.stage_sec == {"prepare": 1.5, "score": 3.0}
    assert figures.prepared == {"a": 5, "b": 1}


def test_startup_ends_when_the_first_batch_reaches_a_scorer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 107.0, 120.0])
    monkeypatch.setattr("msmtfn.daily.counter.time.monotonic", lambda: next(clock))
    counter = RunCounter(10, metrics=None)
    for seconds in (2.0, 3.0):
        counter.add(Batch({"scored": 1}, unavailable=0, audio_sec=0.0, seconds=seconds))
    assert counter.read().startup_sec == 5.0


@pytest.mark.usefixtures("ray_address")
def test_the_number_of_prepared_calls_per_node_is_logged_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "msmtfn.daily.counter")
    with open_counter("2026-11-21-abc") as counter:
        prepare: Callable[[pa.Table], pa.Table] = partial(prepare_counted, lambda batch: batch.slice(0, 2), counter)
        task = ray.remote(prepare_in_task)
        assert ray.get([task.remote(prepare), task.remote(prepare)]) == [2, 2]
        wait_for_calls(counter, 4)
        assert not messages_in(caplog)
    node_id = ray.get_runtime_context().get_node_id()
    (message,) = messages_in(caplog)
    assert re.fullmatch(rf"2026-11-21-abc: prepared on 1 node: \S+ \(node {node_id[:8]}\) 4 calls", message)


def messages_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "msmtfn.daily.counter"]


def wait_for_calls(counter: Any, number: int) -> None:
    """Wait until the counter has counted this many prepared calls, which may be after the task has returned."""
    deadline = time.monotonic() + 30
    while sum(ray.get(counter.read.remote()).prepared.values()) < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def prepare_in_task(prepare: Callable[[pa.Table], pa.Table]) -> int:
    return len(prepare(pa.table({"row_id": [1, 2, 3]})))
