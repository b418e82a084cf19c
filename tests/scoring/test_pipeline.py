"""The graph on a real Ray, with workers that die under it."""

from __future__ import annotations

import datetime as dt
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn.errors import ScoringError
from msmtfn.model.checkpoint import PackedNetwork, load_model, pack_network
from msmtfn.scoring.day import Run, ScoringConfig, open_run, plan_day
from msmtfn.scoring.pipeline import PipelineConfig, score_calls
from msmtfn.scoring.prepare import PrepareConfig, Preparer
from msmtfn.scoring.scorer import ScorerConfig
from tests.integration.job import DATE, write_short_calls

NUM_CALLS = 6
CONFIG = PipelineConfig(batch_calls=1, block_calls=1, max_retries=1, progress_sec=0.1)


class DyingPreparer(Preparer):
    """Ends its process on the call with row id 2, as often as there are marks left in a folder."""

    marks: Path

    def prepare_batch(self, batch: pa.Table, passed: Any) -> pa.Table:
        if 2 in batch["row_id"].to_pylist():
            for mark in self.marks.iterdir():
                mark.unlink()
                os._exit(1)
        return super().prepare_batch(batch, passed)


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


def score(run: Run, preparer: Preparer, network: PackedNetwork) -> list[tuple[int, int]]:
    reports: list[tuple[int, int]] = []
    score_calls(
        run.task, preparer, network, ScorerConfig(), CONFIG, lambda done, rejected: reports.append((done, rejected))
    )
    return reports


def rows_of(run: Run) -> list[dict[str, Any]]:
    parts = [pq.read_table(path) for path in Path(run.task.parts).glob("*.parquet")]
    return [row for part in parts for row in part.to_pylist()]


@pytest.mark.usefixtures("ray_address")
def test_every_call_is_written_once_in_the_schema_of_the_parts(
    run: Run, preparer: Preparer, network: PackedNetwork
) -> None:
    reports = score(run, preparer, network)
    assert sorted(row["row_id"] for row in rows_of(run)) == list(range(NUM_CALLS))
    assert {row["status"] for row in rows_of(run)} == {"scored"}
    (schema,) = {pq.read_schema(path) for path in Path(run.task.parts).glob("*.parquet")}
    assert schema.names == run.task.schema.names
    assert (
        schema.empty_table().cast(run.task.schema).schema == run.task.schema
    )  # Parquet names a list's items its own way
    assert reports[-1] == (NUM_CALLS, 0)


@pytest.mark.usefixtures("ray_address")
def test_a_worker_that_dies_once_costs_nothing(run: Run, preparer: DyingPreparer, network: PackedNetwork) -> None:
    (preparer.marks / "1").touch()
    score(run, preparer, network)
    assert Counter(row["row_id"] for row in rows_of(run)) == dict.fromkeys(range(NUM_CALLS), 1)


@pytest.mark.usefixtures("ray_address")
def test_a_call_that_always_kills_its_worker_ends_the_run_and_the_next_run_goes_on(
    run: Run, preparer: DyingPreparer, network: PackedNetwork
) -> None:
    for number in range(10):
        (preparer.marks / str(number)).touch()
    with pytest.raises(ScoringError, match=r"the same command goes on where it stopped$"):
        score(run, preparer, network)
    assert len(list(preparer.marks.iterdir())) == 10 - 1 - CONFIG.max_retries
    died_at = dt.datetime.now(dt.UTC)
    for mark in preparer.marks.iterdir():
        mark.unlink()
    committed = open_run(run.plan).resumed
    score(run, preparer, network)
    rows = rows_of(run)
    assert Counter(row["row_id"] for row in rows) == dict.fromkeys(range(NUM_CALLS), 1)
    assert sum(row["scored_at"] < died_at for row in rows) == committed


def test_numbers_that_make_no_sense_are_refused() -> None:
    for field in ("batch_calls", "block_calls"):
        with pytest.raises(ValueError, match=rf"^{field} is 0; it must be at least 1$"):
            PipelineConfig(**{field: 0})
    with pytest.raises(ValueError, match=r"^max_retries is -1"):
        PipelineConfig(max_retries=-1)
    with pytest.raises(ValueError, match="gpus_per_scorer"):
        PipelineConfig(gpus_per_scorer=0)
