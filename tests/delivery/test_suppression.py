from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa

from msmtfn.delivery.published import open_day
from msmtfn.delivery.suppression import find_suppressed
from tests.daily.parts import DATE
from tests.delivery.days import lead, open_leads, publish_leads

LAST_WEEK = DATE - dt.timedelta(days=7)


def test_the_strongest_reason_counts_and_a_reason_of_the_call_alone_does_not(tmp_path: Path) -> None:
    rows = [
        lead("c1", None, 9.0, customer_id="x", unranked_reason="refused"),
        lead("c2", None, 9.0, customer_id="x", unranked_reason="do_not_call"),
        lead("c3", None, 9.0, customer_id="y", unranked_reason="no_conversation"),
        lead("c4", None, 9.0, customer_id="z", unranked_reason="no_consent"),
    ]
    day = open_leads(str(tmp_path), rows)
    assert find_suppressed(day, [], pa.array(["x", "y", "z"])) == {"x": "do_not_call", "z": "no_consent"}


def test_of_earlier_days_only_a_refusal_holds(tmp_path: Path) -> None:
    earlier = [
        lead("c1", None, 9.0, customer_id="x", unranked_reason="refused"),
        lead("c2", None, 9.0, customer_id="y", unranked_reason="no_consent"),
    ]
    publish_leads(str(tmp_path), earlier, LAST_WEEK)
    day = open_leads(str(tmp_path), [lead("c3", 1, 90.0, customer_id="x"), lead("c4", 2, 80.0, customer_id="y")])
    assert find_suppressed(day, [open_day(str(tmp_path), LAST_WEEK)], pa.array(["x", "y"])) == {"x": "refused"}


def test_customers_who_are_not_looked_for_are_left_out(tmp_path: Path) -> None:
    day = open_leads(str(tmp_path), [lead("c1", None, 9.0, customer_id="x", unranked_reason="refused")])
    assert find_suppressed(day, [], pa.array(["y"])) == {}


def test_a_refusal_by_nobody_known_says_nothing_of_other_calls(tmp_path: Path) -> None:
    rows = [
        lead("c1", None, 9.0, unranked_reason="refused"),
        lead("c2", None, 9.0, customer_id="", unranked_reason="refused"),
    ]
    day = open_leads(str(tmp_path), rows)
    assert find_suppressed(day, [], pa.array([None, "", "x"])) == {}
