from __future__ import annotations

from ray.data import DataContext
from ray.data._internal.execution.backpressure_policy.downstream_capacity_backpressure_policy import (
    DownstreamCapacityBackpressurePolicy,
)

from msmtfn.compat.ray import limit_queued_blocks


def test_backpressure_applies_in_the_block_even_if_the_object_store_has_room() -> None:
    context, policy = DataContext(), DownstreamCapacityBackpressurePolicy
    before = policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD
    with limit_queued_blocks(context, 3.0):
        assert context.downstream_capacity_backpressure_ratio == 3.0
        assert policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD == 0.0
    assert before == policy.OBJECT_STORE_BUDGET_UTIL_THRESHOLD > 0
