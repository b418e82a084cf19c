"""Metrics of a model's predictions in each task: accuracy, F1, confusion and calibration, computed by torchmetrics.

Shape letters: C calls, K classes of a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_calibration_error,
    multiclass_confusion_matrix,
    multiclass_f1_score,
)

from msmtfn.labels import INTENTS, TASKS, class_index

NUM_BINS: Final = 15
"""Number of equal bins of the largest probability, from 0 to 1, as in Guo et al. (2017)."""

SMALLEST_PROBABILITY: Final = 1e-12
"""Added to a probability before its logarithm is taken, to keep that finite."""

_ROUNDING: Final = 1e-3  # how far a softmax in half precision may lie outside 0 to 1
_BELOW_ONE: Final = np.nextafter(np.float32(1), np.float32(0))


@dataclass(frozen=True, slots=True)
class TaskMetrics:
    """The metrics of one task.

    Attributes:
        accuracy: share of the calls that are predicted correctly.
        macro_f1: mean F1 over the classes that occur among the labels or the predictions, as scikit-learn has it; a
            class that is predicted but never right counts as 0.
        calibration_error: expected calibration error (Guo et al. 2017): the absolute difference of confidence and
            accuracy in `NUM_BINS` equal bins of the largest probability, averaged with the number of calls as weight.
        log_loss: mean of minus the logarithm of the true class's probability.
        confusion: (K, K) number of calls; a row is the true class, a column the predicted one.
        bins: mean confidence, accuracy and number of calls of each bin, in ascending order; empty bins are left out.
    """

    accuracy: float
    macro_f1: float
    calibration_error: float
    log_loss: float
    confusion: list[list[int]]
    bins: list[tuple[float, float, int]]


def task_metrics(task: str, probabilities: npt.NDArray[np.float32], intents: npt.NDArray[np.int64]) -> TaskMetrics:
    """Compute the metrics of one task; among equal probabilities the first class counts as predicted.

    Args:
        task: one of `TASKS`.
        probabilities: (C, K) probabilities.
        intents: (C,) index of each call's label in `INTENTS`.

    Raises:
        ValueError: there are no calls, the shapes do not match, or a value is not a probability.
    """
    labels = class_targets(task, intents)
    _check_probabilities(task, probabilities, num_calls=len(labels))
    num_classes = len(TASKS[task])
    hits = torch.from_numpy(is_correct(task, probabilities, intents))
    targets, predictions = torch.from_numpy(labels), torch.from_numpy(probabilities.argmax(axis=1))
    # torchmetrics puts a confidence of exactly 1 into a bin of its own, and mistakes values above 1 for logits.
    inside = torch.from_numpy(probabilities.astype(np.float32).clip(0, _BELOW_ONE))
    f1 = multiclass_f1_score(predictions, targets, num_classes, average="none")
    return TaskMetrics(
        accuracy=multiclass_accuracy(predictions, targets, num_classes, average="micro").item(),
        macro_f1=f1[torch.cat([targets, predictions]).unique()].mean().item(),
        calibration_error=multiclass_calibration_error(inside, targets, num_classes, NUM_BINS, norm="l1").item(),
        log_loss=negative_log_likelihood(task, probabilities, intents) / len(intents),
        confusion=multiclass_confusion_matrix(predictions, targets, num_classes).tolist(),
        bins=_reliability_bins(inside.amax(dim=1), hits),
    )


def all_metrics(
    probabilities: Mapping[str, npt.NDArray[np.float32]], intents: npt.NDArray[np.int64]
) -> dict[str, TaskMetrics]:
    """Compute the metrics of all four tasks from the probabilities (C, K) of each and the labels (C,).

    Raises:
        ValueError: a task is missing or unknown, or `task_metrics` raises it.
    """
    check_tasks(probabilities)
    return {task: task_metrics(task, probabilities[task], intents) for task in TASKS}


def is_correct(
    task: str, probabilities: npt.NDArray[np.float32], intents: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return (C,) True where the most likely class of a task is the true one; among equal ones the first counts."""
    hits: npt.NDArray[np.bool_] = probabilities.argmax(axis=1) == class_targets(task, intents)
    return hits


def negative_log_likelihood(task: str, probabilities: npt.NDArray[np.float32], intents: npt.NDArray[np.int64]) -> float:
    """Return the sum over the calls of minus the logarithm of the true class's probability."""
    targets = class_targets(task, intents)
    return -float(np.log(probabilities[np.arange(len(targets)), targets] + SMALLEST_PROBABILITY).sum())


def class_targets(task: str, intents: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Map intents (C,), as indices in `INTENTS`, to the classes (C,) of a task.

    Raises:
        ValueError: the task is unknown, or `intents` is not a one-dimensional array of such indices.
    """
    classes = np.array([class_index(task, intent) for intent in INTENTS], dtype=np.int64)
    if intents.ndim != 1 or not np.issubdtype(intents.dtype, np.integer):
        raise ValueError(f"intents is {intents.dtype} of shape {intents.shape}; it must be whole numbers, one per call")
    # numpy would count a negative index from the end.
    if np.any((intents < 0) | (intents >= len(INTENTS))):
        raise ValueError(f"intents holds {intents.min()} to {intents.max()}; it must hold 0 to {len(INTENTS) - 1}")
    return classes[intents]


def check_tasks(tasks: Iterable[str]) -> None:
    """Check that the tasks are exactly the four of `TASKS`.

    Raises:
        ValueError: a task is missing or unknown.
    """
    given = set(tasks)
    if given != set(TASKS):
        raise ValueError(f"the tasks are {', '.join(sorted(given)) or 'none'}; they must be {', '.join(TASKS)}")


def _check_probabilities(task: str, probabilities: npt.NDArray[Any], num_calls: int) -> None:
    if num_calls == 0:
        raise ValueError("there are no calls; metrics need at least one")
    expected = (num_calls, len(TASKS[task]))
    if probabilities.shape != expected:
        raise ValueError(f"probabilities of {task} has shape {probabilities.shape}; it must be {expected}")
    if not np.isfinite(probabilities).all():
        raise ValueError(f"probabilities of {task} holds values that are not finite; look for a loss that diverged")
    if probabilities.min() < -_ROUNDING or probabilities.max() > 1 + _ROUNDING:
        raise ValueError(f"probabilities of {task} holds values outside 0 to 1; apply the softmax to logits first")


def _reliability_bins(confidences: Tensor, hits: Tensor) -> list[tuple[float, float, int]]:
    # torchmetrics computes its edges in the same way, so both put a call into the same bin.
    edges = torch.linspace(0, 1, NUM_BINS + 1, dtype=confidences.dtype)
    bins = torch.bucketize(confidences, edges, right=True)
    members = [bins == index for index in bins.unique()]
    return [(confidences[m].mean().item(), hits[m].float().mean().item(), int(m.sum())) for m in members]
