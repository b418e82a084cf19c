"""Calibrate a model on labelled calls that it has not learned from, and keep the result in its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from msmtfn import storage
from msmtfn.evaluation.evaluator import Evaluation
from msmtfn.evaluation.metrics import TaskMetrics
from msmtfn.inference.calibration import calibrate, fit_calibration, prediction_sets
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.drift import describe, read_distribution, write_distribution
from msmtfn.leads.schema import OUTCOME, SCORED
from msmtfn.model.calibration import COVERAGE, Calibration, CalibrationFigures, write_calibration
from msmtfn.model.checkpoint import CARD_FILE

HEADING: Final = "## Calibration\n"
_SECTION: Final = re.compile(r"^## Calibration\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)


def calibrate_folder(folder: Path, evaluation: Evaluation) -> Evaluation:
    """Fit a model's calibration, and write it to the model's folder and into its card.

    Args:
        folder: local folder of the model.
        evaluation: calls that the model has not learned from, as it scores them.

    Returns:
        The same calls as the model scores them from now on.

    Raises:
        TrainingDataError: no call was scored.
    """
    calibration = fit_on(evaluation)
    write_calibration(calibration, folder)
    card = folder.absolute() / CARD_FILE
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    storage.write_text(str(card), add_to_card(text, calibration))
    return apply_to(evaluation, calibration)


def update_distribution(folder: Path, evaluation: Evaluation) -> None:
    """Replace the probabilities in the folder's `distribution.json`, if it has one, by those of these calls.

    Days are compared with that file, so without this their calibrated probabilities would seem to have drifted.
    """
    if distribution := read_distribution(folder):
        write_distribution(distribution | describe(evaluation.scored.select(["five"])), folder)


def fit_on(evaluation: Evaluation) -> Calibration:
    """Return the calibration of the heads on labelled calls, with its figures on the same calls.

    Raises:
        TrainingDataError: no call was scored.
    """
    before = evaluation.head_metrics()
    fitted = fit_calibration(evaluation.heads, evaluation.intents)
    return replace(fitted, before=_figures(before), after=_figures(apply_to(evaluation, fitted).metrics()))


def apply_to(evaluation: Evaluation, calibration: Calibration) -> Evaluation:
    """Return an evaluation with the probabilities that another calibration makes of the same heads.

    The lead scores, which depend on the weights of the intents, are left out.
    """
    calls = evaluation.calls
    is_scored = pc.equal(calls["status"], SCORED)
    probabilities = calibrate(evaluation.heads, calibration)
    values: dict[str, list[object]] = {
        task: [dict(zip(classes, row, strict=True)) for row in probabilities[task].tolist()]
        for task, classes in TASKS.items()
    }
    values["intent_predicted"] = [INTENTS[index] for index in probabilities["five"].argmax(axis=1)]
    values["prediction_set"] = list(prediction_sets(probabilities["five"], calibration))
    values["lead_score"] = [None] * len(evaluation.scored)
    for name, column in values.items():
        rows = iter(column)
        field = OUTCOME.field(name)
        filled = pa.array([next(rows) if scored else None for scored in is_scored.to_pylist()], field.type)
        calls = calls.set_column(calls.schema.get_field_index(name), field, filled)
    return Evaluation(evaluation.root, calls)


def add_to_card(card: str, calibration: Calibration) -> str:
    """Return a model card with the section on its calibration, in place of an earlier one."""
    section = _describe(calibration)
    if _SECTION.search(card):
        return _SECTION.sub(lambda _: section, card, count=1)
    before, recipe, after = card.partition("## Recipe\n")
    return f"{before}{section}{recipe}{after}" if recipe else f"{card.rstrip()}\n\n{section}"


def _describe(calibration: Calibration) -> str:
    lines = [
        HEADING,
        f"Fitted on {calibration.calls:,} calls: temperature {calibration.temperature:.3f}; prediction sets of "
        f"{100 * COVERAGE:.0f} % coverage with threshold {calibration.set_threshold:.3f}.",
        "ECE is the expected calibration error in 15 bins; both figures are of the calls that it was fitted on.",
        "",
        "| task | ECE of the heads, % | ECE, % | log loss of the heads | log loss |",
        "|---|---|---|---|---|",
    ]
    before, after = calibration.before, calibration.after
    if before is not None and after is not None:
        lines += [
            f"| {task} | {100 * before.calibration_error[task]:.1f} | {100 * after.calibration_error[task]:.1f} | "
            f"{before.log_loss[task]:.3f} | {after.log_loss[task]:.3f} |"
            for task in TASKS
        ]
    return "\n".join([*lines, "", ""])


def _figures(metrics: Mapping[str, TaskMetrics]) -> CalibrationFigures:
    return CalibrationFigures(
        calibration_error={task: each.calibration_error for task, each in metrics.items()},
        log_loss={task: each.log_loss for task, each in metrics.items()},
    )
