from __future__ import annotations

import pytest

from msmtfn.training.resources import ClusterConfig


@pytest.mark.parametrize(("name", "minimum"), [("num_workers", 1), ("cpus_per_worker", 1), ("gpus_per_worker", 0)])
def test_a_number_out_of_range_is_rejected_by_name(name: str, minimum: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {minimum - 1}; it must be at least {minimum}$"):
        ClusterConfig(**{name: minimum - 1})
