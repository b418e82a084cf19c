"""A model that can score nothing ends a day before its first call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from msmtfn.daily.day import finish_run, open_run, plan_day
from msmtfn.errors import ScoringError
from msmtfn.model.checkpoint import save_model
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.scoring.pipeline import PipelineConfig
from tests.conftest import make_tiny_network
from tests.integration.job import DATE, write_short_calls


@pytest.mark.usefixtures("ray_address")
def test_a_model_with_weights_that_are_no_numbers_scores_no_call(tmp_path: Path, tiny_tokenizer: Any) -> None:
    network = make_tiny_network()
    with torch.no_grad():
        next(network.context.parameters()).fill_(torch.nan)
    save_model(network, tiny_tokenizer, tmp_path / "model", "# Broken\n")
    write_short_calls(tmp_path / "manifests", 4)
    graph = ScoringGraph(tmp_path / "model", ScoringConfig(pipeline=PipelineConfig(progress_sec=0.1)))
    run = open_run(plan_day(DATE, str(tmp_path / "manifests"), str(tmp_path / "leads"), graph))
    with pytest.raises(ScoringError, match=r"cannot score a built-in call of noise \(.*not a number\)"):
        finish_run(run, lambda *_: None)
    assert list(run.folder.committed_ids()) == []
