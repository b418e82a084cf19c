from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from msmtfn.training.curves import best_epoch, plot_curves
from msmtfn.training.events import EpochDone
from tests.evaluation.test_plots import NUM_CLASSES, PNG_SIGNATURE, size_of


def epoch(number: int, validation_loss: float) -> EpochDone:
    accuracy = dict.fromkeys(NUM_CLASSES, 0.5 + number / 10)
    return EpochDone(number, 4.0, validation_loss, accuracy, rounds_per_sec=1.0, seconds=1.0, is_best=False)


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
