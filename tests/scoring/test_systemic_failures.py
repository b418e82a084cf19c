"""Failures that no retry can mend: a pass ends within its first batches, and its error names the cause."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from msmtfn.compat.ray import BLOCK_LOGGER
from msmtfn.daily.day import Run, finish_run, open_run, plan_day
from msmtfn.errors import ScoringError
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.scorer import Scorer, ScorerConfig
from msmtfn.model.checkpoint import load_model, pack_network, save_model
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.scoring.pipeline import PipelineConfig, score_calls
from tests.conftest import make_tiny_network
from tests.integration.job import DATE, write_short_calls

CONFIG = PipelineConfig(batch_calls=1, block_calls=1, max_retries=0, progress_sec=0.1)


class DeadlyScorer(Scorer):
    """Scorer whose kernel kills the process on every batch."""

    def score_batch(self, batch: pa.Table, schema: pa.Schema) -> pa.Table:
        os.abort()


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


@pytest.mark.usefixtures("ray_address")
def test_a_folder_that_takes_no_files_ends_the_pass_and_the_log_says_it_once(
    tmp_path: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = open_run_of(tmp_path, tiny_model, 60)
    parts = Path(run.folder.parts)
    shutil.rmtree(parts)
    parts.touch()  # a file in the place of the folder
    block_logger = logging.getLogger(BLOCK_LOGGER)
    block_logger.addHandler(caplog.handler)
    try:
        with pytest.raises(ScoringError, match=r"blocks of calls in a row failed in the same way.*parts.*resumes"):
            finish_run(run, lambda *_: None)
    finally:
        block_logger.removeHandler(caplog.handler)
    skipped = [record for record in caplog.records if "max_errored_blocks" in record.message]
    assert len(skipped) == 1
    assert sum("failed in the same way: " in message for message in caplog.messages) == 1
    assert len(run.folder.uncommitted_ids(60)) == 60

    parts.unlink()
    parts.mkdir()
    assert finish_run(run, lambda *_: None).scored == 60  # the same run resumes


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_a_model_that_kills_its_process_ends_the_pass(tmp_path: Path, tiny_model: Path) -> None:
    run, model = open_run_of(tmp_path, tiny_model, 20), load_model(tiny_model)
    preparer = Preparer(PrepareConfig(), model.processor, run.plan.manifest.root)
    network = pack_network(model.network)
    with pytest.raises(ScoringError, match=r"died \d+ times in a row, so the calls are not the cause"):
        score_calls(run.task, preparer, network, ScorerConfig(), CONFIG, lambda *_: None, make_scorer=DeadlyScorer)
    assert len(run.folder.uncommitted_ids(20)) == 20
