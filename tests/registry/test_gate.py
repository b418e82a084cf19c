from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from msmtfn.errors import TrainingDataError
from msmtfn.registry.gate import GateConfig, decide, paired_interval

CONFIG = GateConfig(gate_margin=0.02, gate_confidence=0.9, gate_min_calls=40)


def judged(right: Sequence[bool | None]) -> pa.Table:
    """Calls whose intent is named rightly, or not, or that were rejected."""
    rows: list[dict[str, Any]] = [
        {
            "row_id": row,
            "intent": "A",
            "status": "rejected" if is_right is None else "scored",
            "intent_predicted": None if is_right is None else "A" if is_right else "C",
        }
        for row, is_right in enumerate(right)
    ]
    return pa.Table.from_pylist(rows)


def test_the_first_model_passes() -> None:
    decision = decide(judged([True, False]), None, CONFIG, 0)
    assert (decision.passed, decision.candidate, decision.present) == (True, 0.5, None)


def test_a_better_model_passes_and_a_worse_one_does_not() -> None:
    worse, better = [True] * 40 + [False] * 60, [True] * 70 + [False] * 30
    up, down = decide(judged(better), judged(worse), CONFIG, 0), decide(judged(worse), judged(better), CONFIG, 0)
    assert (up.passed, down.passed) == (True, False)
    assert up.difference == pytest.approx(0.3)
    assert up.interval is not None
    assert 0 < up.interval[0] < 0.3 < up.interval[1]
    assert (up.candidate, up.present, up.calls) == (0.7, 0.4, 100)


def test_a_model_that_says_the_same_passes_without_any_margin() -> None:
    same = judged([True, False] * 25)
    decision = decide(same, same, GateConfig(gate_margin=0.0), 0)
    assert (decision.passed, decision.interval) == (True, (0.0, 0.0))


def test_a_model_that_is_better_by_luck_does_not_pass() -> None:
    rng = np.random.default_rng(0)
    before = rng.random(40) < 0.5
    after = before.copy()
    after[rng.permutation(40)[:20]] ^= True
    decision = decide(judged(after.tolist()), judged(before.tolist()), CONFIG, 0)
    assert decision.interval is not None
    assert decision.interval[0] < -0.02
    assert not decision.passed


def test_what_a_model_cannot_score_it_has_named_wrongly_and_what_none_can_counts_for_none() -> None:
    decision = decide(judged([True, None, True, False, None]), judged([None, True, True, True, None]), CONFIG, 0)
    assert (decision.calls, decision.candidate, decision.present) == (4, 0.5, 0.75)
    cripple = decide(judged([True] + [None] * 99), judged([True] * 100), CONFIG, 0)
    assert not cripple.passed


def test_with_few_calls_the_present_model_stays() -> None:
    decision = decide(judged([True] * 39), judged([True] * 39), CONFIG, 0)
    assert not decision.passed
    assert "39 calls are too few to compare models, 40 are needed" in decision.reason
    assert decide(judged([True] * 40), judged([True] * 40), CONFIG, 0).passed


def test_without_a_call_a_model_cannot_be_judged() -> None:
    with pytest.raises(TrainingDataError, match="cannot be judged"):
        decide(judged([None]), None, CONFIG, 0)


def test_the_interval_holds_the_difference_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    times, held = 200, 0
    for seed in range(times):
        both = rng.random(150)
        right, before = both < 0.7, (both + rng.normal(0, 0.1, 150)) < 0.6
        low, high = paired_interval(right, before, 0.9, seed)
        held += low <= 0.1 <= high
    assert 0.8 < held / times < 0.98


def test_a_pair_tells_more_than_two_samples_would() -> None:
    rng = np.random.default_rng(2)
    before = rng.random(400) < 0.6
    right = before | (rng.random(400) < 0.05)
    low, high = paired_interval(right, before, 0.9, 0)
    unpaired = 2 * 1.645 * np.sqrt((right.var() + before.var()) / 400)
    assert high - low < unpaired / 2
