from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from msmtfn.evaluation.metrics import (
    all_metrics,
    class_targets,
    is_correct,
    negative_log_likelihood,
    task_metrics,
)

NUM_CLASSES = {"five": 5, "four": 4, "three": 3, "two": 2}
A, B, C, D, E = range(5)
POSITIVE, NEGATIVE = range(2)


def certain(predicted: list[int], num_classes: int) -> npt.NDArray[np.float32]:
    """Probabilities of 1 for one class per call."""
    return np.eye(num_classes, dtype=np.float32)[predicted]


def two(*positive: float) -> npt.NDArray[np.float32]:
    """Probabilities in the task of two classes, from that of the positive class."""
    return np.array([[share, 1 - share] for share in positive], dtype=np.float32)


def intents(*indices: int) -> npt.NDArray[np.int64]:
    return np.array(indices, dtype=np.int64)


def test_an_impatient_customer_counts_as_positive_and_no_intent_as_negative() -> None:
    assert class_targets("two", intents(A, B, C, D, E)).tolist() == [0, 0, 0, 1, 1]


def test_four_and_three_classes_merge_intents_as_the_paper_does() -> None:
    assert class_targets("four", intents(A, B, C, D, E)).tolist() == [0, 1, 2, 3, 3]
    assert class_targets("three", intents(A, B, C, D, E)).tolist() == [0, 1, 1, 2, 2]


def test_correct_and_certain_predictions_have_perfect_metrics() -> None:
    found = task_metrics("five", certain([A, B, C, D, E], 5), intents(A, B, C, D, E))
    assert (found.accuracy, found.macro_f1) == (1, 1)
    assert found.calibration_error == pytest.approx(0, abs=1e-6)
    assert found.confusion == np.eye(5, dtype=int).tolist()


def test_wrong_and_certain_predictions_have_the_largest_calibration_error() -> None:
    found = task_metrics("two", certain([NEGATIVE, POSITIVE], 2), intents(A, E))
    assert (found.accuracy, found.macro_f1) == (0, 0)
    assert found.calibration_error == pytest.approx(1, abs=1e-6)


def test_rows_of_the_confusion_are_true_classes_and_columns_predicted_ones() -> None:
    found = task_metrics("three", certain([0, 1, 1, 2], 3), intents(A, A, A, D))
    assert found.confusion == [[1, 2, 0], [0, 0, 0], [0, 0, 1]]


def test_intents_of_the_same_merged_class_count_as_equal() -> None:
    found = task_metrics("two", certain([POSITIVE, POSITIVE, NEGATIVE, NEGATIVE], 2), intents(A, C, D, E))
    assert found.accuracy == 1


def test_macro_f1_gives_a_rare_class_the_weight_of_a_frequent_one() -> None:
    # Positive: precision 3/4, recall 1, F1 6/7; negative: precision 1, recall 1/2, F1 2/3.
    found = task_metrics("two", certain([0, 0, 0, 0, 1], 2), intents(A, B, C, D, E))
    assert found.accuracy == pytest.approx(0.8)
    assert found.macro_f1 == pytest.approx((6 / 7 + 2 / 3) / 2)


def test_a_class_that_occurs_nowhere_does_not_lower_macro_f1() -> None:
    assert task_metrics("five", certain([A, B], 5), intents(A, B)).macro_f1 == 1


def test_a_class_that_is_only_predicted_has_an_f1_of_0() -> None:
    # A: precision 1, recall 1/2, F1 2/3; B: F1 1; E: predicted and never right, as in scikit-learn.
    found = task_metrics("five", certain([A, E, B], 5), intents(A, A, B))
    assert found.macro_f1 == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_calibration_error_is_the_gap_of_each_bin_weighted_by_its_calls() -> None:
    # 0.65 twice, right once: gap 0.15; 0.94 and 0.98, both right: mean 0.96, gap 0.04.
    found = task_metrics("two", two(0.65, 0.65, 0.94, 0.98), intents(A, D, A, A))
    assert found.calibration_error == pytest.approx(0.5 * 0.15 + 0.5 * 0.04, abs=1e-6)


def test_log_loss_is_the_mean_of_minus_the_logarithm_of_the_true_probability() -> None:
    found = task_metrics("two", two(0.5, 0.75), intents(A, D))
    assert found.log_loss == pytest.approx((np.log(2) + np.log(4)) / 2, abs=1e-6)


def test_bins_have_confidence_accuracy_and_calls_and_empty_ones_are_left_out() -> None:
    found = task_metrics("two", two(0.94, 0.65, 0.98, 0.65), intents(A, D, A, A))
    assert found.bins == [pytest.approx((0.65, 0.5, 2)), pytest.approx((0.96, 1, 2))]


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_upper_one() -> None:
    # Both right, in the bin from 9/15 to 10/15: mean 0.62, gap 0.38.
    found = task_metrics("two", two(0.6, 0.64), intents(A, A))
    assert found.bins == [pytest.approx((0.62, 1, 2))]
    assert found.calibration_error == pytest.approx(0.38, abs=1e-6)


def test_a_certain_call_shares_the_bin_of_a_nearly_certain_one() -> None:
    # Right at 0.94, wrong at 1: together 0.97 against 0.5; apart, the gaps of 0.06 and 1 would make 0.53.
    found = task_metrics("two", two(0.94, 1.0), intents(A, D))
    assert found.calibration_error == pytest.approx(0.47, abs=1e-6)
    assert found.bins == [pytest.approx((0.97, 0.5, 2))]


def test_a_probability_rounded_above_one_is_not_mistaken_for_a_logit() -> None:
    rounded = np.array([[1.0001, 0.0]], dtype=np.float32)
    assert task_metrics("two", rounded, intents(A)).calibration_error == pytest.approx(0, abs=1e-6)


def test_the_first_of_equally_probable_classes_is_predicted() -> None:
    assert task_metrics("two", two(0.5), intents(A)).confusion == [[1, 0], [0, 0]]


def test_all_metrics_has_every_task_with_its_own_classes() -> None:
    probabilities = {task: certain([0], num_classes) for task, num_classes in NUM_CLASSES.items()}
    found = all_metrics(probabilities, intents(B))
    assert {task: each.accuracy for task, each in found.items()} == {"five": 0, "four": 0, "three": 0, "two": 1}
    assert {task: len(each.confusion) for task, each in found.items()} == NUM_CLASSES


def test_all_metrics_rejects_a_missing_task() -> None:
    with pytest.raises(ValueError, match="the tasks are two; they must be five, four, three, two"):
        all_metrics({"two": two(0.5)}, intents(A))


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (two(0.5, 0.5), intents(A), r"shape \(2, 2\); it must be \(1, 2\)"),
        (certain([A], 5), intents(A), r"shape \(1, 5\); it must be \(1, 2\)"),
        (two(), intents(), "no calls"),
        (two(np.nan), intents(A), "not finite"),
        (np.array([[3.0, -3.0]], dtype=np.float32), intents(A), "outside 0 to 1"),
        (two(0.5), intents(-1), "intents holds -1 to -1"),
        (two(0.5), intents(5), "intents holds 5 to 5"),
        (two(0.5), np.array([[A]]), r"shape \(1, 1\)"),
        (two(0.5), np.array([0.0]), "whole numbers"),
    ],
)
def test_invalid_probabilities_and_labels_are_rejected(
    probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        task_metrics("two", probabilities, labels)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30))
def test_the_confusion_has_every_call_and_its_diagonal_gives_the_accuracy(pairs: list[tuple[int, int]]) -> None:
    predicted, true = zip(*pairs, strict=True)
    found = task_metrics("five", certain(list(predicted), 5), intents(*true))
    confusion = np.array(found.confusion)
    assert confusion.sum() == len(pairs)
    assert np.trace(confusion) / len(pairs) == pytest.approx(found.accuracy, abs=1e-6)


def test_the_likelihood_and_the_hits_agree_with_counts_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]], np.float32)
    labels = intents(A, E, D)  # the classes ABC, DE and DE
    assert is_correct("two", probabilities, labels).tolist() == [True, True, False]
    expected = -np.log([0.5, 0.75, 0.1]).sum()
    assert negative_log_likelihood("two", probabilities, labels) == pytest.approx(expected, rel=1e-6)
