"""The scorer with MMML: the fast encodings of its rounds, and evidence."""

from __future__ import annotations

import numpy as np
import pytest

from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.model.runtime.precision import ScoringPrecision
from tests.conftest import make_tiny_mmml
from tests.inference.batches import CALLS, probabilities_of, score, three_calls

CALL_ROUNDS = [
    CallRounds([samples for samples, _ in call], [np.array(ids, np.int32) for _, ids in call]) for call in CALLS
]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.03)])
def test_the_unpadded_encoding_gives_the_probabilities_of_the_padded_one(
    precision: ScoringPrecision, tolerance: float
) -> None:
    network = make_tiny_mmml()
    padded = Scorer(network, ScorerConfig(device="cpu", encoding="padded")).probabilities(CALL_ROUNDS)
    unpadded = Scorer(network, ScorerConfig(device="cpu", precision=precision)).probabilities(CALL_ROUNDS)
    for task in TASKS:
        np.testing.assert_allclose(unpadded[task], padded[task], atol=tolerance)


def test_a_call_gets_a_score_and_evidence() -> None:
    for row in score(Scorer(make_tiny_mmml(), ScorerConfig(device="cpu")), three_calls()):
        assert row["status"] == "scored"
        assert all(0 < value < 1 for value in probabilities_of(row))
        assert row["evidence"] is not None
