from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from msmtfn.errors import ModelError
from msmtfn.labels import TASKS
from msmtfn.model.calibration import (
    CALIBRATION_FILE,
    Calibration,
    CalibrationFigures,
    read_calibration,
    write_calibration,
)
from msmtfn.model.checkpoint import load_model, model_version, pack_network

FIGURES = CalibrationFigures(calibration_error=dict.fromkeys(TASKS, 0.1), log_loss=dict.fromkeys(TASKS, 0.7))
CALIBRATION = Calibration(temperature=1.25, set_threshold=0.7, calls=88, before=FIGURES, after=FIGURES)


def content(**changes: Any) -> dict[str, Any]:
    return CALIBRATION.as_json() | changes


def test_a_written_calibration_is_read_as_it_was(tmp_path: Path) -> None:
    write_calibration(CALIBRATION, tmp_path)
    assert read_calibration(tmp_path) == CALIBRATION


def test_a_folder_without_one_has_temperature_1_and_sets_of_90_percent(tmp_path: Path) -> None:
    found = read_calibration(tmp_path)
    assert (found.temperature, found.set_threshold, found.calls) == (1.0, 0.9, 0)


def test_a_loaded_model_has_its_calibration_and_takes_it_along(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    assert load_model(folder).calibration == Calibration()
    write_calibration(CALIBRATION, folder)
    model = load_model(folder)
    assert model.calibration == pack_network(model.network, model.calibration).calibration == CALIBRATION


def test_another_calibration_is_another_version_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    versions = [model_version(folder)]
    for threshold in (0.7, 0.8):
        write_calibration(Calibration(set_threshold=threshold), folder)
        versions.append(model_version(folder))
    assert len(set(versions)) == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "not an object"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps(content(format_version=2)), "format_version is 2"),
        (json.dumps(content(temperature=0)), "temperature is 0.0; it must be between 0.05 and 20"),
        (json.dumps(content(temperature="hot")), "'temperature' is 'hot'; it must be of type float"),
        (json.dumps(content(temperature=float("nan"))), "must be a finite number"),
        (json.dumps(content(set_threshold=1.5)), "set_threshold is 1.5"),
        (json.dumps(content(calls=-1)), "'calls' is -1"),
        (json.dumps(content(after={"log_loss": {}, "calibration_error": {}})), "does not have the tasks"),
        (json.dumps({"format_version": 1}), "'temperature' is missing"),
    ],
)
def test_a_broken_calibration_is_an_error_that_names_the_file(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / CALIBRATION_FILE).write_text(text)
    with pytest.raises(ModelError, match=CALIBRATION_FILE) as caught:
        read_calibration(tmp_path)
    assert reason in str(caught.value)


def test_a_huge_calibration_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / CALIBRATION_FILE).open("wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(ModelError, match="at most 16777216 are read"):
        read_calibration(tmp_path)
