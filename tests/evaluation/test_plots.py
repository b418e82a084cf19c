from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import matplotlib.image
import pytest

from msmtfn.evaluation.metrics import TaskMetrics
from msmtfn.evaluation.plots import best_epoch, plot_confusions, plot_curves, plot_reliability

NUM_CLASSES = {"five": 5, "four": 4, "three": 3, "two": 2}
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def made_up(num_classes: int) -> TaskMetrics:
    """Ten calls of the first class, and none of the others."""
    confusion = [[0] * num_classes for _ in range(num_classes)]
    confusion[0][:2] = [7, 3]
    return TaskMetrics(0.7, 0.8, 0.1, confusion, [(0.55, 0.5, 4), (0.95, 5 / 6, 6)])


METRICS = {task: made_up(num_classes) for task, num_classes in NUM_CLASSES.items()}


def epoch(number: int, validation_loss: float) -> dict[str, float]:
    accuracies = {f"accuracy_{task}": 0.5 + number / 10 for task in NUM_CLASSES}
    return {"epoch": number, "training_loss": 4.0, "validation_loss": validation_loss, **accuracies}


def size_of(png: bytes) -> tuple[int, int]:
    """Width and height of a valid PNG."""
    assert png.startswith(PNG_SIGNATURE)
    pixels = matplotlib.image.imread(io.BytesIO(png), format="png")
    assert pixels.min() < pixels.max(), "the picture is blank"
    return pixels.shape[1], pixels.shape[0]


def test_the_confusions_are_a_picture_of_ten_by_nine_and_a_half_inches() -> None:
    assert size_of(plot_confusions(METRICS)) == (1200, 1140)


def test_the_reliability_is_a_picture_of_fifteen_by_five_and_a_half_inches() -> None:
    assert size_of(plot_reliability(METRICS)) == (1800, 660)


def test_the_curves_are_a_picture_of_twelve_by_nearly_five_inches() -> None:
    assert size_of(plot_curves([epoch(1, 4.5), epoch(2, 4.2)])) == (1440, 576)


def test_the_curves_can_be_drawn_after_one_epoch() -> None:
    assert plot_curves([epoch(1, 4.5)]).startswith(PNG_SIGNATURE)


def test_figures_drawn_at_the_same_time_are_those_drawn_alone() -> None:
    epochs = [epoch(1, 4.5), epoch(2, 4.2)]
    alone = plot_curves(epochs)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(plot_curves, [epochs] * 4))
    assert together == [alone] * 4


def test_the_best_epoch_has_the_lowest_validation_loss_and_is_the_first_of_equals() -> None:
    assert best_epoch([epoch(1, 4.5), epoch(2, 4.2), epoch(3, 4.2), epoch(4, 4.4)]) == 2


def test_a_loss_that_is_not_a_number_is_never_the_best() -> None:
    assert best_epoch([epoch(1, math.nan), epoch(2, 4.2)]) == 2


def test_no_epochs_are_refused() -> None:
    with pytest.raises(ValueError, match="epochs is empty"):
        plot_curves([])


@pytest.mark.parametrize("plot", [plot_confusions, plot_reliability])
def test_a_missing_task_is_refused(plot: Callable[[Mapping[str, TaskMetrics]], bytes]) -> None:
    with pytest.raises(ValueError, match="the tasks are two; they must be"):
        plot({"two": METRICS["two"]})
