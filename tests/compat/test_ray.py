from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pyarrow as pa
import pytest
import ray
from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy.downstream_capacity_backpressure_policy import (
    DownstreamCapacityBackpressurePolicy,
)

from msmtfn.compat.ray import BLOCK_LOGGER, limit_queued_blocks, watch_blocks
from msmtfn.errors import ScoringError


def test_backpressure_applies_in_the_block_even_if_the_object_store_has_room() -> None:
    context, policy = DataContext(), DownstreamCapacityBackpressurePolicy
    before = policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD
    with limit_queued_blocks(context, 3.0):
        assert context.downstream_capacity_backpressure_ratio == 3.0
        assert policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD == 0.0
    assert before == policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD > 0


def test_copies_of_the_settings_call_the_same_function_and_those_sent_to_workers_none() -> None:
    context = DataContext()
    with watch_blocks(context, lambda _: None, lambda _: True):
        first, of_copy = (each.custom_execution_callback_classes[0] for each in (context, context.copy()))
        assert of_copy() is first  # type: ignore[comparison-overlap] # an object that stands for a class
        sent = pickle.loads(pickle.dumps(copy.deepcopy(context.custom_execution_callback_classes)))
    assert type(sent[0]).__name__ == "ExecutionCallback"


def fail_after_the_first(batch: pa.Table) -> pa.Table:
    if batch["id"][0].as_py():
        raise OSError(28, "No space left on device")
    return batch


def run_watched(context: DataContext, *watchers: Any) -> None:
    with watch_blocks(context, *watchers), DataContext.current(context):
        numbers = ray.data.range(100, override_num_blocks=100)
        numbers.map_batches(fail_after_the_first, batch_format="pyarrow").materialize()


@pytest.mark.usefixtures("ray_address")
def test_failed_blocks_are_seen_and_logged_once_and_end_the_execution(caplog: pytest.LogCaptureFixture) -> None:
    context = DataContext.get_current().copy()
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    errors: list[Exception] = []
    done: list[int] = []

    def add_failed_block(error: Exception) -> bool:
        errors.append(error)
        return len(errors) == 1

    def find_failure(number: int) -> Exception | None:
        done.append(number)
        return ScoringError("it is enough") if len(errors) >= 3 and number else None

    block_logger = logging.getLogger(BLOCK_LOGGER)
    block_logger.addHandler(caplog.handler)
    try:
        with pytest.raises(ScoringError, match="it is enough"):
            run_watched(context, find_failure, add_failed_block)
    finally:
        block_logger.removeHandler(caplog.handler)
    assert 3 <= len(errors) < 99
    assert "No space left on device" in str(errors[0])
    logged = {id(record) for record in caplog.records if record.name == BLOCK_LOGGER}
    assert len(logged) == 1
    assert max(done) >= 1
