from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import matplotlib.image
import pytest

from msmtfn.training.events import EpochDone
from msmtfn.training.metrics import TaskMetrics
from msmtfn.training.plots import best_epoch, plot_confusions, plot_curves, plot_reliability

NUM_CLASSES = {"five": 5, "four": 4, "three": 3, "two": 2}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def made_up(num_classes: int) -> TaskMetrics:
    """Metrics of ten calls of the first class and none of the others."""
    confusion = [[0] * num_classes for _ in range(num_classes)]
    confusion[0][:2] = [7, 3]
    return TaskMetrics(0.7, 0.8, 0.1, confusion, [(0.55, 0.5, 4), (0.95, 5 / 6, 6)])


METRICS = {task: made_up(num_classes) for task, num_classes in NUM_CLASSES.items()}


def epoch(number: int, validation_loss: float) -> EpochDone:
    accuracy = dict.fromkeys(NUM_CLASSES, 0.5 + number / 10)
    return EpochDone(number, 4.0, validation_loss, accuracy, rounds_per_sec=1.0, seconds=1.0, is_best=False)


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


def test_the_plot_of_the_curves_is_12_by_4_8_inches() -> None:
    assert size_of(plot_curves([epoch(1, 4.5), epoch(2, 4.2)])) == (1440, 576)


def test_the_curves_can_be_plotted_after_one_epoch() -> None:
    assert plot_curves([epoch(1, 4.5)]).startswith(PNG_SIGNATURE)


def test_plots_from_several_threads_equal_those_from_one() -> None:
    epochs = [epoch(1, 4.5), epoch(2, 4.2)]
    alone = plot_curves(epochs)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(plot_curves, [epochs] * 4))
    assert together == [alone] * 4


def test_the_best_epoch_is_the_first_with_the_lowest_validation_loss() -> None:
    assert best_epoch([epoch(1, 4.5), epoch(2, 4.2), epoch(3, 4.2), epoch(4, 4.4)]) == 2


def test_a_nan_loss_is_never_the_best() -> None:
    assert best_epoch([epoch(1, math.nan), epoch(2, 4.2)]) == 2


def test_an_empty_list_of_epochs_is_rejected() -> None:
    with pytest.raises(ValueError, match="epochs is empty"):
        plot_curves([])


@pytest.mark.parametrize("plot", [plot_confusions, plot_reliability])
def test_a_missing_task_is_rejected(plot: Callable[[Mapping[str, TaskMetrics]], bytes]) -> None:
    with pytest.raises(ValueError, match="the tasks are two; they must be"):
        plot({"two": METRICS["two"]})
