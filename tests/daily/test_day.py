from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn.calls.columns import TURN
from msmtfn.calls.conversation import ConversationConfig
from msmtfn.daily.day import DayPlan, delete_runs, finish_run, open_run, plan_day
from msmtfn.daily.publish import read_success
from msmtfn.errors import LockedError, ManifestError, ModelError, StorageError
from msmtfn.features.prepare import PrepareConfig
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.leads.ranking import LeadWeights
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.scoring.pipeline import PipelineConfig
from msmtfn.storage.untrusted import LinkError
from tests.daily import plain_graph
from tests.daily.parts import write_success
from tests.integration.job import DATE, write_manifest

ROWS: list[dict[str, Any]] = [{"call_id": "a", "uri": "a.wav", "turns": None}, {"call_id": "a", "uri": "b.wav"}]


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    return write_manifest(tmp_path / "manifests", ROWS)


def plan_of(manifests: Path, model: Path, config: ScoringConfig | None = None) -> DayPlan:
    return plan_day(
        DATE, str(manifests), str(manifests.parent / "leads"), ScoringGraph(model, config or ScoringConfig())
    )


def test_a_run_is_named_by_its_day_and_is_the_same_for_the_same_plan(manifests: Path, tiny_model: Path) -> None:
    run_id = plan_of(manifests, tiny_model).run_id
    assert run_id.startswith(f"{DATE}-")
    assert plan_of(manifests, tiny_model).run_id == run_id


def test_another_model_makes_another_run(manifests: Path, tiny_model: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_model, tmp_path / "other")
    assert plan_of(manifests, other).run_id == plan_of(manifests, tiny_model).run_id
    (other / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes() + b"\0")
    assert plan_of(manifests, other).run_id != plan_of(manifests, tiny_model).run_id


def test_another_manifest_makes_another_run(manifests: Path, tiny_model: Path) -> None:
    before = plan_of(manifests, tiny_model).run_id
    shutil.rmtree(manifests)
    write_manifest(manifests, [*ROWS, {"call_id": "b", "uri": "b.wav"}])
    assert plan_of(manifests, tiny_model).run_id != before


def test_only_options_that_change_results_change_the_run_id(manifests: Path, tiny_model: Path) -> None:
    before = plan_of(manifests, tiny_model).run_id
    worth = ScoringConfig(scorer=ScorerConfig(lead_weights=LeadWeights(weight_b=0.5)))
    thresholds = ScoringConfig(conversation=ConversationConfig(min_customer_sec=2.0))
    refusal = ScoringConfig(scorer=ScorerConfig(max_refusal_probability=0.6))
    speed = ScoringConfig(pipeline=PipelineConfig(batch_calls=3), scorer=ScorerConfig(samples_per_batch=1))
    for changed in (worth, thresholds, refusal):
        assert plan_of(manifests, tiny_model, changed).run_id != before
    assert plan_of(manifests, tiny_model, speed).run_id == before


def test_planning_touches_nothing(manifests: Path, tiny_model: Path, tmp_path: Path) -> None:
    plan_of(manifests, tiny_model)
    assert not (tmp_path / "leads").exists()


def test_a_run_keeps_its_own_copy_of_the_manifest(manifests: Path, tiny_model: Path) -> None:
    run = open_run(plan_of(manifests, tiny_model))
    shutil.rmtree(manifests)
    rows = pq.read_table(run.folder.calls).to_pylist()
    assert [(row["row_id"], row["call_id"], row["uri"]) for row in rows] == [(0, "a", "a.wav"), (1, "a", "b.wav")]
    assert [row["row_error"] for row in rows] == [
        None,
        "call_id is the same as that of row 0; it must be unique in the day",
    ]


def test_an_incomplete_copy_of_the_manifest_is_replaced(manifests: Path, tiny_model: Path) -> None:
    run = open_run(plan_of(manifests, tiny_model))
    (Path(run.folder.path) / "calls.json").unlink()
    (copy,) = Path(run.folder.calls).iterdir()
    copy.write_bytes(b"half a")
    assert pq.read_table(open_run(plan_of(manifests, tiny_model)).folder.calls).num_rows == 2


def test_the_transcript_stays_out_of_the_parts(manifests: Path, tiny_model: Path) -> None:
    schema = open_run(plan_of(manifests, tiny_model)).task.schema
    assert "turns" not in schema.names
    assert schema.names[:3] == ["row_id", "call_id", "uri"]


def test_the_work_of_an_earlier_run_can_be_deleted(manifests: Path, tiny_model: Path) -> None:
    plan = plan_of(manifests, tiny_model)
    folder = Path(open_run(plan).folder.path)
    delete_runs(plan)
    delete_runs(plan)
    assert not folder.exists()


def test_errors_show_before_ray_starts(manifests: Path, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="2026-11-20"):
        plan_day(
            DATE.replace(day=20), str(manifests), str(tmp_path / "leads"), ScoringGraph(tiny_model, ScoringConfig())
        )
    with pytest.raises(ModelError, match=r"config\.json"):
        plan_of(manifests, tmp_path)
    (tmp_path / "leads").write_text("a file")
    with pytest.raises(StorageError, match="leads"):
        open_run(plan_of(manifests, tiny_model))


def test_a_day_that_cannot_be_compared_is_still_published(
    manifests: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transcript = "a card number"

    def fail(*_: Any) -> Any:
        raise pa.ArrowNotImplementedError(transcript)

    monkeypatch.setattr("msmtfn.scoring.graph.compare_day", fail)
    pq.write_table(pa.table({"call_id": pa.array([], pa.string()), "uri": []}), next(manifests.rglob("*.parquet")))
    run = open_run(plan_of(manifests, tiny_model))
    success = finish_run(run, lambda *_: None)
    assert success.drift == {"figures": {}, "moved": [], "error": "ArrowNotImplementedError"}
    assert read_success(run.plan.leads, DATE) == success
    assert "cannot be compared" in caplog.text
    assert transcript not in caplog.text


def test_a_column_with_the_name_of_an_inner_one_passes_through_under_another(tmp_path: Path, tiny_model: Path) -> None:
    rows = [{"call_id": "a", "uri": "a.wav", "tokens": 7, "lead_rank": 3}]
    run = open_run(plan_of(write_manifest(tmp_path / "manifests", rows), tiny_model))
    (copied,) = pq.read_table(run.folder.calls).to_pylist()
    assert (copied["manifest_tokens"], copied["manifest_lead_rank"]) == (7, 3)


def test_force_is_the_same_run_until_the_day_is_published_again(
    manifests: Path, tiny_model: Path, tmp_path: Path
) -> None:
    leads = str(tmp_path / "leads")
    config = ScoringConfig()
    first = plan_day(DATE, str(manifests), leads, ScoringGraph(tiny_model, config), force=True)
    assert first.name == first.run_id  # there is nothing to be forced yet
    works = []
    for publication in ("00000001", "00000001", "00000002"):
        write_success(leads, DATE, run_id=first.run_id, publication=publication)
        assert plan_day(DATE, str(manifests), leads, ScoringGraph(tiny_model, config)).published is not None
        forced = plan_day(DATE, str(manifests), leads, ScoringGraph(tiny_model, config), force=True)
        assert forced.published is None
        works.append(forced.name)
    assert works[0] == works[1] != works[2]
    assert first.name not in works


def test_the_allowed_locations_of_recordings_change_the_run_id(manifests: Path, tiny_model: Path) -> None:
    allowed = ScoringConfig(prepare=PrepareConfig(allowed_prefixes=("s3://bucket/calls",)))
    leads = str(manifests.parent / "leads")
    runs = {
        plan_day(DATE, str(manifests), leads, ScoringGraph(tiny_model, config)).run_id
        for config in (ScoringConfig(), allowed, ScoringConfig())
    }
    assert len(runs) == 2


def test_a_commit_that_was_cut_short_is_finished(manifests: Path, tiny_model: Path) -> None:
    # On S3 a rename is a copy and a deletion; the engine's own clean-up would lose the calls of a note between the two.
    run = open_run(plan_of(manifests, tiny_model))
    notes = Path(run.folder.checkpoint)
    notes.mkdir()
    for name in ("a.parquet", "a.pending.parquet", "b.pending.parquet"):
        pq.write_table(pa.table({"row_id": pa.array([0], pa.int64())}), notes / name)
    assert open_run(plan_of(manifests, tiny_model)).resumed == 1
    assert sorted(path.name for path in notes.iterdir()) == ["a.parquet", "b.pending.parquet"]


def test_bytes_that_are_not_text_affect_only_their_own_row(tmp_path: Path, tiny_model: Path) -> None:
    bad = pa.array([b"a", b"\xb9\xfa"], pa.binary()).view(pa.string())
    turns = pa.array([None, [{"speaker": "agent", "start_sec": 0.0, "end_sec": 1.0, "text": "a"}]], pa.list_(TURN))
    manifests = write_manifest(tmp_path / "manifests", [])
    table = pa.table({"call_id": bad, "uri": ["a.wav", "b.wav"], "turns": turns, "seller": bad.cast(pa.binary())})
    pq.write_table(table, manifests / f"date={DATE}" / "calls.parquet")
    rows = pq.read_table(open_run(plan_of(manifests, tiny_model)).folder.calls).to_pylist()
    assert [row["call_id"] for row in rows] == ["a", "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"]
    assert [row["row_error"] for row in rows] == [None, None]


def test_a_column_that_polars_wrote_as_a_view_passes_through(tmp_path: Path, tiny_model: Path) -> None:
    manifests = write_manifest(tmp_path / "manifests", [])
    seller = pa.array(["s"], pa.string_view())
    table = pa.table({"call_id": ["a"], "uri": ["a.wav"], "seller": seller, "date": ["monday"]})
    pq.write_table(table, manifests / f"date={DATE}" / "calls.parquet")
    run = open_run(plan_of(manifests, tiny_model))
    assert run.task.schema.field("seller").type == pa.string()
    assert "manifest_date" in run.task.schema.names


def test_only_folders_of_runs_of_the_day_are_forgotten(manifests: Path, tiny_model: Path, tmp_path: Path) -> None:
    plan = plan_of(manifests, tiny_model)
    runs = Path(open_run(plan).folder.path).parent
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").touch()
    kept = [f"{DATE}-notes", f"{DATE}-0123456789ab-after-x", "2026-11-20-0123456789ab", f"x{DATE}-0123456789ab"]
    for name in (*kept, f"{DATE}-0123456789ab-after-0123abcd"):
        (runs / name).mkdir()
    (runs / f"{DATE}-ba9876543210").symlink_to(theirs)
    delete_runs(plan)
    assert sorted(path.name for path in runs.iterdir()) == sorted([*kept, f"{DATE}-ba9876543210"])
    assert (theirs / "file").exists()


def test_a_model_whose_name_is_no_text_is_recorded_with_it_escaped(tmp_path: Path) -> None:
    plain_graph.write_manifest(tmp_path / "manifests", 1)
    graph = plain_graph.PlainGraph(name="model-\udcff\x1b[2J")  # as Python reads a byte that is not UTF-8
    plan = plain_graph.plan(tmp_path / "manifests", str(tmp_path / "leads"), graph)
    finish_run(open_run(plan), lambda *_: None)
    success = read_success(plan.leads, plan.manifest.date)
    assert success is not None
    assert success.model == r"model-\udcff\x1b[2J"


def test_a_run_that_lost_the_day_forgets_no_run(manifests: Path, tiny_model: Path) -> None:
    plan = plan_of(manifests, tiny_model)
    folder = Path(open_run(plan).folder.path)

    def lost() -> None:
        raise LockedError("another run has the day")

    delete_runs(plan, lost)
    assert folder.is_dir()


@pytest.mark.parametrize("linked", ["", "calls", "parts", "checkpoint"])
def test_work_is_not_written_through_a_link(manifests: Path, tiny_model: Path, tmp_path: Path, linked: str) -> None:
    plan = plan_of(manifests, tiny_model)
    (tmp_path / "theirs").mkdir()
    place = tmp_path / "leads.work" / plan.name / linked
    place.parent.mkdir(parents=True)
    place.symlink_to(tmp_path / "theirs")
    with pytest.raises(LinkError, match="is a symbolic link, and no link below"):
        open_run(plan)
    assert list((tmp_path / "theirs").iterdir()) == []
