"""Private names of Ray 2.60 that msmtfn needs because there is no public equivalent."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
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
    from ray.data._internal.execution.execution_callback import ExecutionCallback
    from ray.data.exceptions import ExecutionTimeoutError

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


class _ExecutionEndedError(ExecutionTimeoutError):
    """Error that ends an execution; only this kind Ray Data passes on without a stack trace and a call to report it."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@contextlib.contextmanager
def watch_blocks(
    context: DataContext, find_failure: Callable[[int], Exception | None], add_failed_block: Callable[[Exception], bool]
) -> Iterator[None]:
    """Watch the blocks of datasets that are made and run in the block: Ray Data has no public hook for either.

    Args:
        context: context of the datasets.
        find_failure: called at every step of an execution with the number of blocks that have left the last operator;
            an exception that it returns ends the execution and is raised here.
        add_failed_block: called with the error of each block that fails and is skipped; if it returns False, the event
            is not logged.
    """

    def is_logged(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, Exception) or add_failed_block(error)

    block_logger = logging.getLogger(BLOCK_LOGGER)
    context.custom_execution_callback_classes = [_StepCallback(find_failure)]  # type: ignore[list-item]
    block_logger.addFilter(is_logged)
    try:
        yield
    except _ExecutionEndedError as exc:
        raise exc.error from None
    finally:
        block_logger.removeFilter(is_logged)


class _StepCallback(ExecutionCallback):
    """Callback that calls a function at every step, and the class that Ray Data calls to make that callback.

    Ray Data copies the settings with every dataset and sends them to workers. A copy is the callback itself, so that
    the function sees what this process has noted; a worker gets one that does nothing.
    """

    def __init__(self, find_failure: Callable[[int], Exception | None]) -> None:
        self.find_failure = find_failure

    def __call__(self) -> _StepCallback:
        return self

    def __deepcopy__(self, _memo: dict[int, Any]) -> _StepCallback:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return ExecutionCallback, ()

    def on_execution_step(self, executor: Any) -> None:
        metrics = executor._output_node[0].metrics
        error = self.find_failure(metrics.num_tasks_finished - metrics.num_tasks_failed)
        if error is not None:
            raise _ExecutionEndedError(error)


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
