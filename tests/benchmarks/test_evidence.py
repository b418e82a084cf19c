from __future__ import annotations

from msmtfn.model.network import MsmtFn
from msmtfn.model.small import small_config
from tests.benchmarks.evidence import measure_evidence


def test_the_cost_of_evidence_is_measured_on_the_same_calls() -> None:
    network = MsmtFn(small_config(20_000))
    [row] = measure_evidence(network, 2, 1, 0, precision="fp32", device="cpu")
    assert row["rounds"] == 7  # 3.35 per call
    assert row["with_sec"] > 0
