"""Failures that no retry can mend: a pass ends within its first batches, and its error names the cause."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from msmtfn.compat.ray import BLOCK_LOGGER
from msmtfn.daily.day import Run, finish_run, open_run, plan_day
from msmtfn.daily.graph import PassFigures, Task
from msmtfn.daily.leftovers import run_until_complete
from msmtfn.errors import ScoringError, StorageError
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.scorer import Scorer, ScorerConfig
from msmtfn.model.checkpoint import load_model, pack_network, save_model
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.scoring.pipeline import PipelineConfig, score_calls
from tests.conftest import make_tiny_network
from tests.integration.job import DATE, write_short_calls

CONFIG = PipelineConfig(batch_calls=1, block_calls=1, max_retries=0, progress_sec=0.1)


class UnstartableScorer(Scorer):
    """Scorer whose kernel divides by zero whatever it computes."""

    def score_calls(self, *_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGFPE)


class DeadlyScorer(Scorer):
    """Scorer whose kernel divides by zero in every batch of calls, but not in built-in ones."""

    def score_batch(self, batch: pa.Table, schema: pa.Schema) -> pa.Table:
        os.kill(os.getpid(), signal.SIGFPE)
        return super().score_batch(batch, schema)


def open_run_of(root: Path, model: Path, num_calls: int) -> Run:
    write_short_calls(root / "manifests", num_calls)
    graph = ScoringGraph(model, ScoringConfig(pipeline=CONFIG))
    return open_run(plan_day(DATE, str(root / "manifests"), str(root / "leads"), graph))


@pytest.mark.usefixtures("ray_address")
def test_a_model_with_weights_that_are_no_numbers_scores_no_call(tmp_path: Path, tiny_tokenizer: Any) -> None:
    network = make_tiny_network()
    with torch.no_grad():
        next(network.context.parameters()).fill_(torch.nan)
    save_model(network, tiny_tokenizer, tmp_path / "model", "# Broken\n")
    run = open_run_of(tmp_path, tmp_path / "model", 4)
    with pytest.raises(ScoringError, match=r"cannot score a built-in call of noise \(.*not a number\)"):
        finish_run(run, lambda *_: None)
    assert list(run.folder.committed_ids()) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Callable[[Path], None]]:
    """Return a function that puts a disk that is full in the place of a folder; it is gone after the test."""
    mounted: list[Path] = []

    def mount(folder: Path) -> None:
        command = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(folder)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("mounting a small disk takes rights that this process lacks")
        mounted.append(folder)
        (folder / "full").write_bytes(bytes(4096))

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_a_full_disk_ends_the_pass_at_once_and_the_log_says_it_once(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture, full_disk: Callable[[Path], None]
) -> None:
    run = open_run_of(tmp_path, tiny_model, 24)
    full_disk(Path(run.folder.parts))
    block_logger = logging.getLogger(BLOCK_LOGGER)
    block_logger.addHandler(caplog.handler)
    try:
        with pytest.raises(StorageError, match=r"takes no more files \(.*No space left on device.*resumes"):
            finish_run(run, lambda *_: None)
    finally:
        block_logger.removeHandler(caplog.handler)
    assert len({id(record) for record in caplog.records if record.name == BLOCK_LOGGER}) == 1
    assert sum("failed in the same way: " in message for message in caplog.messages) == 1
    assert len(run.folder.uncommitted_ids(24)) == 24

    subprocess.run(["umount", run.folder.parts], check=True)
    assert finish_run(run, lambda *_: None).scored == 24  # the same run resumes


def score_with(run: Run, model: Path, make_scorer: type[Scorer]) -> None:
    loaded = load_model(model)
    preparer = Preparer(PrepareConfig(), loaded.processor, run.plan.manifest.root)
    network = pack_network(loaded.network)

    def run_pass(task: Task, report: Callable[[int, int], None], **options: Any) -> PassFigures:
        return score_calls(task, preparer, network, ScorerConfig(), CONFIG, report, make_scorer=make_scorer, **options)

    run_until_complete(run.task, run_pass, CONFIG.max_crashed_share, lambda *_: None)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_a_model_that_kills_every_process_that_loads_it_ends_the_run(tmp_path: Path, tiny_model: Path) -> None:
    run = open_run_of(tmp_path, tiny_model, 20)
    with pytest.raises(ScoringError, match=r"died \d+ times before any had loaded it and tried it"):
        score_with(run, tiny_model, UnstartableScorer)
    assert len(run.folder.uncommitted_ids(20)) == 20


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_a_model_that_kills_its_process_on_every_call_ends_the_run(tmp_path: Path, tiny_model: Path) -> None:
    run = open_run_of(tmp_path, tiny_model, 4)
    with pytest.raises(ScoringError, match=r"2 calls in a row failed .*, each alone, .*its process died"):
        score_with(run, tiny_model, DeadlyScorer)
    assert len(run.folder.uncommitted_ids(4)) == 4
