from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from scipy.special import softmax

from msmtfn.errors import TrainingDataError
from msmtfn.evaluation.calibrate import add_to_card, apply_to, calibrate_folder, fit_on, update_distribution
from msmtfn.evaluation.evaluator import Evaluation
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.drift import describe, read_distribution, write_distribution
from msmtfn.leads.schema import HEADS, parts_schema
from msmtfn.model.calibration import Calibration, CalibrationFigures, read_calibration
from msmtfn.model.checkpoint import load_model

FIGURES = CalibrationFigures(calibration_error=dict.fromkeys(TASKS, 0.123), log_loss=dict.fromkeys(TASKS, 0.7))


def sums(row: npt.NDArray[np.float64], task: str) -> dict[str, float]:
    return {letters: float(sum(row[INTENTS.index(each)] for each in letters)) for letters in TASKS[task]}


def judged(num_calls: int, factor: float = 2.0) -> Evaluation:
    """Calls whose heads agree with each other, and whose logits are `factor` times those of the labels; one reject."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((num_calls, 5))
    rows: list[dict[str, Any]] = [{"call_id": "reject", "intent": "A", "status": "rejected", "error_code": "bad_row"}]
    for number, row in enumerate(logits):
        label, heads = rng.choice(5, p=softmax(row)), softmax(factor * row)
        columns = {f"{prefix}{task}": sums(heads, task) for task in TASKS for prefix in ("", "heads_")}
        rows.append({"call_id": str(number), "intent": INTENTS[label], "status": "scored", "lead_score": 1.0} | columns)
    parts = parts_schema([pa.field("call_id", pa.string()), pa.field("intent", pa.string())])
    return Evaluation("calls", pa.Table.from_pylist(rows, pa.schema([*parts, *HEADS])))


def test_calibration_lowers_error_and_loss_of_a_network_that_is_too_sure() -> None:
    found = fit_on(judged(2000))
    assert found.temperature == pytest.approx(2, rel=0.15)
    assert found.before is not None
    assert found.after is not None
    assert found.after.calibration_error["five"] < 0.05 < found.before.calibration_error["five"]
    assert all(found.after.log_loss[task] < found.before.log_loss[task] for task in TASKS)


def test_an_evaluation_can_be_given_another_calibration() -> None:
    before = judged(3)
    after = apply_to(before, Calibration(temperature=2.0, set_threshold=1.0))
    np.testing.assert_array_equal(after.heads["four"], before.heads["four"])
    expected = np.sqrt(before.heads["five"]) / np.sqrt(before.heads["five"]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after.probabilities["five"], expected, atol=1e-5)
    assert after.calls["five"][0].as_py() is None  # the reject
    assert [sorted(each) for each in after.scored["prediction_set"].to_pylist()] == [list("ABCDE")] * 3
    assert after.scored["intent_predicted"].to_pylist() == [INTENTS[index] for index in expected.argmax(axis=1)]


def test_a_calibrated_folder_has_the_calibration_the_card_and_a_distribution_of_its_probabilities(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    calls = judged(60)
    write_distribution(describe(calls.calls.select(["five"])) | {"num_rounds": COUNTS}, folder)
    before = read_distribution(folder)
    calibrated = calibrate_folder(folder, calls)
    update_distribution(folder, calibrated)
    calibration = load_model(folder).calibration
    assert (calibration, calibration.calls) == (fit_on(calls), 60)
    assert f"Fitted on 60 calls: temperature {calibration.temperature:.3f}" in (folder / "README.md").read_text()
    after = read_distribution(folder)
    assert after["num_rounds"] == before["num_rounds"]
    assert after["probability_A"] == describe(calibrated.scored.select(["five"]))["probability_A"]
    assert after["probability_A"].edges != before["probability_A"].edges


COUNTS = describe(pa.table({"num_rounds": pa.array([1, 2, 3], pa.int32())}))["num_rounds"]


def test_a_folder_without_a_distribution_gets_none(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (folder / "distribution.json").unlink(missing_ok=True)
    update_distribution(folder, judged(5))
    assert not (folder / "distribution.json").exists()


def test_calls_of_which_none_was_scored_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingDataError, match="none of the 1 calls"):
        calibrate_folder(tmp_path, judged(0))
    assert read_calibration(tmp_path) == Calibration()


def test_the_section_of_the_card_stands_before_the_recipe_and_is_replaced_by_the_next() -> None:
    card = "# MSMT-FN\n\nWords.\n\n## Recipe\n\n1 worker.\n"
    once = add_to_card(card, Calibration(temperature=1.5, calls=88, before=FIGURES, after=FIGURES))
    assert once.index("Words.") < once.index("## Calibration\n\nFitted on 88 calls") < once.index("## Recipe")
    assert "| five | 12.3 | 12.3 | 0.700 | 0.700 |" in once
    twice = add_to_card(once, Calibration(temperature=1.5, calls=99, before=FIGURES, after=FIGURES))
    assert twice == once.replace("88 calls", "99 calls")
    assert add_to_card("# Bare", Calibration(calls=1)).startswith("# Bare\n\n## Calibration\n")
