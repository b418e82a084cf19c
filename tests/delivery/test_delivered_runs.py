"""The page and the customers of days that are run, resumed and retried, on the local disk and on S3."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from rich.console import Console

from msmtfn import storage
from msmtfn.daily.publish import read_leads, read_success
from msmtfn.daily.runner import DayRunner
from msmtfn.daily.success import Success
from msmtfn.delivery.deliver import DeliveryConfig, deliver_day
from tests.daily.parts import DATE
from tests.daily.plain_graph import Killed, PlainGraph
from tests.delivery.test_page import Page

CUSTOMERS = {"c0": "x", "c1": "x", "c2": "y"}


@pytest.fixture
def day(place: str) -> str:
    """A manifest of three calls of two customers; its place."""
    folder = f"{place}/manifests/date={DATE}"
    storage.make_folder(folder)
    calls = {"call_id": list(CUSTOMERS), "uri": list(CUSTOMERS), "customer_id": list(CUSTOMERS.values())}
    storage.write_parquet(f"{folder}/calls.parquet", pa.table(calls))
    return place


def run(place: str, graph: PlainGraph, **options: Any) -> Success:
    config = DeliveryConfig(report=f"{place}/report", customers=f"{place}/customers")
    runner = DayRunner(
        manifests=f"{place}/manifests",
        root=f"{place}/leads",
        work=f"{place}/leads.work",
        graph=graph,
        console=Console(),
        start_ray=lambda: None,
        verb="scoring",
        deliver=lambda leads, date, check: deliver_day(leads, date, config, check),
        **options,
    )
    return runner.run(DATE)[1]


def page_of(place: str) -> Any:
    text = storage.read_text(f"{place}/report/date={DATE}/index.html")
    assert text is not None
    return Page(text).data["calls"]


def customers_of(place: str) -> dict[str, int]:
    rows = read_leads(f"{place}/customers", DATE).to_table().to_pylist()
    assert len({row["customer_id"] for row in rows}) == len(rows)
    return {row["customer_id"]: row["num_calls"] for row in rows}


def publication_of(place: str) -> str:
    success = read_success(f"{place}/customers", DATE)
    assert success is not None
    return success.publication


def test_a_day_is_delivered_once_and_the_same_command_changes_nothing(day: str) -> None:
    run(day, PlainGraph())
    assert (page_of(day)["call"], customers_of(day)) == (["c0", "c1", "c2"], {"x": 2, "y": 1})
    before = publication_of(day)
    run(day, PlainGraph())
    assert publication_of(day) == before
    assert page_of(day)["call"] == ["c0", "c1", "c2"]


def test_a_run_that_was_killed_delivers_nothing_and_when_resumed_each_call_once(day: str) -> None:
    with pytest.raises(Killed):
        run(day, PlainGraph(passes=[[0, 2]], dies_in=0))
    assert not storage.exists(f"{day}/report")
    assert read_success(f"{day}/customers", DATE) is None
    assert run(day, PlainGraph()).calls_resumed == 2
    assert (page_of(day)["call"], customers_of(day)) == (["c0", "c1", "c2"], {"x": 2, "y": 1})


def test_a_run_that_was_killed_once_its_day_was_published_delivers_the_next_time(day: str) -> None:
    run(day, PlainGraph())
    storage.delete(f"{day}/report")
    storage.delete(f"{day}/customers")
    run(day, PlainGraph(dies_in=0))  # no pass is left that could die
    assert (page_of(day)["call"], customers_of(day)) == (["c0", "c1", "c2"], {"x": 2, "y": 1})


def test_after_a_retry_page_and_customers_are_those_of_the_new_leads(day: str) -> None:
    run(day, PlainGraph(missing=["c1", "c2"]))
    assert page_of(day)["call"] == ["c0"]
    before = publication_of(day)
    assert run(day, PlainGraph(missing=["c2"]), retry_rejected=True).retried == 2
    assert (page_of(day)["call"], customers_of(day)) == (["c0", "c1"], {"x": 2, "y": 1})
    assert publication_of(day) != before
    text = storage.read_text(f"{day}/report/date={DATE}/index.html") or ""
    assert "1 rejected" in Page(text).texts["span"]


def test_the_record_of_the_customers_names_the_leads_that_they_are_made_of(day: str) -> None:
    success = run(day, PlainGraph())
    record = json.loads(storage.read_text(f"{day}/customers/date={DATE}/_SUCCESS") or "")
    assert record["leads_publication"] == success.publication
