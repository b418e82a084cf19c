from __future__ import annotations

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy.downstream_capacity_backpressure_policy import (
    DownstreamCapacityBackpressurePolicy,
)

from msmtfn.compat.ray import limit_queued_blocks


def test_backpressure_applies_even_if_the_object_store_has_room() -> None:
    context = DataContext()
    limit_queued_blocks(context, 3.0)
    assert context.downstream_capacity_backpressure_ratio == 3.0
    assert DownstreamCapacityBackpressurePolicy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD == 0.0
