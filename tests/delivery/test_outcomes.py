from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn import storage
from msmtfn.delivery.outcomes import KnownOutcomes, join_outcomes, read_outcomes
from msmtfn.errors import OutcomesError, StorageError
from tests.daily.parts import DATE
from tests.delivery.days import lead, publish_leads, reject

BEFORE = DATE - dt.timedelta(days=7)
DAYS = 28


@pytest.fixture
def leads(tmp_path: Path) -> str:
    """A customer x with two calls today and one a week ago, a customer y, a call without a rank, and a reject."""
    root = str(tmp_path / "leads")
    publish_leads(root, [lead("b1", 1, 60.0, customer_id="x", agent_id="anna")], date=BEFORE)
    today = [
        lead("c1", 1, 90.0, customer_id="x", agent_id="bo"),
        lead("c2", 2, 50.0, customer_id="x", agent_id="bo"),
        lead("c3", 3, 10.0, customer_id="y", agent_id="bo"),
        lead("c4", None, 5.0, unranked_reason="refused"),
        reject("c5", customer_id="z"),
    ]
    publish_leads(root, today)
    return root


def join(leads: str, text: str, **options: Any) -> KnownOutcomes:
    file = Path(leads).with_name("outcomes.csv")
    file.write_text(text, encoding="utf-8")
    return join_outcomes(str(file), leads, options.get("last_date"), options.get("num_days", DAYS))


def verdicts(known: KnownOutcomes) -> list[tuple[float, bool]]:
    """Score of each lead whose outcome is known, and whether it was converted."""
    rows = known.leads.to_pylist()
    return sorted((row["lead_score"], row["converted"]) for row in rows)


def reasons(known: KnownOutcomes) -> list[tuple[int, str]]:
    return [(row["row"], row["reason"]) for row in known.unused.to_pylist()]


def test_a_row_belongs_to_its_call(leads: str) -> None:
    known = join(leads, "call_id,converted\nc2,true\nc4,false\n")
    assert verdicts(known) == [(5.0, False), (50.0, True)]
    assert (known.first_date, known.last_date, known.scored) == (BEFORE, DATE, 5)
    assert known.leads["codec"].to_pylist() == ["wav", "wav"]


def test_of_a_customers_calls_the_best_one_of_the_latest_day_counts(leads: str) -> None:
    assert verdicts(join(leads, "customer_id,converted\nx,yes\n")) == [(90.0, True)]


def test_a_call_after_the_outcome_cannot_have_led_to_it(leads: str) -> None:
    known = join(leads, f"customer_id,converted,date\nx,1,{BEFORE}\ny,1,{BEFORE}\n")
    assert verdicts(known) == [(60.0, True)]
    assert reasons(known) == [(2, "before_the_call")]


def test_a_row_with_both_ids_belongs_to_its_call(leads: str) -> None:
    assert verdicts(join(leads, "call_id,customer_id,converted\nc2,x,1\n,y,0\n")) == [(10.0, False), (50.0, True)]


def test_only_the_days_asked_for_are_looked_at(leads: str) -> None:
    known = join(leads, "customer_id,converted\nx,yes\n", last_date=BEFORE, num_days=1)
    assert verdicts(known) == [(60.0, True)]
    assert known.scored == 1


def test_every_row_that_is_not_used_is_listed_with_its_reason(leads: str) -> None:
    rows = [
        "c1,true,",
        "c1,TRUE,",
        "c2,true,",
        "c2,false,",
        "c9,true,",
        "c5,true,",
        ",true,",
        "c3,,",
        "c3,maybe,",
        "c3,1,x",
    ]
    known = join(leads, "call_id,converted,date\n" + "\n".join(rows))
    assert verdicts(known) == [(90.0, True)]
    assert reasons(known) == [
        *((2, "repeated"), (3, "contradictory"), (4, "contradictory"), (5, "unknown"), (6, "unknown"), (7, "no_id")),
        *((8, "no_outcome"), (9, "unreadable"), (10, "unreadable")),
    ]
    assert known.unused.to_pylist()[8]["converted"] == "1"
    assert len(known.leads) + len(known.unused) == len(rows)


def test_an_outcome_of_a_call_and_one_of_its_customer_may_contradict_each_other(leads: str) -> None:
    known = join(leads, "call_id,customer_id,converted\nc1,,true\n,x,false\n")
    assert not verdicts(known)
    assert known.unused_by_reason == {"contradictory": 2}


def test_an_exported_id_is_known_again(tmp_path: Path) -> None:
    root = str(tmp_path / "leads")
    publish_leads(root, [lead("+86", 1, 90.0), lead("c,2", 2, 50.0)])
    assert verdicts(join(root, '\ufeffcall_id,note,converted\n\'+86,n,1\n"c,2",5,0\n')) == [(50.0, False), (90.0, True)]


def test_parquet_may_have_booleans_numbers_and_times(leads: str, tmp_path: Path) -> None:
    table = pa.table(
        {
            "customer_id": ["x", "y"],
            "converted": [True, False],
            "date": pa.array([dt.datetime.combine(BEFORE, dt.time(9)), None], pa.timestamp("ns", tz="UTC")),
        }
    )
    pq.write_table(table, tmp_path / "outcomes.parquet")
    known = join_outcomes(str(tmp_path / "outcomes.parquet"), leads, None, DAYS)
    assert verdicts(known) == [(10.0, False), (60.0, True)]


def test_numbers_as_ids_are_read_as_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"call_id": [7], "converted": [1]}), tmp_path / "outcomes")
    (row,) = read_outcomes(str(tmp_path / "outcomes")).to_pylist()
    assert (row["row"], row["call_id"], row["converted"]) == (1, "7", "1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"call_id,outcome\nc1,1\n", "columns call_id, outcome; it needs converted"),
        (b"converted\n1\n", "one of call_id and customer_id"),
        (b"call_id;converted\nc1;1\n", "columns call_id;converted"),
        (b"", "cannot be read"),
        (b"PAR1 and nothing else", "cannot be read"),
        (b"call_id,converted\nc1,1,2,3\n", "cannot be read"),
        (b"call_id,converted\n\xff\xfe,1\n", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_job(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "outcomes").write_bytes(data)
    with pytest.raises(OutcomesError, match=message):
        read_outcomes(str(tmp_path / "outcomes"))


def test_a_file_that_is_not_there_ends_the_job(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        read_outcomes(str(tmp_path / "missing.csv"))


def test_days_without_leads_end_the_job(leads: str) -> None:
    with pytest.raises(OutcomesError, match="no day of the 1 days up to 2020-01-01 is published"):
        join(leads, "call_id,converted\nc1,1\n", last_date=dt.date(2020, 1, 1), num_days=1)


def test_outcomes_and_leads_may_be_on_s3(place: str) -> None:
    publish_leads(f"{place}/leads", [lead("c1", 1, 90.0)])
    storage.make_folder(place)
    storage.write_bytes(f"{place}/outcomes.csv", b"call_id,converted\nc1,1\n")
    assert verdicts(join_outcomes(f"{place}/outcomes.csv", f"{place}/leads", None, DAYS)) == [(90.0, True)]
