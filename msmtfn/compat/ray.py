"""Private names of Ray 2.60 that msmtfn needs because there is no public equivalent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import ray
import ray._private.utils
from ray.data import DataContext

from msmtfn.compat.versions import install_command
from msmtfn.errors import BrokenEnvironmentError

try:
    from ray.data._internal.execution.backpressure_policy.downstream_capacity_backpressure_policy import (
        DownstreamCapacityBackpressurePolicy,
    )

    DownstreamCapacityBackpressurePolicy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD  # noqa: B018
    ray._private.utils.set_sigterm_handler  # noqa: B018
    DataContext().custom_execution_callback_classes  # noqa: B018
except (ImportError, AttributeError) as exc:
    raise BrokenEnvironmentError(
        f"ray {ray.__version__} lacks a private name that msmtfn needs ({exc}); install a tested version: "
        f"{install_command('ray')}"
    ) from exc

QUIET_LOGGERS: Final = ("ray._private.authentication.authentication_token_setup", "ray.data._internal.progress")
"""Loggers that warn on every run that authentication is on and that Ray's own progress bars are off."""
BLOCK_LOGGER: Final = "ray.data._internal.execution.streaming_executor_state"
"""Logger that gets an event for each block that fails and is skipped."""


@contextlib.contextmanager
def watch_blocks(
    context: DataContext, check: Callable[[int], None], add_failure: Callable[[BaseException], bool]
) -> Iterator[None]:
    """Watch the blocks of datasets that are made and run in the block: Ray Data has no public hook for either.

    Args:
        context: context of the datasets. Ray sends it to workers, so the functions must be picklable.
        check: called at every step of an execution with the number of blocks that have left the last operator; what it
            raises ends the execution.
        add_failure: called with the error of each block that fails and is skipped; if it returns False, the event is
            not logged.
    """

    def is_logged(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return error is None or add_failure(error)

    block_logger = logging.getLogger(BLOCK_LOGGER)
    # Ray calls what it calls a class without arguments.
    context.custom_execution_callback_classes = [partial(_StepCallback, check)]  # type: ignore[list-item]
    block_logger.addFilter(is_logged)
    try:
        yield
    finally:
        block_logger.removeFilter(is_logged)


class _StepCallback:
    """Ray Data's `ExecutionCallback` that calls a function at every step."""

    def __init__(self, check: Callable[[int], None]) -> None:
        self.check = check

    def on_execution_step(self, executor: Any) -> None:
        metrics = executor._output_node[0].metrics
        self.check(metrics.num_tasks_finished - metrics.num_tasks_failed)

    def before_execution_starts(self, executor: Any) -> None:
        """Do nothing."""

    def after_execution_succeeds(self, executor: Any) -> None:
        """Do nothing."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Do nothing."""


@contextlib.contextmanager
def limit_queued_blocks(context: DataContext, ratio: float) -> Iterator[None]:
    """Apply backpressure to a stage that runs ahead of the next one, even if the object store has room.

    By default Ray Data does so only when half of the object store is full. The threshold can otherwise be set only by
    an environment variable that is read when Ray Data is imported.

    Args:
        context: context of the datasets that are made and run in the block.
        ratio: maximum ratio of the bytes waiting for a stage to the bytes that the stage is processing.
    """
    context.downstream_capacity_backpressure_ratio = ratio
    policy = DownstreamCapacityBackpressurePolicy
    before, policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD = policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD, 0.0
    try:
        yield
    finally:
        policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD = before


@contextlib.contextmanager
def keep_sigterm_handler() -> Iterator[None]:
    """Keep Ray from replacing the process's handler of SIGTERM while it starts.

    Ray's handlers kill its processes below the running job, which then aborts, or end the process without cleaning up.
    """
    set_handler = ray._private.utils.set_sigterm_handler
    ray._private.utils.set_sigterm_handler = lambda _handler: None
    try:
        yield
    finally:
        ray._private.utils.set_sigterm_handler = set_handler
