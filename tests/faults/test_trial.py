from __future__ import annotations

from typing import Any

import pytest

from msmtfn.labels import TASKS
from tests.faults.trial import FaultsConfig, compare_leads


def lead(call_id: str, rank: int | None = 1, shift: float = 0.0) -> dict[str, Any]:
    probabilities = {task: dict.fromkeys(classes, 0.25 + shift) for task, classes in TASKS.items()}
    return {"call_id": call_id, "status": "scored", "lead_rank": rank, **probabilities}


def reject(call_id: str) -> dict[str, Any]:
    return {"call_id": call_id, "status": "rejected", "lead_rank": None, **dict.fromkeys(TASKS)}


EXPECTED = [lead("a"), lead("b", 2), reject("c")]


def test_equal_days_have_no_differences() -> None:
    same = [lead("a", shift=5e-6), lead("b", 2), reject("c")]
    assert compare_leads(same, EXPECTED) == {"lost": 0, "doubled": 0, "differing": 0}


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([lead("a"), reject("c")], {"lost": 1, "doubled": 0, "differing": 0}),
        ([*EXPECTED, lead("b", 2)], {"lost": 0, "doubled": 1, "differing": 0}),
        ([lead("a", 2), lead("b", 1), reject("c")], {"lost": 0, "doubled": 0, "differing": 2}),
        ([lead("a", shift=2e-5), lead("b", 2), reject("c")], {"lost": 0, "doubled": 0, "differing": 1}),
        ([reject("a"), lead("b", 2), reject("c")], {"lost": 0, "doubled": 0, "differing": 1}),
        ([lead("a"), lead("b", 2), lead("c", 3)], {"lost": 0, "doubled": 0, "differing": 1}),
        ([*EXPECTED, lead("d", 3)], {"lost": 0, "doubled": 0, "differing": 1}),
    ],
)
def test_lost_doubled_and_differing_calls_are_counted(rows: list[dict[str, Any]], found: dict[str, int]) -> None:
    assert compare_leads(rows, EXPECTED) == found


def test_a_number_below_one_is_rejected() -> None:
    with pytest.raises(ValueError, match="runs_per_fault is 0"):
        FaultsConfig(runs_per_fault=0)
