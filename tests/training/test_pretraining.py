from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from msmtfn.errors import TrainingDataError, TrainingError
from msmtfn.features.prepare import INPUTS
from msmtfn.model.checkpoint import Model, load_model
from msmtfn.training import pretraining
from msmtfn.training.pretraining import learn_prosody
from msmtfn.training.prosody import ProsodyLearner

Weights = dict[str, torch.Tensor]


class DyingLearner(ProsodyLearner):
    """A learner whose process exits before the second epoch if the marker file exists."""

    marker = Path()

    def run_epoch(self) -> tuple[float, bytes]:
        if self.epoch == 1 and self.marker.exists():
            self.marker.unlink()
            os._exit(1)
        return super().run_epoch()


@pytest.fixture
def model(tiny_model: Path) -> Model:
    return load_model(tiny_model)


@pytest.fixture
def calls(tmp_path: Path) -> str:
    """Prepared calls of one round each, one of them rejected."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "status": status,
            "samples": (amplitude * rng.standard_normal(4000)).astype(np.int16),
            "round_samples": [4000],
            "tokens": [1],
            "round_tokens": [1],
        }
        for amplitude, status in ((100, None), (400, None), (1600, None), (6400, "rejected"))
    ]
    folder = tmp_path / "calls"
    folder.mkdir()
    table = pa.Table.from_pylist(rows, pa.schema([("status", pa.string()), *INPUTS]))
    pq.write_table(table, folder / "calls.parquet")
    return str(folder)


def learn(model: Model, calls: str, folder: Path, max_failures: int = 0) -> Weights:
    """The weights after two epochs."""
    folder.mkdir(exist_ok=True)
    learned = learn_prosody(model, calls, str(folder), num_epochs=2, seed=0, cpus=1, gpus=0, max_failures=max_failures)
    return dict(learned.network.state_dict())


def changed(one: Weights, other: Weights) -> set[str]:
    """The parts of the network that differ."""
    return {name.partition(".")[0] for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_a_dead_process_costs_only_its_current_epoch(
    model: Model, calls: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = {name: weight.clone() for name, weight in model.network.state_dict().items()}
    expected = learn(model, calls, tmp_path / "uninterrupted")
    assert changed(before, expected) == {"audio_encoder"}
    assert changed(before, dict(model.network.state_dict())) == set()

    class Dying(DyingLearner):
        marker = tmp_path / "marker"

    monkeypatch.setattr(pretraining, "ProsodyLearner", Dying)
    Dying.marker.touch()
    with pytest.raises(TrainingError, match="died more often than --max-failures allows"):
        learn(model, calls, tmp_path / "folder")
    Dying.marker.touch()
    assert changed(learn(model, calls, tmp_path / "folder", max_failures=1), expected) == set()
    assert caplog.text.count("it resumes from its last epoch") == 1
    assert len(list((tmp_path / "folder").iterdir())) == 2  # the last state, and the errors of its epochs

    Dying.marker.touch()
    assert changed(learn(model, calls, tmp_path / "folder"), expected) == set()
    assert Dying.marker.exists()  # nothing was run again


def test_calls_without_audio_are_reported(model: Model, calls: str, tmp_path: Path) -> None:
    file = Path(calls, "calls.parquet")
    pq.write_table(pq.read_table(file).slice(3), file)
    with pytest.raises(TrainingDataError, match="the longest training round has 0 samples"):
        learn(model, calls, tmp_path / "folder")
