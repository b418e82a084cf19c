"""The rejects of a published day, scored again on a real Ray when they can succeed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from msmtfn import storage
from msmtfn.calls.conversation import ConversationConfig
from msmtfn.daily.day import DayPlan, count_done, finish_run, open_run, plan_day
from msmtfn.daily.publish import read_leads, read_success
from msmtfn.daily.retry import carry_over
from msmtfn.daily.success import Success
from msmtfn.leads.schema import leads_schema
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.scoring.pipeline import PipelineConfig
from tests.daily.parts import SCHEMA, rejected, scored
from tests.integration.job import DATE, write_manifest, write_short_calls

NEW = ("facts", "unranked_reason", "prediction_set", "evidence")
"""Columns that earlier versions did not have."""

CONFIG = ScoringConfig(
    pipeline=PipelineConfig(batch_calls=2, block_calls=2, progress_sec=0.1),
    conversation=ConversationConfig(min_customer_sec=0.5),
)
TURNS = [
    {"speaker": "agent", "start_sec": 0.0, "end_sec": 0.5, "text": "a"},
    {"speaker": "customer", "start_sec": 0.5, "end_sec": 1.0, "text": "b"},
]


def plan_of(root: Path, model: Path, *, retry: bool = False) -> DayPlan:
    return plan_day(
        DATE, str(root / "manifests"), str(root / "leads"), ScoringGraph(model, CONFIG), retry_rejected=retry
    )


def score(plan: DayPlan) -> Success:
    return finish_run(open_run(plan), lambda *_: None)


def leads_of(root: Path) -> dict[str, dict[str, Any]]:
    rows = read_leads(str(root / "leads"), DATE).to_table().to_pylist()
    assert len({row["call_id"] for row in rows}) == len(rows)
    return {row["call_id"]: row for row in rows}


@pytest.fixture
def day(tmp_path: Path, tiny_model: Path, ray_address: str) -> Path:
    """A published day of five calls: the recordings of two were late, and one is no recording."""
    (tmp_path / "manifests").mkdir()
    calls = write_short_calls(tmp_path / "manifests" / "calls", 4)
    (calls / "call-000.wav").rename(tmp_path / "late-0.wav")
    (calls / "call-001.wav").rename(tmp_path / "late-1.wav")
    (calls / "text.wav").write_text("no recording")
    uris = {f"call-00{number}": f"{calls}/call-00{number}.wav" for number in range(4)}
    rows = [{"call_id": call_id, "uri": uri, "turns": TURNS} for call_id, uri in uris.items()]
    rows += [{"call_id": "text", "uri": f"{calls}/text.wav", "turns": TURNS}]
    write_manifest(tmp_path / "manifests", rows)
    success = score(plan_of(tmp_path, tiny_model))
    assert success.rejected_by_reason == {"audio_not_found": 2, "audio_unreadable": 1}
    (tmp_path / "late-0.wav").rename(calls / "call-000.wav")
    return tmp_path


@pytest.mark.slow
@pytest.mark.long
def test_rejects_that_can_succeed_are_scored_and_all_else_stays_as_it_was(day: Path, tiny_model: Path) -> None:
    before = leads_of(day)

    def crash() -> None:
        raise RuntimeError("crashed before it published")

    plan = plan_of(day, tiny_model, retry=True)
    run = open_run(plan)
    assert (run.task.num_calls, plan.manifest.num_rows, count_done(plan)) == (2, 5, 0)
    with pytest.raises(RuntimeError, match="crashed"):
        finish_run(run, lambda *_: None, crash)
    assert leads_of(day) == before

    again = open_run(plan_of(day, tiny_model, retry=True))
    assert (again.resumed, again.run_pass, count_done(again.plan)) == (2, None, 2)
    success = finish_run(again, lambda *_: None)
    assert (success.calls, success.scored, success.retried) == (5, 3, 2)
    assert success.rejected_by_reason == {"audio_not_found": 1, "audio_unreadable": 1}
    assert success.run_id == plan.run_id
    assert read_success(str(day / "leads"), DATE) == success
    after = leads_of(day)
    assert after.keys() == before.keys()
    assert after["call-000"]["status"] == "scored"
    for call_id in set(after) - {"call-000", "call-001"}:
        assert {**after[call_id], "lead_rank": None} == {**before[call_id], "lead_rank": None}
    assert sorted(row["lead_rank"] for row in after.values() if row["lead_rank"]) == [1, 2, 3]
    assert plan_of(day, tiny_model).published == success

    (day / "late-1.wav").rename(day / "manifests" / "calls" / "call-001.wav")
    score(plan_of(day, tiny_model, retry=True))
    nothing_left = plan_of(day, tiny_model, retry=True)
    assert (nothing_left.retried, nothing_left.published is not None) == (None, True)
    assert leads_of(day)["text"]["error_code"] == "audio_unreadable"


def test_a_day_that_is_not_published_is_planned_whole(tmp_path: Path, tiny_model: Path) -> None:
    write_short_calls(tmp_path / "manifests", 1)
    plan = plan_of(tmp_path, tiny_model, retry=True)
    assert (plan.published, plan.retried) == (None, None)


def test_columns_that_an_older_version_did_not_have_become_null(tmp_path: Path) -> None:
    rows = [scored(0, 50.0, lead_rank=1), rejected(1, "audio_not_found"), rejected(2)]
    leads = pa.Table.from_pylist(rows, schema=leads_schema(SCHEMA)).drop_columns(list(NEW))
    pq.write_table(leads, tmp_path / "leads.parquet")
    parts = str(tmp_path / "parts")
    storage.make_folder(parts)
    carry_over(pads.dataset(tmp_path / "leads.parquet"), parts, SCHEMA, first_id=1)
    carried = pq.read_table(f"{parts}/carried-00000.parquet")
    assert carried.schema.equals(SCHEMA)
    assert carried.select(["row_id", "call_id", "lead_score", *NEW]).to_pylist() == [
        {"row_id": 1, "call_id": "c0", "lead_score": 50.0, **dict.fromkeys(NEW)},
        {"row_id": 2, "call_id": "c2", "lead_score": None, **dict.fromkeys(NEW)},
    ]
