from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from msmtfn.leads.ranking import LeadWeights, lead_scores, rank_leads

KEYS = pa.schema(
    [
        ("row_id", pa.int64()),
        ("call_id", pa.string()),
        ("status", pa.string()),
        ("lead_score", pa.float32()),
        ("unranked_reason", pa.string()),
    ]
)


def order(*rows: tuple[int, str | None, float | None], unranked: dict[int, str] | None = None) -> tuple[list[int], int]:
    """Row ids in order and how many are ranked, of calls given as row id, call id and score, none where rejected.

    Calls are unranked for the reasons given by their row ids.
    """
    columns: list[list[Any]] = [list(values) for values in zip(*rows, strict=True)] or [[], [], []]
    status = ["rejected" if score is None else "scored" for score in columns[2]]
    reasons = [(unranked or {}).get(row_id) for row_id in columns[0]]
    ids, ranked = rank_leads(pa.table([columns[0], columns[1], status, columns[2], reasons], schema=KEYS))
    return ids.tolist(), ranked


def test_a_sure_call_scores_the_weight_of_its_intent() -> None:
    scores = lead_scores(np.eye(5, dtype=np.float32), LeadWeights())
    assert scores.tolist() == pytest.approx([100, 60, 20, 0, 0])


def test_the_score_is_the_weighted_mean() -> None:
    five = np.array([[0.5, 0.25, 0.125, 0.125, 0.0], [0.0, 0.0, 0.5, 0.25, 0.25]], np.float32)
    assert lead_scores(five, LeadWeights()).tolist() == pytest.approx([50 + 15 + 2.5, 10])


def test_every_weight_counts_for_its_intent() -> None:
    weights = LeadWeights(weight_a=0.1, weight_b=0.2, weight_c=0.3, weight_d=0.4, weight_e=0.5)
    assert lead_scores(np.eye(5, dtype=np.float32), weights).tolist() == pytest.approx([10, 20, 30, 40, 50])


def test_no_calls_have_no_scores() -> None:
    scores = lead_scores(np.zeros((0, 5), np.float32), LeadWeights())
    assert scores.shape == (0,)


@pytest.mark.parametrize("name", ["weight_a", "weight_b", "weight_c", "weight_d", "weight_e"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_a_weight_out_of_range_is_named_with_its_value(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}; it must be between 0 and 1"):
        LeadWeights(**{name: value})


def test_the_best_lead_comes_first() -> None:
    assert order((0, "a", 10.0), (1, "b", 90.0), (2, "c", 50.0)) == ([1, 2, 0], 3)


def test_ties_are_in_the_order_of_their_call_ids() -> None:
    assert order((0, "c", 50.0), (1, "a", 50.0), (2, "b", 50.0)) == ([1, 2, 0], 3)


def test_rejected_calls_come_last_as_the_manifest_has_them() -> None:
    assert order((3, "a", None), (1, "b", 0.0), (0, "c", 5.0), (2, "d", None)) == ([0, 1, 2, 3], 2)


def test_unranked_calls_come_between_the_ranked_and_the_rejected_ones_in_order_of_their_scores() -> None:
    rows = ((0, "a", None), (1, "b", 99.0), (2, "c", 5.0), (3, "d", 70.0), (4, "e", 60.0))
    reasons = {1: "refused", 3: "do_not_call"}
    assert order(*rows, unranked=reasons) == ([4, 2, 1, 3, 0], 2)


def test_rejected_calls_may_lack_an_id() -> None:
    assert order((0, None, None), (1, "b", 1.0), (2, None, None)) == ([1, 0, 2], 1)


def test_the_order_does_not_depend_on_the_order_of_the_parts() -> None:
    rows = [(number, f"c{number % 7}", None if number % 5 == 0 else float(number % 3)) for number in range(40)]
    shuffled = [rows[number] for number in np.random.default_rng(0).permutation(40)]
    assert order(*rows) == order(*shuffled)


def test_a_day_without_a_call_has_no_order() -> None:
    assert order() == ([], 0)


def test_a_day_without_a_scored_call_has_no_rank() -> None:
    assert order((1, "a", None), (0, "b", None)) == ([0, 1], 0)
