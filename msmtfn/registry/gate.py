"""Whether a new model may take the place of the present one: no worse on the same calls, and not by luck.

Both models classify the same calls, which neither has learned from. The metric is the share of calls whose intent, of
the five, is named rightly. The difference of the two, candidate minus present, has a percentile interval by the paired
bootstrap: calls are drawn with replacement, each with what both models say of it (Efron and Tibshirani, "An
Introduction to the Bootstrap", 1993). The candidate passes where the interval's lower end is not below minus the
margin.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.stats import bootstrap

from msmtfn.errors import TrainingDataError
from msmtfn.leads.schema import SCORED
from msmtfn.rows import ROW_ID

METRIC: Final = "accuracy_five"
NUM_RESAMPLES: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """When a new model takes the present one's place."""

    gate_share: float = 0.1
    """Share of the customers of --manifests whose calls neither train nor validate, and judge both models."""
    gate_margin: float = 0.02
    """By so much, 0 to 1, the share of intents that are named rightly may be lower than the present model's."""
    gate_confidence: float = 0.9
    """Of the interval of the difference, whose lower end must not be below minus the margin."""
    gate_min_calls: int = 50
    """Held-out calls that it takes to compare two models; with fewer the present one stays."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        if not 0 < self.gate_share < 1 or not 0 < self.gate_confidence < 1:
            raise ValueError("gate_share and gate_confidence must be between 0 and 1")
        if self.gate_min_calls < 1:
            raise ValueError(f"gate_min_calls is {self.gate_min_calls}; it must be at least 1")
        if not 0 <= self.gate_margin < 1:
            raise ValueError(f"gate_margin is {self.gate_margin}; it must be at least 0 and less than 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was found, and what follows from it.

    Attributes:
        passed: whether the candidate may take the place.
        reason: in one line.
        calls: that both models were judged on.
        candidate: its share of calls named rightly.
        present: the present model's; None where there is none.
        difference: candidate minus present.
        interval: of the difference.
        config: margin and confidence.
    """

    passed: bool
    reason: str
    calls: int
    candidate: float
    present: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    config: GateConfig

    def as_row(self) -> dict[str, Any]:
        """For the record."""
        return {"metric": METRIC, **asdict(self)}


def decide(candidate: pa.Table, present: pa.Table | None, config: GateConfig, seed: int) -> Decision:
    """Compare two models on the calls that either could score; what one could not, it has named wrongly.

    Args:
        candidate: the held-out calls as the new model has scored them (`judge.judge_split`).
        present: the same calls as the present one has; None where there is none.
        config: margin and confidence.
        seed: of the bootstrap.

    Raises:
        TrainingDataError: there is no call that both have scored.
    """
    new = _rightly(candidate)
    if not new:
        raise TrainingDataError("no held-out call could be scored, so the new model cannot be judged")
    if present is None:
        right = np.array(list(new.values()))
        reason = "there is no present model"
        return Decision(passed=True, reason=reason, calls=len(right), candidate=float(right.mean()), config=config)
    old = _rightly(present)
    either = sorted(new.keys() | old.keys())
    right, right_before = (np.array([said.get(row_id, False) for row_id in either]) for said in (new, old))
    low, high = paired_interval(right, right_before, config.gate_confidence, seed)
    difference = float(right.mean() - right_before.mean())
    is_enough, is_no_worse = len(either) >= config.gate_min_calls, low >= -config.gate_margin
    reason = (
        f"{100 * difference:+.1f} points, {100 * config.gate_confidence:g} % interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}: its lower end is {'not below' if is_no_worse else 'below'} minus the margin of "
        f"{100 * config.gate_margin:g}"
    )
    if not is_enough:
        reason += f"; {len(either)} calls are too few to compare models, {config.gate_min_calls} are needed"
    return Decision(
        passed=is_enough and is_no_worse,
        reason=reason,
        calls=len(either),
        candidate=float(right.mean()),
        present=float(right_before.mean()),
        difference=difference,
        interval=(low, high),
        config=config,
    )


def paired_interval(
    right: npt.NDArray[np.bool_], right_before: npt.NDArray[np.bool_], confidence: float, seed: int
) -> tuple[float, float]:
    """The interval of the difference of two shares over the same calls.

    Args:
        right: (C,) whether the candidate is right.
        right_before: (C,) whether the present model is.
        confidence: of the interval, two-sided.
        seed: of the draws.
    """
    differences = right.astype(np.float64) - right_before
    if np.ptp(differences) == 0:  # there is nothing to draw from
        return float(differences[0]), float(differences[0])
    drawn = bootstrap(
        (differences,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=100,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def _rightly(judged: pa.Table) -> dict[int, bool]:
    """Whether each scored call's intent is named rightly, by its row."""
    scored = judged.filter(pc.equal(judged["status"], SCORED))
    right = pc.equal(scored["intent"], scored["intent_predicted"])
    return dict(zip(scored[ROW_ID].to_pylist(), right.to_pylist(), strict=True))
