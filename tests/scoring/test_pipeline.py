"""The graph on a real Ray, with workers that die under it."""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn.errors import ScoringError
from msmtfn.leads.publish import read_leads
from msmtfn.model.checkpoint import PackedNetwork, load_model, pack_network
from msmtfn.scoring.day import Run, ScoringConfig, finish_run, open_run, plan_day
from msmtfn.scoring.pipeline import PipelineConfig, ScoringActor, score_calls
from msmtfn.scoring.prepare import PrepareConfig, Preparer
from msmtfn.scoring.scorer import ScorerConfig
from tests.integration.job import DATE, write_short_calls

NUM_CALLS = 6
CONFIG = PipelineConfig(batch_calls=1, block_calls=1, max_retries=1, progress_sec=0.1)


class DyingPreparer(Preparer):
    """Ends its process on certain calls, as often as there are marks left in a folder."""

    marks: Path
    deadly: frozenset[int] = frozenset({2})

    def prepare_batch(self, batch: pa.Table, passed: Any) -> pa.Table:
        if self.deadly & set(batch["row_id"].to_pylist()):
            for mark in self.marks.iterdir():
                mark.unlink()
                os._exit(1)
        return super().prepare_batch(batch, passed)


class DyingScorer(ScoringActor):
    """Ends its process on the call with row id 1."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        if 1 in batch["row_id"].to_pylist():
            os._exit(1)
        return super().__call__(batch)


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Run:
    manifests = write_short_calls(tmp_path / "manifests", NUM_CALLS)
    return open_run(plan_day(DATE, str(manifests), str(tmp_path / "leads"), tiny_model, ScoringConfig()))


@pytest.fixture
def preparer(run: Run, tiny_model: Path, tmp_path: Path) -> DyingPreparer:
    model = load_model(tiny_model)
    preparer = DyingPreparer(PrepareConfig(), model.network.config, model.tokenizer, run.plan.manifest.root)
    preparer.marks = tmp_path / "marks"
    preparer.marks.mkdir()
    return preparer


@pytest.fixture(scope="module")
def network(tiny_model: Path) -> PackedNetwork:
    return pack_network(load_model(tiny_model).network)


def score(run: Run, preparer: Preparer, network: PackedNetwork) -> None:
    score_calls(run.task, preparer, network, ScorerConfig(), CONFIG, lambda *_: None)


def rows_of(run: Run) -> list[dict[str, Any]]:
    parts = [pq.read_table(path) for path in Path(run.task.parts).glob("*.parquet")]
    return [row for part in parts for row in part.to_pylist()]


@pytest.mark.usefixtures("ray_address")
def test_every_call_is_written_once_in_the_schema_of_the_parts(
    run: Run, preparer: Preparer, network: PackedNetwork
) -> None:
    score(run, preparer, network)
    assert sorted(row["row_id"] for row in rows_of(run)) == list(range(NUM_CALLS))
    assert {row["status"] for row in rows_of(run)} == {"scored"}
    (schema,) = {pq.read_schema(path) for path in Path(run.task.parts).glob("*.parquet")}
    assert schema.names == run.task.schema.names
    assert (
        schema.empty_table().cast(run.task.schema).schema == run.task.schema
    )  # Parquet names a list's items its own way


@pytest.mark.usefixtures("ray_address")
def test_a_worker_that_dies_once_costs_nothing(run: Run, preparer: DyingPreparer, network: PackedNetwork) -> None:
    (preparer.marks / "1").touch()
    score(run, preparer, network)
    assert Counter(row["row_id"] for row in rows_of(run)) == dict.fromkeys(range(NUM_CALLS), 1)


@pytest.fixture
def finish(run: Run, preparer: DyingPreparer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, Any]]:
    """Score and publish with a preparer whose processes always die of its calls."""
    monkeypatch.setattr("msmtfn.scoring.day.Preparer", lambda *_: preparer)
    for number in range(100):
        (preparer.marks / str(number)).touch()
    return lambda: finish_run(run, ScoringConfig(pipeline=CONFIG), lambda *_: None)


@pytest.mark.usefixtures("ray_address")
def test_a_call_that_always_kills_its_worker_costs_itself_only(
    run: Run, preparer: DyingPreparer, finish: Callable[[], dict[str, Any]]
) -> None:
    success = finish()
    assert success["rejected_by_reason"] == {"worker_crashed": 1}
    rows = read_leads(run.plan.leads, DATE).to_table().to_pylist()
    assert [(row["status"], row["call_id"]) for row in rows if row["status"] != "scored"] == [("rejected", "call-002")]
    assert sorted(row["call_id"] for row in rows) == [f"call-{number:03d}" for number in range(NUM_CALLS)]
    assert len(list(preparer.marks.iterdir())) == 100 - 2 * (1 + CONFIG.max_retries)


@pytest.mark.usefixtures("ray_address")
def test_a_call_that_always_kills_its_scorer_costs_itself_only(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msmtfn.scoring.pipeline.ScoringActor", DyingScorer)
    success = finish_run(run, ScoringConfig(pipeline=CONFIG), lambda *_: None)
    assert (success["scored"], success["rejected_by_reason"]) == (NUM_CALLS - 1, {"worker_crashed": 1})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_where_the_workers_of_many_calls_die_nothing_is_published_and_the_next_run_goes_on(
    run: Run, preparer: DyingPreparer, finish: Callable[[], dict[str, Any]]
) -> None:
    preparer.deadly = frozenset({2, 3})
    with pytest.raises(ScoringError, match=r"on 2 calls failed even alone.*the same command goes on where it stopped$"):
        finish()
    assert not Path(run.plan.leads, f"date={DATE}").exists()
    died_at = dt.datetime.now(dt.UTC)
    preparer.deadly = frozenset()
    assert finish()["scored"] == NUM_CALLS
    rows = read_leads(run.plan.leads, DATE).to_table().to_pylist()
    assert sum(row["scored_at"] < died_at for row in rows) == NUM_CALLS - 2


def test_numbers_that_make_no_sense_are_refused() -> None:
    for field in ("batch_calls", "block_calls"):
        with pytest.raises(ValueError, match=rf"^{field} is 0; it must be at least 1$"):
            PipelineConfig(**{field: 0})
    with pytest.raises(ValueError, match=r"^max_retries is -1"):
        PipelineConfig(max_retries=-1)
    with pytest.raises(ValueError, match="gpus_per_scorer"):
        PipelineConfig(gpus_per_scorer=0)
