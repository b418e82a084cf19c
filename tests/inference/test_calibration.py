from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from msmtfn.inference.calibration import calibrate, fit_calibration, prediction_sets, reconcile
from msmtfn.labels import INTENTS, TASKS
from msmtfn.model.calibration import Calibration

Arrays = dict[str, npt.NDArray[np.float32]]
FIVE = [[0.4, 0.3, 0.15, 0.1, 0.05], [0.02, 0.08, 0.1, 0.5, 0.3]]


def sums(five: npt.ArrayLike) -> Arrays:
    """The probabilities of all tasks that belong to those of the intents."""
    columns = np.asarray(five, np.float32).T
    return {
        task: np.stack([sum(columns[INTENTS.index(each)] for each in letters) for letters in classes], axis=1)
        for task, classes in TASKS.items()
    }


def contradicting(num_calls: int, seed: int = 0) -> Arrays:
    """Heads that know nothing of each other."""
    rng = np.random.default_rng(seed)
    return {
        task: softmax(2 * rng.standard_normal((num_calls, len(classes))), axis=1).astype(np.float32)
        for task, classes in TASKS.items()
    }


def divergence(heads: Arrays, call: int, five: npt.NDArray[np.float64]) -> float:
    """The sum over the tasks of the divergence of the head from the sums of `five`, written out."""
    total = 0.0
    for task, classes in TASKS.items():
        for index, letters in enumerate(classes):
            p = float(heads[task][call, index])
            total += p * np.log(p / sum(five[INTENTS.index(each)] for each in letters))
    return total


def test_heads_that_agree_stay_as_they_are() -> None:
    np.testing.assert_allclose(reconcile(sums(FIVE)), FIVE, atol=1e-7)


def test_the_shares_of_two_heads_are_averaged_where_both_tell_the_classes_apart() -> None:
    # ABC has 0.8 in `two` and 0.6 in the others: their mean is 0.65. In it A, B and C, and in the rest D and E, keep
    # the shares that the other heads agree on: 1/2, 1/3, 1/6 and 3/4, 1/4.
    heads = sums([[0.3, 0.2, 0.1, 0.3, 0.1]])
    heads["two"] = np.array([[0.8, 0.2]], np.float32)
    expected = [0.65 / 2, 0.65 / 3, 0.65 / 6, 0.35 * 3 / 4, 0.35 / 4]
    assert reconcile(heads)[0].tolist() == pytest.approx(expected, abs=1e-6)


def test_no_other_distribution_is_closer_to_the_heads() -> None:
    heads = contradicting(4)
    for call, found in enumerate(reconcile(heads)):

        def objective(logits: npt.NDArray[np.float64], call: int = call) -> float:
            return divergence(heads, call, softmax(logits))

        best = minimize(objective, np.zeros(5), method="BFGS", tol=1e-10)
        assert divergence(heads, call, found) <= best.fun + 1e-9
        np.testing.assert_allclose(found, softmax(best.x), atol=1e-4)


def test_a_step_of_expectation_maximisation_does_not_move_the_closest_distribution() -> None:
    heads = contradicting(200, seed=1)
    found = reconcile(heads)
    updated = np.zeros_like(found)
    for task, classes in TASKS.items():
        for index, letters in enumerate(classes):
            members = [INTENTS.index(each) for each in letters]
            share = found[:, members] / found[:, members].sum(axis=1, keepdims=True)
            updated[:, members] += heads[task][:, [index]] * share / len(TASKS)
    np.testing.assert_allclose(updated, found, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)


def test_heads_that_are_certain_and_contradict_each_other_still_give_a_distribution() -> None:
    heads = {task: np.eye(len(classes), dtype=np.float32)[[0]] for task, classes in TASKS.items()}
    heads["five"] = np.array([[0, 0, 0, 0, 1]], np.float32)
    [found] = reconcile(heads)
    # Three of the four heads say ABC, and both that split it say A; E has what the head of the five says.
    assert found.tolist() == pytest.approx([0.75, 0, 0, 0, 0.25], abs=1e-9)


def test_the_calibrated_tasks_are_sums_of_one_distribution() -> None:
    found = calibrate(contradicting(50), Calibration(temperature=1.7))
    for task, expected in sums(found["five"]).items():
        np.testing.assert_allclose(found[task], expected, atol=1e-6)


def test_the_fitted_temperature_is_the_one_that_the_logits_were_multiplied_with() -> None:
    rng = np.random.default_rng(0)
    logits = 1.5 * rng.standard_normal((20_000, 5))
    intents = np.array([rng.choice(5, p=row) for row in softmax(logits, axis=1)])
    overconfident = sums(softmax(1.6 * logits, axis=1))
    assert fit_calibration(overconfident, intents).temperature == pytest.approx(1.6, rel=0.05)


def test_prediction_sets_have_the_most_likely_intents_up_to_the_threshold() -> None:
    five = np.array([[0.1, 0.2, 0.4, 0.25, 0.05], [1, 0, 0, 0, 0]], np.float32)
    assert prediction_sets(five, Calibration(set_threshold=0.66)) == [["C", "D", "B"], ["A"]]
    assert prediction_sets(five, Calibration(set_threshold=0.0)) == [["C"], ["A"]]
    assert prediction_sets(five, Calibration(set_threshold=1.0))[0] == ["C", "D", "B", "A", "E"]


def test_equally_likely_intents_are_in_alphabetical_order() -> None:
    assert prediction_sets(np.full((1, 5), 0.2, np.float32), Calibration(set_threshold=0.5)) == [["A", "B", "C"]]


def test_the_threshold_covers_the_conformal_share_of_the_calls() -> None:
    # 19 calls: the 18th smallest of what is needed, ceil(20 * 0.9). 17 calls need nothing, one 0.6 and one 0.9.
    heads = sums([[0.6, 0.3, 0.1, 0, 0]] * 19)
    labels = np.array([0] * 17 + [1, 2])
    found = fit_calibration(heads, labels)
    [five] = calibrate(heads, found)["five"][:1]
    assert found.set_threshold == pytest.approx(five[0], abs=1e-6)
    assert found.calls == 19


def test_sets_cover_the_intents_of_fresh_calls_as_often_as_they_promise() -> None:
    rng = np.random.default_rng(3)
    logits = 1.2 * rng.standard_normal((8000, 5))
    labels = np.array([rng.choice(5, p=row) for row in softmax(logits, axis=1)])
    heads = sums(softmax(1.5 * logits, axis=1))
    fitted = fit_calibration({task: each[:4000] for task, each in heads.items()}, labels[:4000])
    sets = prediction_sets(calibrate(heads, fitted)["five"][4000:], fitted)
    covered = np.mean([INTENTS[label] in each for label, each in zip(labels[4000:], sets, strict=True)])
    assert 0.88 <= covered <= 0.92


def coverages(num_calls: int, doubt: float, num_draws: int = 200) -> npt.NDArray[np.float64]:
    """Share of all calls whose intent is in its set, for calibrations on so many calls each.

    The heads are too sure by a factor of 1.5, which the temperature mends, and in a call in which A leads its share of
    `doubt` is B's, which it cannot mend.
    """
    rng = np.random.default_rng(3)
    logits = 1.5 * rng.standard_normal((20_000, 5))
    truth = softmax(logits, axis=1)
    moved = doubt * truth[:, 0] * (truth.argmax(axis=1) == 0)
    truth[:, 0] -= moved
    truth[:, 1] += moved
    heads = sums(softmax(1.5 * logits, axis=1))
    cumulated = truth.cumsum(axis=1)
    found = []
    for _ in range(num_draws):
        drawn = rng.integers(len(logits), size=num_calls)
        labels = (rng.random((num_calls, 1)) > cumulated[drawn]).sum(axis=1).clip(max=4)
        fitted = fit_calibration({task: each[drawn] for task, each in heads.items()}, labels)
        rest = rng.integers(len(logits), size=1000)
        sets = prediction_sets(calibrate({task: each[rest] for task, each in heads.items()}, fitted)["five"], fitted)
        held = [sum(truth[call, INTENTS.index(each)] for each in row) for call, row in zip(rest, sets, strict=True)]
        found.append(np.mean(held))
    return np.array(found)


def test_sets_cover_what_they_promise_where_the_probabilities_are_right() -> None:
    found = coverages(700, doubt=0.0, num_draws=30)
    assert abs(found.mean() - 0.9) < 0.01
    assert found.std() < 0.0095  # split conformal prediction alone: 0.012


def test_the_labels_limit_what_wrong_probabilities_do_to_the_sets() -> None:
    few, many = coverages(88, doubt=0.6, num_draws=30), coverages(2000, doubt=0.6, num_draws=15)
    assert abs(few.mean() - 0.9) < 0.04
    assert np.abs(many - 0.9).max() < 0.025


def test_fewer_than_nine_calls_put_every_intent_in_the_sets() -> None:
    fitted = fit_calibration(sums(FIVE * 4), np.array([0, 3] * 4))
    assert fitted.set_threshold == 1


def test_no_calls_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no calls"):
        fit_calibration(sums(np.zeros((0, 5))), np.zeros(0, np.int64))
