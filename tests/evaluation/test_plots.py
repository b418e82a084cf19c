from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import matplotlib.image
import pytest

from msmtfn.evaluation.metrics import TaskMetrics
from msmtfn.evaluation.plots import plot_confusions, plot_reliability

NUM_CLASSES = {"five": 5, "four": 4, "three": 3, "two": 2}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def made_up(num_classes: int) -> TaskMetrics:
    """Metrics of ten calls of the first class and none of the others."""
    confusion = [[0] * num_classes for _ in range(num_classes)]
    confusion[0][:2] = [7, 3]
    return TaskMetrics(0.7, 0.8, 0.1, 0.9, confusion, [(0.55, 0.5, 4), (0.95, 5 / 6, 6)])


METRICS = {task: made_up(num_classes) for task, num_classes in NUM_CLASSES.items()}


def size_of(png: bytes) -> tuple[int, int]:
    """The width and height of a PNG, which must be valid and not blank."""
    assert png.startswith(PNG_SIGNATURE)
    pixels = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert pixels.min() < pixels.max(), "the picture is blank"
    return pixels.shape[1], pixels.shape[0]


def test_the_confusion_plot_is_10_by_9_5_inches() -> None:
    assert size_of(plot_confusions(METRICS)) == (1200, 1140)


def test_the_reliability_plot_is_15_by_5_5_inches() -> None:
    assert size_of(plot_reliability(METRICS)) == (1800, 660)


@pytest.mark.parametrize("plot", [plot_confusions, plot_reliability])
def test_a_missing_task_is_rejected(plot: Callable[[Mapping[str, TaskMetrics]], bytes]) -> None:
    with pytest.raises(ValueError, match="the tasks are two; they must be"):
        plot({"two": METRICS["two"]})
