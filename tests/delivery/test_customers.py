from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msmtfn import storage
from msmtfn.daily.publish import read_leads, read_success
from msmtfn.delivery.customers import publish_customers, roll_up
from msmtfn.delivery.published import open_day
from tests.daily.parts import DATE
from tests.delivery.days import SCHEMA, Row, at, lead, open_leads, publish_leads, reject

LAST_WEEK = DATE - dt.timedelta(days=7)


def rolled_up(root: Path, rows: list[Row], num_days: int = 1, **columns: Any) -> dict[str | None, Row]:
    """The customers of a day by their ids."""
    table = roll_up(open_leads(str(root), rows, **columns), num_days)
    return {row["customer_id"]: row for row in table.to_pylist()}


THREE_CALLS = [
    lead("c1", 1, 90.0, customer_id="x", started_at=at(9)),
    lead("c2", 2, 80.0, customer_id="y", started_at=at(10)),
    lead("c3", 3, 60.0, customer_id="x", started_at=at(15)),
    lead("c4", 4, 30.0, customer_id="x", started_at=at(11)),
]


def test_a_customer_of_three_calls_has_one_rank_and_the_best_call(tmp_path: Path) -> None:
    customers = rolled_up(tmp_path, THREE_CALLS)
    assert [row["customer_rank"] for row in customers.values()] == [1, 2]
    x = customers["x"]
    assert (x["num_calls"], x["best_score"], x["call_id"], x["lead_rank"]) == (3, 90.0, "c1", 1)
    assert customers["y"]["customer_rank"] == 2


def test_the_last_score_is_that_of_the_latest_call_and_the_trend_its_distance_from_the_mean_before(
    tmp_path: Path,
) -> None:
    x = rolled_up(tmp_path, THREE_CALLS)["x"]
    assert x["last_score"] == 60.0
    assert x["trend"] == pytest.approx(60 - (90 + 30) / 2)


def test_a_single_call_has_no_trend(tmp_path: Path) -> None:
    y = rolled_up(tmp_path, THREE_CALLS)["y"]
    assert (y["last_score"], y["trend"]) == (80.0, None)


def test_which_call_was_the_last_is_not_guessed(tmp_path: Path) -> None:
    rows = [lead("c1", 1, 90.0, customer_id="x"), lead("c2", 2, 10.0, customer_id="x")]
    x = rolled_up(tmp_path, rows)["x"]
    assert (x["last_score"], x["trend"]) == (None, None)


def test_calls_of_earlier_days_count_within_the_number_of_days(tmp_path: Path) -> None:
    earlier = [lead("o1", 1, 40.0, customer_id="y"), reject("o2", customer_id="y"), lead("o3", 2, 9.0, customer_id="z")]
    publish_leads(str(tmp_path), earlier, LAST_WEEK)
    near = rolled_up(tmp_path, THREE_CALLS, num_days=7)["y"]
    assert (near["num_calls"], near["num_calls_recent"], near["trend"]) == (1, 1, None)
    far = roll_up(open_day(str(tmp_path), DATE), 8).to_pylist()
    assert {row["customer_id"] for row in far} == {"x", "y"}
    assert [(row["num_calls_recent"], row["trend"]) for row in far if row["customer_id"] == "y"] == [(3, 40.0)]


@pytest.mark.parametrize("reason", ["do_not_call", "no_consent", "refused"])
def test_a_customer_who_is_to_be_left_alone_has_no_rank_whatever_the_other_calls(tmp_path: Path, reason: str) -> None:
    rows = [*THREE_CALLS, lead("c5", None, 70.0, customer_id="x", unranked_reason=reason)]
    customers = rolled_up(tmp_path, rows)
    assert (customers["x"]["customer_rank"], customers["x"]["unranked_reason"]) == (None, reason)
    assert customers["y"]["customer_rank"] == 1


def test_who_refused_last_week_is_left_alone(tmp_path: Path) -> None:
    publish_leads(str(tmp_path), [lead("o1", None, 5.0, customer_id="x", unranked_reason="refused")], LAST_WEEK)
    assert rolled_up(tmp_path, THREE_CALLS, num_days=7)["x"]["customer_rank"] == 1
    assert rolled_up(tmp_path, THREE_CALLS, num_days=8)["x"]["unranked_reason"] == "refused"


def test_a_customer_without_a_ranked_call_says_why(tmp_path: Path) -> None:
    rows = [
        lead("c1", None, 70.0, customer_id="voicemail", unranked_reason="no_conversation"),
        reject("c2", customer_id="broken"),
    ]
    customers = rolled_up(tmp_path, rows)
    assert [row["unranked_reason"] for row in customers.values()] == ["no_conversation", "rejected"]
    assert customers["broken"]["best_score"] is None


def test_each_call_without_a_customer_is_a_row_of_its_own(tmp_path: Path) -> None:
    rows = [lead("c1", 1, 90.0), lead("c2", 2, 80.0, customer_id=""), lead("c3", 3, 70.0, customer_id="x")]
    table = roll_up(open_leads(str(tmp_path), rows), 1)
    found = [(row["customer_id"], row["call_id"], row["customer_rank"]) for row in table.to_pylist()]
    assert found == [(None, "c1", 1), (None, "c2", 2), ("x", "c3", 3)]


def test_leads_of_an_older_version_are_rolled_up_too(tmp_path: Path) -> None:
    names = ("call_id", "customer_id", "status", "lead_score", "lead_rank")
    older = pa.schema([SCHEMA.field(name) for name in names])
    x = rolled_up(tmp_path, THREE_CALLS, schema=older)["x"]
    assert (x["customer_rank"], x["unranked_reason"], x["prediction_set"]) == (1, None, None)


def test_the_table_is_published_once_and_again_when_the_leads_are_replaced(place: str) -> None:
    leads, root = f"{place}/leads", f"{place}/customers"
    first = publish_customers(root, open_leads(leads, THREE_CALLS), 14)
    assert publish_customers(root, open_day(leads, DATE), 14) == first
    replaced = publish_customers(root, open_leads(leads, THREE_CALLS[:2]), 14)
    assert replaced.publication != first.publication
    assert read_success(root, DATE) == replaced
    assert read_leads(root, DATE).to_table()["num_calls"].to_pylist() == [1, 1]
    (file,) = storage.list_files(f"{root}/date={DATE}", ".parquet")
    assert file.rpartition("/")[2].startswith("customers-")
    assert storage.list_files(f"{root}/_runs", ".json") == []


def test_the_record_counts_who_is_ranked_and_why_others_are_not(tmp_path: Path) -> None:
    rows = [*THREE_CALLS, lead("c5", None, 70.0, customer_id="z", unranked_reason="no_consent")]
    success = publish_customers(str(tmp_path / "customers"), open_leads(str(tmp_path / "leads"), rows), 14)
    assert success.unknown["customers"] == 3
    assert success.unknown["customers_ranked"] == 2
    assert success.unknown["customers_unranked_by_reason"] == {"no_consent": 1}


def test_a_day_without_calls_has_a_table_without_rows(tmp_path: Path) -> None:
    success = publish_customers(str(tmp_path / "customers"), open_leads(str(tmp_path / "leads"), []), 14)
    assert success.unknown["customers"] == 0
    assert len(read_leads(str(tmp_path / "customers"), DATE).to_table()) == 0
