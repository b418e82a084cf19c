"""The scoring graph on a real Ray cluster, including workers that die."""

from __future__ import annotations

import ctypes
import datetime as dt
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from ray.data import DataContext

from msmtfn.daily.day import Run, finish_run, open_run, plan_day
from msmtfn.daily.publish import read_leads
from msmtfn.daily.success import Success
from msmtfn.errors import ScoringError, StorageError, UsageError
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.features.processor import PreparedCall
from msmtfn.features.sandbox import MAX_ATTEMPTS, SandboxConfig
from msmtfn.inference.scorer import BATCH_CALLS, Scorer, ScorerConfig
from msmtfn.model.checkpoint import PackedNetwork, load_model, pack_network
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.scoring.pipeline import PipelineConfig, ScoringActor, fit_to_cpus, score_calls
from tests.integration.job import DATE, write_short_calls

NUM_CALLS = 6
MEGABYTES_300 = 300 * 2**20
CONFIG = PipelineConfig(batch_calls=1, block_calls=1, max_retries=1, progress_sec=0.1)


class DyingPreparer(Preparer):
    """Preparer that ends its process on certain calls, once for each mark in a folder."""

    marks: Path
    deadly: frozenset[int] = frozenset({2})

    def prepare_batch(self, batch: pa.Table, passthrough: Any) -> pa.Table:
        if self.deadly & set(batch["row_id"].to_pylist()):
            for mark in self.marks.iterdir():
                mark.unlink()
                os._exit(1)
        return super().prepare_batch(batch, passthrough)


class MisbehavingPreparer(Preparer):
    """Preparer whose decoder ends its process on row 1, never returns on row 2 and runs out of memory on row 3."""

    def prepare_call(self, row: Any) -> PreparedCall:
        match row["row_id"]:
            case 1:
                os._exit(1)
            case 2:
                ctypes.PyDLL(None).sleep(600)  # holds the GIL, so that no Python thread or signal handler runs
            case 3:
                return PreparedCall(0.0, [], np.ones(10 * MEGABYTES_300, np.int16), [], [])
        return super().prepare_call(row)


class DisconnectedPreparer(Preparer):
    """Preparer that looks for row 1 on an S3 endpoint that refuses connections, as long as a mark exists."""

    mark: Path

    def prepare_call(self, row: Any) -> PreparedCall:
        if row["row_id"] == 1 and self.mark.exists():
            os.environ |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}
            os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
            row = {**row, "uri": "s3://bucket/a.wav"}
        return super().prepare_call(row)


class DyingScorer(ScoringActor):
    """Scoring actor that ends its process on the call with row id 1."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        if 1 in batch["row_id"].to_pylist():
            os._exit(1)
        return super().__call__(batch)


class NotingPreparer(Preparer):
    """Preparer that leaves a note for each call it has prepared."""

    notes: Path

    def prepare_call(self, row: Any) -> PreparedCall:
        (self.notes / str(row["row_id"])).touch()
        return super().prepare_call(row)


class SlowScorer(Scorer):
    """Slow scorer that notes at each batch how many calls are prepared but not scored yet."""

    notes: Path
    done = 0

    def score_batch(self, batch: pa.Table, schema: pa.Schema) -> pa.Table:
        with (self.notes.parent / "waiting").open("a") as file:
            file.write(f"{len(list(self.notes.iterdir())) - self.done}\n")
        self.done += len(batch)
        time.sleep(0.02 * len(batch))
        return super().score_batch(batch, schema)


def make_slow_scorer(*args: Any, notes: Path, **options: Any) -> Scorer:
    scorer = SlowScorer(*args, **options)
    scorer.notes = notes
    return scorer


class MeasuringScorer(Scorer):
    """Scorer that notes the size of each batch."""

    notes: Path

    def score_batch(self, batch: pa.Table, schema: pa.Schema) -> pa.Table:
        with self.notes.open("a") as file:
            file.write(f"{len(batch)}\n")
        return super().score_batch(batch, schema)


def make_measuring_scorer(*args: Any, notes: Path, **options: Any) -> Scorer:
    scorer = MeasuringScorer(*args, **options)
    scorer.notes = notes
    return scorer


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Run:
    write_short_calls(tmp_path / "manifests", NUM_CALLS)
    return open_run_of(tmp_path, tiny_model, CONFIG)


def open_run_of(root: Path, model: Path, pipeline: PipelineConfig) -> Run:
    graph = ScoringGraph(model, ScoringConfig(pipeline=pipeline))
    return open_run(plan_day(DATE, str(root / "manifests"), str(root / "leads"), graph))


@pytest.fixture
def preparer(run: Run, tiny_model: Path, tmp_path: Path) -> DyingPreparer:
    model = load_model(tiny_model)
    preparer = DyingPreparer(PrepareConfig(), model.processor, run.plan.manifest.root)
    preparer.marks = tmp_path / "marks"
    preparer.marks.mkdir()
    return preparer


@pytest.fixture(scope="module")
def network(tiny_model: Path) -> PackedNetwork:
    return pack_network(load_model(tiny_model).network)


def score(run: Run, preparer: Preparer, network: PackedNetwork) -> None:
    score_calls(run.task, preparer, network, ScorerConfig(), CONFIG, lambda *_: None)


def rows_of(run: Run) -> list[dict[str, Any]]:
    parts = [pq.read_table(path) for path in Path(run.folder.parts).glob("*.parquet")]
    return [row for part in parts for row in part.to_pylist()]


@pytest.mark.usefixtures("ray_address")
def test_every_call_is_written_once_in_the_schema_of_the_parts(
    run: Run, preparer: Preparer, network: PackedNetwork
) -> None:
    score(run, preparer, network)
    assert sorted(row["row_id"] for row in rows_of(run)) == list(range(NUM_CALLS))
    assert {row["status"] for row in rows_of(run)} == {"scored"}
    (schema,) = {pq.read_schema(path) for path in Path(run.folder.parts).glob("*.parquet")}
    assert schema.names == run.task.schema.names
    # Cast, because Parquet has its own name for the items of a list.
    assert schema.empty_table().cast(run.task.schema).schema == run.task.schema


@pytest.mark.usefixtures("ray_address")
def test_every_call_says_which_run_scored_it_with_which_model_and_when(
    run: Run, preparer: Preparer, network: PackedNetwork
) -> None:
    Path(run.plan.manifest.root, "call-001.wav").unlink()
    started = dt.datetime.now(dt.UTC)
    score(run, preparer, network)
    rows = rows_of(run)
    assert Counter(row["status"] for row in rows) == {"scored": NUM_CALLS - 1, "rejected": 1}
    assert {(row["model_version"], row["run_id"]) for row in rows} == {(run.task.model_version, run.plan.run_id)}
    assert all(started <= row["scored_at"] <= dt.datetime.now(dt.UTC) for row in rows)


@pytest.mark.usefixtures("ray_address")
def test_committed_calls_are_not_skipped_in_other_datasets_whose_settings_stay_as_they_are(
    run: Run, preparer: Preparer, network: PackedNetwork
) -> None:
    before, context = DataContext.get_current().copy(), DataContext.get_current()
    assert (before.max_errored_blocks, before.checkpoint_config) == (0, None)
    score(run, preparer, network)
    assert DataContext.get_current() is context
    assert context == before
    assert len(ray.data.read_parquet(run.folder.calls, partitioning=None).take_all()) == NUM_CALLS


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_the_calls_of_a_worker_that_dies_once_are_scored(
    run: Run, preparer: DyingPreparer, network: PackedNetwork
) -> None:
    (preparer.marks / "1").touch()
    score(run, preparer, network)
    assert Counter(row["row_id"] for row in rows_of(run)) == dict.fromkeys(range(NUM_CALLS), 1)


@pytest.fixture
def finish(run: Run, preparer: DyingPreparer, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Success]:
    """Return a function that scores and publishes with a preparer that always crashes on its deadly calls."""
    monkeypatch.setattr("msmtfn.scoring.graph.Preparer", lambda *_: preparer)
    for number in range(100):
        (preparer.marks / str(number)).touch()
    return lambda: finish_run(run, lambda *_: None)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_only_a_call_that_always_crashes_its_worker_is_rejected(
    run: Run, preparer: DyingPreparer, finish: Callable[[], Success]
) -> None:
    success = finish()
    assert success.rejected_by_reason == {"worker_crashed": 1}
    rows = read_leads(run.plan.leads, DATE).to_table().to_pylist()
    assert [(row["status"], row["call_id"]) for row in rows if row["status"] != "scored"] == [("rejected", "call-002")]
    assert sorted(row["call_id"] for row in rows) == [f"call-{number:03d}" for number in range(NUM_CALLS)]
    assert len(list(preparer.marks.iterdir())) == 100 - 2 * MAX_ATTEMPTS


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_only_a_call_that_always_crashes_its_scorer_is_rejected(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("msmtfn.scoring.pipeline.ScoringActor", DyingScorer)
    success = finish_run(run, lambda *_: None)
    assert (success.scored, success.rejected_by_reason) == (NUM_CALLS - 1, {"worker_crashed": 1})


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_only_calls_that_crash_or_hang_or_run_out_of_memory_are_rejected(
    run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_model)
    limits = SandboxConfig(max_prepare_sec=10.0, max_prepare_bytes=MEGABYTES_300)
    preparer = MisbehavingPreparer(PrepareConfig(guard=limits), model.processor, run.plan.manifest.root)
    monkeypatch.setattr("msmtfn.scoring.graph.Preparer", lambda *_: preparer)
    started = time.monotonic()
    success = finish_run(open_run_of(tmp_path, tiny_model, replace(CONFIG, batch_calls=2)), lambda *_: None)
    assert time.monotonic() - started < 300  # the decoder would hang for 600
    assert success.scored == NUM_CALLS - 3
    rows = read_leads(run.plan.leads, DATE).to_table(columns=["call_id", "error_code"]).to_pylist()
    assert {row["call_id"]: row["error_code"] for row in rows if row["error_code"]} == {
        "call-001": "worker_crashed",
        "call-002": "audio_timeout",
        "call-003": "audio_out_of_memory",
    }


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_when_storage_fails_nothing_is_published_and_the_next_run_resumes(
    run: Run, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(tiny_model)
    config = PrepareConfig(allowed_prefixes=("s3://bucket",))
    preparer = DisconnectedPreparer(config, model.processor, run.plan.manifest.root)
    preparer.mark = tmp_path / "mark"
    preparer.mark.touch()
    monkeypatch.setattr("msmtfn.scoring.graph.Preparer", lambda *_: preparer)
    with pytest.raises(StorageError, match=r"recordings of 1 calls.*the same command resumes where this one stopped$"):
        finish_run(run, lambda *_: None)
    assert not Path(run.plan.leads, f"date={DATE}").exists()
    assert len(rows_of(run)) == NUM_CALLS - 1
    preparer.mark.unlink()
    assert finish_run(run, lambda *_: None).scored == NUM_CALLS


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_preparation_does_not_run_far_ahead_of_the_scorers(
    network: PackedNetwork, tiny_model: Path, tmp_path: Path
) -> None:
    manifests = write_short_calls(tmp_path / "manifests", 600)
    run = open_run_of(tmp_path, tiny_model, PipelineConfig())
    model = load_model(tiny_model)
    preparer = NotingPreparer(PrepareConfig(), model.processor, str(manifests))
    preparer.notes = tmp_path / "notes"
    preparer.notes.mkdir()
    score_calls(
        run.task,
        preparer,
        network,
        ScorerConfig(),
        PipelineConfig(batch_calls=2, block_calls=4, num_scorers=1),
        lambda *_: None,
        make_scorer=partial(make_slow_scorer, notes=preparer.notes),
    )
    waiting = [int(line) for line in (tmp_path / "waiting").read_text().split()]
    assert len(rows_of(run)) == 600
    assert max(waiting) < 100, waiting


def refuse_to_score(*_args: Any, **_options: Any) -> Scorer:
    raise UsageError("this machine cannot do that; choose another --precision")


@pytest.mark.usefixtures("ray_address")
def test_the_cause_of_a_failure_is_in_the_error(run: Run, preparer: DyingPreparer, network: PackedNetwork) -> None:
    with pytest.raises(
        ScoringError,
        match=r"^the scoring graph failed \(.*UsageError: this machine cannot do that; choose another --precision; "
        r"more above\); fix the cause, and the same command resumes where this one stopped$",
    ):
        score_calls(run.task, preparer, network, ScorerConfig(), CONFIG, lambda *_: None, make_scorer=refuse_to_score)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_when_many_workers_die_nothing_is_published_and_the_next_run_resumes(
    run: Run, preparer: DyingPreparer, finish: Callable[[], Success]
) -> None:
    preparer.deadly = frozenset({2, 3})
    with pytest.raises(
        ScoringError, match=r"on 2 calls failed even alone.*the same command resumes where this one stopped$"
    ):
        finish()
    assert not Path(run.plan.leads, f"date={DATE}").exists()
    died_at = dt.datetime.now(dt.UTC)
    preparer.deadly = frozenset()
    assert finish().scored == NUM_CALLS
    rows = read_leads(run.plan.leads, DATE).to_table().to_pylist()
    assert sum(row["scored_at"] < died_at for row in rows) == NUM_CALLS - 2


@pytest.mark.usefixtures("ray_address")
def test_batches_and_blocks_are_sized_for_the_calls_and_the_cpus() -> None:
    blocks = 4 * int(ray.cluster_resources()["CPU"])
    few, many = fit_to_cpus(PipelineConfig(), 2 * blocks), fit_to_cpus(PipelineConfig(), 1000 * blocks)
    assert (few.block_calls, few.batch_calls) == (2, BATCH_CALLS)
    assert (many.block_calls, many.batch_calls) == (64, BATCH_CALLS)
    explicit = fit_to_cpus(PipelineConfig(batch_calls=5, block_calls=20), 1000 * blocks)
    assert (explicit.block_calls, explicit.batch_calls) == (20, 5)


@pytest.mark.parametrize(
    ("batch_calls", "max_block_calls", "calls_per_block", "expected"),
    [(16, 64, 7, 4), (16, 64, 20, 16), (16, 64, 33, 32), (10, 64, 100, 60), (17, 64, 9, 1), (64, 20, 100, 16)],
)
@pytest.mark.usefixtures("ray_address")
def test_batches_and_blocks_are_multiples_of_each_other(
    batch_calls: int, max_block_calls: int, calls_per_block: int, expected: int
) -> None:
    blocks = 4 * int(ray.cluster_resources()["CPU"])
    config = PipelineConfig(batch_calls=batch_calls, block_calls=max_block_calls)
    fitted = fit_to_cpus(config, calls_per_block * blocks)
    assert (fitted.batch_calls, fitted.block_calls) == (batch_calls, expected)


@pytest.mark.usefixtures("ray_address")
def test_the_scorer_gets_batches_of_the_chosen_size(network: PackedNetwork, tiny_model: Path, tmp_path: Path) -> None:
    num_calls = 7 * BATCH_CALLS
    # Blocks would have 7 calls if they did not have to fit the batches.
    assert num_calls == 7 * 4 * int(ray.cluster_resources()["CPU"])
    manifests = write_short_calls(tmp_path / "manifests", num_calls)
    run = open_run_of(tmp_path, tiny_model, PipelineConfig())
    model = load_model(tiny_model)
    preparer = Preparer(PrepareConfig(), model.processor, str(manifests))
    make = partial(make_measuring_scorer, notes=tmp_path / "sizes")
    score_calls(run.task, preparer, network, ScorerConfig(), PipelineConfig(), lambda *_: None, make_scorer=make)
    assert (tmp_path / "sizes").read_text().split() == 7 * [str(BATCH_CALLS)]


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^block_calls is 0; it must be at least 1$"):
        PipelineConfig(block_calls=0)
    with pytest.raises(ValueError, match=r"^batch_calls is -1; it must be at least 0$"):
        PipelineConfig(batch_calls=-1)
    with pytest.raises(ValueError, match=r"^max_retries is -1"):
        PipelineConfig(max_retries=-1)
    with pytest.raises(ValueError, match="gpus_per_scorer"):
        PipelineConfig(gpus_per_scorer=0)
