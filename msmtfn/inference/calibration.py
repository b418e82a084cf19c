"""From the probabilities of the four heads to those of a lead: one distribution, calibrated, with a prediction set.

The heads are trained apart, so they contradict each other. `reconcile` finds the distribution over the five intents
that is closest to all four, a temperature makes it as sure as it is right (Guo et al., "On calibration of modern neural
networks", 2017), and the coarser tasks are its sums. The prediction set holds the intent in 90 % of all calls, by split
conformal prediction with adaptive sets (Romano et al., "Classification with valid and adaptive coverage", 2020), which
the calibrated probabilities steady where there are few labelled calls.

Shapes: C calls, K classes of a task.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from msmtfn.labels import INTENTS, TASKS
from msmtfn.model.calibration import COVERAGE, MAX_TEMPERATURE, MIN_TEMPERATURE, Calibration

Probabilities = Mapping[str, npt.NDArray[np.float32]]
"""For each task an array (C, K) whose rows sum to 1."""

COARSE_TO_FINE: Final = tuple(sorted(TASKS, key=lambda task: len(TASKS[task])))
"""The tasks from two classes to five; each one splits classes of the one before."""

OUTSIDE: Final = 0.1
"""Probability that the labels alone would put the threshold below the band that it is kept in, and likewise above."""

SMALLEST: Final = 1e-12
"""Stands for a probability of 0, whose logarithm is infinite."""


def reconcile(heads: Probabilities) -> npt.NDArray[np.float64]:
    """Return the distribution over the five intents (C, 5) that is closest to all four heads.

    It minimises the sum over the tasks of the Kullback-Leibler divergence of the head from the distribution's sums over
    the task's classes. Since each task splits classes of the coarser one, the minimum has a closed form: the share of a
    class in the class that it is split from is the quotient of both classes' mean probabilities over those heads that
    tell them apart. Where the heads agree already, it is theirs.
    """
    num_calls = len(heads["five"])
    coarser: tuple[str, ...] = ("".join(INTENTS),)
    parent = np.ones((num_calls, 1))
    for level, task in enumerate(COARSE_TO_FINE):
        of_class = np.zeros((num_calls, len(TASKS[task])))
        for finer in COARSE_TO_FINE[level:]:
            of_class += heads[finer].astype(np.float64) @ _membership(TASKS[finer], TASKS[task])
        splits = _membership(TASKS[task], coarser)
        of_parent = of_class @ splits @ splits.T
        # Where all heads give the parent nothing, its classes share the nothing that it has.
        even = 1 / (splits.sum(axis=0) @ splits.T)
        share = np.divide(of_class, of_parent, out=np.broadcast_to(even, of_class.shape).copy(), where=of_parent > 0)
        coarser, parent = TASKS[task], (parent @ splits.T) * share
    return parent


def calibrate(heads: Probabilities, calibration: Calibration) -> dict[str, npt.NDArray[np.float32]]:
    """Return the calibrated probabilities of all four tasks, which are sums of one distribution over the intents."""
    five = _with_temperature(reconcile(heads), calibration.temperature).astype(np.float32)
    return {
        task: (five.astype(np.float64) @ _membership(INTENTS, classes)).astype(np.float32)
        for task, classes in TASKS.items()
    }


def prediction_sets(five: npt.NDArray[np.float32], calibration: Calibration) -> list[list[str]]:
    """Return the prediction set of each call, most likely intent first; among equal ones the first in the alphabet.

    Args:
        five: (C, 5) calibrated probabilities of the intents.
        calibration: gives the threshold.
    """
    order, above = _more_likely(five)
    sizes = (above <= calibration.set_threshold).sum(axis=1)
    return [[INTENTS[intent] for intent in row[:size]] for row, size in zip(order, sizes, strict=True)]


def fit_calibration(heads: Probabilities, intents: npt.NDArray[np.int64]) -> Calibration:
    """Fit temperature and threshold on labelled calls that the network has not learned from.

    The temperature minimises the log loss of the five intents; `_find_threshold` explains the threshold.

    Args:
        heads: probabilities of the four heads as they are.
        intents: (C,) index of each call's label in `INTENTS`.

    Raises:
        ValueError: there are no calls.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - who applies a calibration needs no SciPy

    num_calls = len(intents)
    if num_calls == 0:
        raise ValueError("there are no calls; a calibration needs at least one")
    five = reconcile(heads)

    def log_loss(log_temperature: float) -> float:
        tempered = _with_temperature(five, math.exp(log_temperature))
        return -float(np.log(tempered[np.arange(num_calls), intents] + SMALLEST).mean())

    bounds = (math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE))
    found = minimize_scalar(log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    temperature = float(np.clip(math.exp(found.x), MIN_TEMPERATURE, MAX_TEMPERATURE))
    threshold = _find_threshold(_with_temperature(five, temperature).astype(np.float32), intents)
    return Calibration(temperature=temperature, set_threshold=threshold, calls=num_calls)


def _find_threshold(five: npt.NDArray[np.float32], intents: npt.NDArray[np.int64]) -> float:
    """Return the threshold whose sets hold the intent of `COVERAGE` of all calls.

    Of C labelled calls, the k-th smallest threshold that any of them needs covers a share of all calls that is drawn
    from Beta(k, C + 1 - k) (Vovk, 2012). Split conformal prediction takes k = (C + 1) `COVERAGE`: right on average over
    many sets of labelled calls, but off by 0.3 / sqrt(C) for the one that there is, three points for 88 calls.

    The calibrated probabilities tell the same without labels: the smallest threshold whose sets have `COVERAGE` as
    their mean probability. It has no such error, since only the temperature was fitted, but it is as wrong as they are.
    So it is taken as long as the labels do not contradict: it is kept between the thresholds of the lowest and the
    highest k for which the Beta distribution has at least `OUTSIDE` on either side of `COVERAGE`. With many calls the
    band closes and the labels decide. Fewer calls than split conformal prediction needs, 9, put everything in the sets.

    Args:
        five: (C, 5) calibrated probabilities.
        intents: (C,) index of each call's label in `INTENTS`.
    """
    from scipy.special import bdtr  # noqa: PLC0415 - who applies a calibration needs no SciPy

    num_calls = len(intents)
    if math.ceil((num_calls + 1) * COVERAGE) > num_calls:
        return 1.0
    order, above = _more_likely(five)
    needed = np.sort(above[order == intents[:, None]])
    # P(Beta(k, C + 1 - k) > x) = P(Binomial(C, x) < k)
    too_much = bdtr(np.arange(num_calls), num_calls, COVERAGE)
    lowest, highest = np.flatnonzero((too_much >= OUTSIDE) & (too_much <= 1 - OUTSIDE))[[0, -1]]
    by_threshold = np.argsort(above, axis=None)
    likely = np.take_along_axis(five.astype(np.float64), order, axis=1)
    promised = np.cumsum(likely.ravel()[by_threshold]) / num_calls
    by_probabilities = above.ravel()[by_threshold][np.searchsorted(promised, COVERAGE)]
    return float(min(np.clip(by_probabilities, needed[lowest], needed[highest]), 1.0))


def _with_temperature(five: npt.NDArray[np.float64], temperature: float) -> npt.NDArray[np.float64]:
    logits = np.log(five + SMALLEST) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    tempered: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return tempered


def _more_likely(five: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the intents of each call, most likely first, and the sum of the probabilities before each, both (C, 5)."""
    order = np.argsort(-five, axis=1, kind="stable")
    likely = np.take_along_axis(five.astype(np.float64), order, axis=1)
    return order, np.cumsum(likely, axis=1) - likely


def _membership(fine: tuple[str, ...], coarse: tuple[str, ...]) -> npt.NDArray[np.float64]:
    """Return the matrix (classes of `fine`, classes of `coarse`) that is 1 where the one is part of the other."""
    return np.array([[float(set(part) <= set(whole)) for whole in coarse] for part in fine])
