from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from msmtfn.cli import main
from msmtfn.labels import INTENTS
from msmtfn.model.calibration import read_calibration
from msmtfn.model.checkpoint import model_version
from tests.integration.job import write_manifest

RATE = 8000


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Twelve labelled recordings of a second, of which one is gone."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(12):
        path = tmp_path / f"{number}.wav"
        sf.write(path, 0.1 * rng.standard_normal(RATE), RATE)
        rows.append({"call_id": str(number), "uri": str(path), "intent": INTENTS[number % 5]})
    path.unlink()
    return write_manifest(tmp_path / "manifests", rows)


def test_a_model_is_calibrated_on_the_calls_that_can_be_scored(
    manifests: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    before = model_version(folder)
    prefixes = ["--allowed-prefixes", str(tmp_path)]
    code = main(["calibrate", "--model", str(folder), "--manifests", str(manifests), *prefixes])
    assert code == 0, capsys.readouterr().out
    assert read_calibration(folder).calls == 11
    assert model_version(folder) != before
    assert "on 11 calls: temperature" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("model", ["s3://models/msmtfn", "no/such/folder"])
def test_a_model_that_is_no_local_folder_is_refused(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "--model", model, "--manifests", "calls"]) == 2
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "it must be a local folder" in result["error"]
