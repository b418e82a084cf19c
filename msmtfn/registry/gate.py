"""The gate that a new model must pass to replace the current one: a non-inferiority test on the same calls.

Both models classify the same held-out calls, which neither has learned from. The metric is the accuracy in the five
intents. The confidence interval of the difference, candidate minus current, comes from the paired percentile bootstrap:
calls are drawn with replacement, each together with the predictions of both models (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993). The candidate passes if the lower end of the interval is at least minus the
margin.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import bootstrap

from msmtfn.errors import TrainingDataError
from msmtfn.leads.schema import SCORED
from msmtfn.registry.records import Decision, GateConfig
from msmtfn.rows import ROW_ID

NUM_RESAMPLES: Final = 10_000


def decide_promotion(candidate: pa.Table, current: pa.Table | None, config: GateConfig, seed: int) -> Decision:
    """Compare two models on the calls that at least one could score; a call that a model rejected counts as wrong.

    Args:
        candidate: the held-out calls as scored by the new model (`Evaluation.calls`).
        current: the same calls as scored by the current model; None if there is none.
        config: the conditions.
        seed: seed of the bootstrap.

    Raises:
        TrainingDataError: the candidate could not score any call.
    """
    is_correct_by_row = _is_correct_by_row(candidate)
    if not is_correct_by_row:
        raise TrainingDataError("no held-out call could be scored, so the new model cannot be compared")
    if current is None:
        correct = np.array(list(is_correct_by_row.values()))
        reason = "there is no current model"
        return Decision(passed=True, reason=reason, calls=len(correct), candidate=float(correct.mean()), config=config)
    was_correct_by_row = _is_correct_by_row(current)
    row_ids = sorted(is_correct_by_row.keys() | was_correct_by_row.keys())
    correct, current_correct = (
        np.array([by_row.get(row_id, False) for row_id in row_ids])
        for by_row in (is_correct_by_row, was_correct_by_row)
    )
    low, high = paired_interval(correct, current_correct, config.gate_confidence, seed)
    difference = float(correct.mean() - current_correct.mean())
    is_enough, is_no_worse = len(row_ids) >= config.gate_min_calls, low >= -config.gate_margin
    reason = (
        f"{100 * difference:+.1f} points, {100 * config.gate_confidence:g} % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}: its lower end is {'not below' if is_no_worse else 'below'} minus the margin of "
        f"{100 * config.gate_margin:g}"
    )
    if not is_enough:
        reason += f"; {len(row_ids)} calls are too few to compare models, {config.gate_min_calls} are needed"
    return Decision(
        passed=is_enough and is_no_worse,
        reason=reason,
        calls=len(row_ids),
        candidate=float(correct.mean()),
        present=float(current_correct.mean()),
        difference=difference,
        interval=(low, high),
        config=config,
    )


def paired_interval(
    correct: npt.NDArray[np.bool_], current_correct: npt.NDArray[np.bool_], confidence: float, seed: int
) -> tuple[float, float]:
    """Compute the confidence interval of the difference of two accuracies on the same calls.

    Args:
        correct: (C,) True where the candidate is correct.
        current_correct: (C,) True where the current model is correct.
        confidence: confidence level of the two-sided interval.
        seed: seed of the bootstrap.
    """
    # The difference of the means is the mean of the differences, so resampling these keeps the calls paired.
    differences = correct.astype(np.float64) - current_correct
    if np.ptp(differences) == 0:  # all resamples are equal, so the interval is a point
        return float(differences[0]), float(differences[0])
    result = bootstrap(
        (differences,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=100,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def _is_correct_by_row(calls: pa.Table) -> dict[int, bool]:
    """Map the row id of each scored call to True if its intent is predicted correctly."""
    scored = calls.filter(pc.equal(calls["status"], SCORED))
    is_correct = pc.equal(scored["intent"], scored["intent_predicted"])
    return dict(zip(scored[ROW_ID].to_pylist(), is_correct.to_pylist(), strict=True))
