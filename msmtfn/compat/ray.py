"""What msmtfn needs of Ray 2.60 and Ray has no public name for."""

from __future__ import annotations

from typing import Final

import ray
from ray.data import DataContext

from msmtfn.compat.versions import install_command
from msmtfn.errors import BrokenEnvironmentError

try:
    from ray.data._internal.execution.backpressure_policy.downstream_capacity_backpressure_policy import (
        DownstreamCapacityBackpressurePolicy,
    )

    DownstreamCapacityBackpressurePolicy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD  # noqa: B018
except (ImportError, AttributeError) as exc:
    raise BrokenEnvironmentError(
        f"ray {ray.__version__} has no DownstreamCapacityBackpressurePolicy with a threshold, which msmtfn sets; "
        f"install a version that is tested with it: {install_command('ray')}"
    ) from exc

QUIET_LOGGERS: Final = ("ray._private.authentication.authentication_token_setup", "ray.data._internal.progress")
"""They warn, every night, that authentication is on and that the job shows progress in its own way."""


def limit_waiting_blocks(context: DataContext, ratio: float) -> None:
    """Hold a stage back when it is ahead of the next one, however much room the object store has.

    By itself the engine does so only when half of the object store is full, and has no setting for that but an
    environment variable, which is read when Ray Data is imported.

    Args:
        context: of the dataset.
        ratio: of bytes that may wait for a stage to bytes that the stage is working on.
    """
    context.downstream_capacity_backpressure_ratio = ratio
    DownstreamCapacityBackpressurePolicy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD = 0.0
