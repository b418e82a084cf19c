from __future__ import annotations

import csv
import datetime as dt
import io
from pathlib import Path

import pytest

from msmtfn import storage
from msmtfn.delivery import export as module
from msmtfn.delivery.customers import publish_customers
from msmtfn.delivery.export import Product, defuse, export_calls, export_customers
from msmtfn.delivery.published import PublishedDay, open_day
from msmtfn.errors import UsageError
from tests.daily.parts import DATE
from tests.delivery.days import lead, open_leads, publish_leads, reject

MOMENTS = [
    {"start_sec": 17.5, "end_sec": 30.0, "change": 23.4, "side": "words"},
    {"start_sec": 65.0, "end_sec": 70.0, "change": -5.0, "side": "both"},
]
ROWS = [
    lead("c1", 1, 90.04, customer_id="x", agent_id="=cmd()", prediction_set=["A", "B"], evidence=MOMENTS),
    lead("c2", None, 70.0, customer_id="y", unranked_reason="do_not_call"),
    reject("c3", customer_id="z"),
]


def exported(day: PublishedDay, product: Product, out: Path) -> list[dict[str, str]]:
    export_calls(day, product, str(out), 1)
    return list(csv.DictReader(io.StringIO(out.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("text", ["=1+1", "+86 138", "-1", "@a", "\t=1", "\r=1", " =1", "＝1", "＠a"])
def test_a_formula_is_defused(text: str) -> None:
    assert defuse(text).startswith("'")


def test_other_text_stays_as_it_is_in_one_line() -> None:
    assert defuse("agent-03") == "agent-03"
    assert defuse("客户 1") == "客户 1"
    assert defuse("a\nb\x00") == "a\\nb\\x00"


def test_a_call_is_one_row_keyed_by_day_and_call(tmp_path: Path) -> None:
    rows = exported(open_leads(str(tmp_path / "leads"), ROWS), "csv", tmp_path / "out.csv")
    assert rows[0] == {
        "lead_id": f"{DATE}/c1",
        "date": f"{DATE}",
        "status": "ranked",
        "rank": "1",
        "score": "90.0",
        "intent": "A",
        "prediction_set": "A;B",
        "why": "0:17 +23; 1:05 -5",
        "call_id": "c1",
        "customer_id": "x",
        "agent_id": "'=cmd()",
        "domain": "",
    }
    assert [(row["status"], row["rank"]) for row in rows[1:]] == [("do_not_call", "")]


def test_a_ranked_call_of_a_customer_who_refused_last_week_is_not_ranked(tmp_path: Path) -> None:
    leads = str(tmp_path / "leads")
    refused = lead("o1", None, 5.0, customer_id="x", unranked_reason="refused")
    publish_leads(leads, [refused], DATE - dt.timedelta(days=7))
    day = open_leads(leads, ROWS)
    for num_days, expected in ((7, ("ranked", "1")), (8, ("refused", ""))):
        export_calls(day, "csv", str(tmp_path / "out.csv"), num_days)
        row = next(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text())))
        assert (row["status"], row["rank"]) == expected


def test_names_and_empty_cells_are_those_that_the_product_documents(tmp_path: Path) -> None:
    day = open_leads(str(tmp_path / "leads"), ROWS)
    hubspot = exported(day, "hubspot", tmp_path / "hubspot.csv")
    assert next(iter(hubspot[0])) == "msmtfn_lead_id"
    salesforce = exported(day, "salesforce", tmp_path / "salesforce.csv")
    assert next(iter(salesforce[0])) == "Msmtfn_Lead_Id__c"
    assert salesforce[1]["Msmtfn_Rank__c"] == "#N/A"
    assert b"\r" not in (tmp_path / "salesforce.csv").read_bytes()


def test_excel_knows_utf_8_by_its_mark_which_salesforce_does_not_take(tmp_path: Path) -> None:
    day = open_leads(str(tmp_path / "leads"), ROWS)
    export_calls(day, "csv", str(tmp_path / "out.csv"), 1, for_excel=True)
    assert (tmp_path / "out.csv").read_bytes().startswith(b"\xef\xbb\xbflead_id,")
    with pytest.raises(UsageError, match="--excel cannot be combined with salesforce"):
        export_calls(day, "salesforce", str(tmp_path / "out.csv"), 1, for_excel=True)


def test_customers_are_keyed_by_their_id_and_calls_without_one_are_counted(place: str) -> None:
    rows = [*ROWS, lead("c4", 2, 80.0), lead("c5", 3, 60.0, customer_id="x")]
    publish_customers(f"{place}/customers", open_leads(f"{place}/leads", rows), 1)
    day = open_day(f"{place}/customers", DATE)
    assert export_customers(day, "csv", f"{place}/out.csv") == (3, 1)
    found = list(csv.DictReader(io.StringIO(storage.read_text(f"{place}/out.csv") or "")))
    keys = [(row["customer_id"], row["status"], row["rank"], row["num_calls"]) for row in found]
    assert keys == [("x", "ranked", "1", "2"), ("y", "do_not_call", "", "1"), ("z", "rejected", "", "1")]


def test_the_same_day_gives_the_same_file(tmp_path: Path) -> None:
    day = open_leads(str(tmp_path / "leads"), ROWS)
    for name in ("first.csv", "second.csv"):
        export_calls(day, "hubspot", str(tmp_path / name), 1)
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()


def test_a_file_beyond_the_products_limit_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    day = open_leads(str(tmp_path / "leads"), ROWS)
    rules = module.ProductRules(max_rows=2)
    monkeypatch.setitem(module.RULES, "hubspot", rules)
    with pytest.raises(UsageError, match="would have 3 rows, and hubspot takes 2"):
        export_calls(day, "hubspot", str(tmp_path / "out.csv"), 1)
    assert not (tmp_path / "out.csv").exists()
    assert export_calls(day, "hubspot", str(tmp_path / "out.csv"), 1, first=1) == 1
