from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from msmtfn.errors import TrainingDataError
from msmtfn.registry.gate import decide_promotion, paired_interval
from msmtfn.registry.records import GateConfig

CONFIG = GateConfig(gate_margin=0.02, gate_confidence=0.9, gate_min_calls=40)


def scored(is_correct: Sequence[bool | None]) -> pa.Table:
    """Scored calls with a correct (True) or wrong (False) intent, and rejects (None)."""
    rows: list[dict[str, Any]] = [
        {
            "row_id": row,
            "intent": "A",
            "status": "rejected" if correct is None else "scored",
            "intent_predicted": None if correct is None else "A" if correct else "C",
        }
        for row, correct in enumerate(is_correct)
    ]
    return pa.Table.from_pylist(rows)


def test_the_first_model_passes() -> None:
    decision = decide_promotion(scored([True, False]), None, CONFIG, 0)
    assert (decision.passed, decision.candidate, decision.present) == (True, 0.5, None)


def test_a_better_model_passes_and_a_worse_one_does_not() -> None:
    worse, better = [True] * 40 + [False] * 60, [True] * 70 + [False] * 30
    up, down = (
        decide_promotion(scored(better), scored(worse), CONFIG, 0),
        decide_promotion(scored(worse), scored(better), CONFIG, 0),
    )
    assert (up.passed, down.passed) == (True, False)
    assert up.difference == pytest.approx(0.3)
    assert up.interval is not None
    assert 0 < up.interval[0] < 0.3 < up.interval[1]
    assert (up.candidate, up.present, up.calls) == (0.7, 0.4, 100)


def test_a_model_with_the_same_predictions_passes_without_a_margin() -> None:
    same = scored([True, False] * 25)
    decision = decide_promotion(same, same, GateConfig(gate_margin=0.0), 0)
    assert (decision.passed, decision.interval) == (True, (0.0, 0.0))


def test_a_model_with_as_many_gains_as_losses_does_not_pass_by_luck() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(40) < 0.5
    after = before.copy()
    after[rng.permutation(40)[:20]] ^= True
    decision = decide_promotion(scored(after.tolist()), scored(before.tolist()), CONFIG, 0)
    assert decision.interval is not None
    assert decision.interval[0] < -0.02
    assert not decision.passed


def test_a_reject_counts_as_wrong_unless_both_models_rejected_the_call() -> None:
    decision = decide_promotion(
        scored([True, None, True, False, None]), scored([None, True, True, True, None]), CONFIG, 0
    )
    assert (decision.calls, decision.candidate, decision.present) == (4, 0.5, 0.75)
    mostly_rejected = decide_promotion(scored([True] + [None] * 99), scored([True] * 100), CONFIG, 0)
    assert not mostly_rejected.passed


def test_the_current_model_stays_if_there_are_too_few_calls() -> None:
    decision = decide_promotion(scored([True] * 39), scored([True] * 39), CONFIG, 0)
    assert not decision.passed
    assert "39 calls are too few to compare models, 40 are needed" in decision.reason
    assert decide_promotion(scored([True] * 40), scored([True] * 40), CONFIG, 0).passed


def test_a_model_that_scored_no_call_cannot_be_scored() -> None:
    with pytest.raises(TrainingDataError, match="cannot be compared"):
        decide_promotion(scored([None]), None, CONFIG, 0)


def test_the_interval_covers_the_difference_as_often_as_its_confidence() -> None:
    rng = np.random.default_rng(1)
    num_trials, num_covered = 200, 0
    for seed in range(num_trials):
        both = rng.random(150)
        right, before = both < 0.7, (both + rng.normal(0, 0.1, 150)) < 0.6
        low, high = paired_interval(right, before, 0.9, seed)
        num_covered += low <= 0.1 <= high
    assert 0.8 < num_covered / num_trials < 0.98


def test_the_paired_interval_is_narrower_than_the_unpaired() -> None:
    rng = np.random.default_rng(2)
    before = rng.random(400) < 0.6
    right = before | (rng.random(400) < 0.05)
    low, high = paired_interval(right, before, 0.9, 0)
    unpaired = 2 * 1.645 * np.sqrt((right.var() + before.var()) / 400)
    assert high - low < unpaired / 2
