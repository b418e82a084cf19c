from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from msmtfn.delivery import view as module
from msmtfn.delivery.view import read_view
from tests.daily.parts import DATE
from tests.delivery.days import SCHEMA, at, lead, open_leads, publish_leads, reject

EVIDENCE = [{"start_sec": 12.04, "end_sec": 20.0, "change": 14.25, "side": "words"}]


def test_a_lead_shows_what_its_columns_say(tmp_path: Path) -> None:
    facts = {"agent_talk_share": 0.5, "interruptions": 2, "turns_per_min": float("nan")}
    row = lead("c1", 1, 90.04, customer_id="x", started_at=at(9), evidence=EVIDENCE, facts=facts)
    row |= {"prediction_set": ["A", "B"]}
    (call,) = read_view(open_leads(str(tmp_path), [row]), 10, 1, "https://calls.example/{call_id}").leads
    assert (call.rank, call.score, call.started, call.url) == (1, 90.0, "09:00", "https://calls.example/c1")
    assert (call.prediction_set, call.five[0], call.facts) == (("A", "B"), 0.8, (0.5, None, None, 2.0, None, None))
    assert call.evidence == (module.Moment(12.0, 20.0, 14.2, "words"),)


def test_leads_of_an_older_version_are_shown_without_what_they_lack(tmp_path: Path) -> None:
    names = ("call_id", "status", "error_code", "intent_predicted", "lead_score", "lead_rank")
    older = pa.schema([SCHEMA.field(name) for name in names])
    (call,) = read_view(open_leads(str(tmp_path), [lead("c1", 1, 90.0)], schema=older), 10, 1).leads
    assert (call.evidence, call.facts, call.prediction_set, call.five, call.customer_id) == ((), (), (), (), None)


def test_only_the_first_leads_are_read_and_the_counts_are_those_of_the_day(tmp_path: Path) -> None:
    rows = [lead(f"c{rank}", rank, 100.0 - rank) for rank in range(1, 8)]
    rows[6]["intent_predicted"] = "C"
    rows += [lead("c8", None, 1.0, unranked_reason="no_conversation"), reject("c9")]
    view = read_view(open_leads(str(tmp_path), rows), 3, 1)
    assert [call.call_id for call in view.leads] == ["c1", "c2", "c3"]
    assert (view.counts.ranked, view.counts.wanted, view.counts.unranked) == (7, 6, {"no_conversation": 1})
    assert [(call.call_id, call.reason) for call in view.unranked] == [("c8", "no_conversation")]
    assert [(call.call_id, call.reason, call.detail) for call in view.rejected] == [("c9", "audio_not_found", "why")]


def test_a_customer_who_is_to_be_left_alone_is_no_lead(tmp_path: Path) -> None:
    refused = lead("o1", None, 1.0, customer_id="x", unranked_reason="refused")
    publish_leads(str(tmp_path), [refused], DATE - dt.timedelta(days=7))
    day = open_leads(str(tmp_path), [lead("c1", 1, 90.0, customer_id="x"), lead("c2", 2, 80.0, customer_id="y")])
    view = read_view(day, 10, 8)
    assert [call.call_id for call in view.leads] == ["c2"]
    assert [(call.call_id, call.reason) for call in view.suppressed] == [("c1", "refused")]


def test_rejects_are_listed_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LISTED", 2)
    view = read_view(open_leads(str(tmp_path), [reject(f"c{number}") for number in range(5)]), 10, 1)
    assert [call.call_id for call in view.rejected] == ["c0", "c1"]
    assert view.success.rejected == 5
