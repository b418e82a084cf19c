"""Private names of Ray 2.60 that msmtfn needs because there is no public equivalent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

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
except (ImportError, AttributeError) as exc:
    raise BrokenEnvironmentError(
        f"ray {ray.__version__} lacks a private name that msmtfn needs ({exc}); install a tested version: "
        f"{install_command('ray')}"
    ) from exc

QUIET_LOGGERS: Final = ("ray._private.authentication.authentication_token_setup", "ray.data._internal.progress")
"""Loggers that warn on every run that authentication is on and that Ray's own progress bars are off."""


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
