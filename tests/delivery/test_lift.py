from __future__ import annotations

import datetime as dt
from typing import Any

import pyarrow as pa
import pytest

from msmtfn.delivery.lift import measure_outcomes
from msmtfn.delivery.outcomes import UNUSED, KnownOutcomes
from msmtfn.errors import OutcomesError

SCHEMA = pa.schema(
    [
        ("date", pa.date32()),
        ("lead_rank", pa.int32()),
        ("lead_score", pa.float64()),
        *((name, pa.string()) for name in ("agent_id", "domain", "language", "codec")),
        ("converted", pa.bool_()),
    ]
)
DATE = dt.date(2026, 11, 21)


def measure(rows: list[dict[str, Any]], first: tuple[int, ...] = ()) -> dict[tuple[str, str], dict[str, Any]]:
    """The figures by measure and slice."""
    leads = pa.Table.from_pylist([{"date": DATE} | row for row in rows], schema=SCHEMA)
    known = KnownOutcomes(leads, UNUSED.empty_table(), DATE, DATE, len(rows))
    return {(row["measure"], row["slice"]): row for row in measure_outcomes(known, first).to_pylist()}


def group(agent: str, leads: int, converted: int) -> list[dict[str, Any]]:
    return [{"agent_id": agent, "lead_score": 50.0, "converted": place < converted} for place in range(leads)]


def test_deciles_are_tenths_of_the_leads_from_the_best_on() -> None:
    rows = [{"lead_score": float(score), "converted": score >= 80} for score in range(100)]
    figures = measure(rows)
    assert [figures["decile", str(place)]["converted"] for place in range(1, 11)] == [10, 10, *[0] * 8]
    assert figures["decile", "1"]["lift"] == pytest.approx(5.0)
    assert figures["decile", "1"]["mean_score"] == pytest.approx(94.5)
    assert figures["all", "all"]["conversion"] == pytest.approx(0.2)


def test_a_band_holds_its_lower_end_and_the_last_one_a_score_of_100() -> None:
    figures = measure([{"lead_score": score, "converted": True} for score in (0.0, 9.99, 10.0, 90.0, 100.0)])
    bands = {name: row["leads"] for (measure_, name), row in figures.items() if measure_ == "band"}
    assert bands == {"90-100": 2, "10-20": 1, "0-10": 2}


def test_the_interval_is_wilsons() -> None:
    row = measure(group("anna", 10, 8))["all", "all"]
    # (8 + z²/2) / (10 + z²) -+ z / (10 + z²) sqrt(8 * 2 / 10 + z²/4) with z = 1.96
    assert (row["low"], row["high"]) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_the_first_of_each_day_are_found_by_their_rank() -> None:
    rows = [{"lead_rank": rank, "lead_score": 50.0, "converted": rank == 1} for rank in (1, 2, 3, None)]
    figures = measure([*rows, *rows], first=(2, 10))
    assert (figures["first", "2"]["leads"], figures["first", "2"]["conversion"]) == (4, 0.5)
    assert figures["first", "10"]["leads"] == 6


def test_a_group_that_differs_from_the_others_is_marked() -> None:
    rows = [*group("anna", 200, 20), *group("bo", 200, 80), *group("cem", 200, 50), *group("dora", 200, 50)]
    figures = measure(rows)
    warnings = {name: row["warning"] for (measure_, name), row in figures.items() if measure_ == "agent_id"}
    assert warnings == {"anna": "differs", "bo": "differs", "cem": None, "dora": None}


def test_forty_equal_groups_do_not_differ_by_chance() -> None:
    # Agent 0 alone would differ from the others: 10 of 40 and 680 of 1560, p = 0.02.
    rows = [row for agent in range(40) for row in group(str(agent), 40, 10 if agent == 0 else 17 + agent % 2)]
    figures = measure(rows)
    row = figures["agent_id", "0"]
    assert row["warning"] is None
    assert row["p_adjusted"] > 0.05


def test_a_small_group_is_marked_and_not_compared() -> None:
    row = measure([*group("anna", 29, 29), *group("bo", 100, 0)])["agent_id", "anna"]
    assert (row["warning"], row["p_adjusted"]) == ("too_few", None)


def test_a_single_group_has_nothing_to_be_compared_with() -> None:
    row = measure([*group("anna", 100, 50), {"lead_score": 1.0, "converted": False}])["agent_id", "anna"]
    assert (row["leads"], row["warning"], row["p_adjusted"]) == (100, None, None)


def test_without_a_conversion_there_is_no_lift() -> None:
    assert measure(group("anna", 40, 0))["all", "all"]["lift"] is None


def test_without_an_outcome_there_is_nothing_to_measure() -> None:
    with pytest.raises(OutcomesError, match="no row belongs to a lead"):
        measure([])
