"""Learning curves of a training as PNG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from msmtfn.evaluation.plots import new_figure, to_png
from msmtfn.labels import TASKS
from msmtfn.training.events import EpochDone


def plot_curves(epochs: Sequence[EpochDone]) -> bytes:
    """Plot the losses and validation accuracies by epoch, and mark the epoch of the lowest validation loss.

    Raises:
        ValueError: there are no epochs.
    """
    if not epochs:
        raise ValueError("epochs is empty; there is nothing to plot before the first epoch has ended")
    figure = new_figure(width_inch=12, height_inch=4.8)
    losses, accuracies = figure.subplots(1, 2)
    _draw_lines(
        losses,
        epochs,
        {
            "training": [epoch.training_loss for epoch in epochs],
            "validation": [epoch.validation_loss for epoch in epochs],
        },
    )
    losses.set(title="Loss", ylabel="loss")
    _draw_lines(accuracies, epochs, {f"{task} classes": [epoch.accuracy[task] for epoch in epochs] for task in TASKS})
    accuracies.set(title="Validation accuracy", ylabel="accuracy")
    return to_png(figure)


def best_epoch(epochs: Sequence[EpochDone]) -> int:
    """Return the number of the epoch with the lowest validation loss, the first among equals; NaN is never lowest."""
    return min(epochs, key=lambda epoch: (math.isnan(epoch.validation_loss), epoch.validation_loss)).epoch


def _draw_lines(axes: Axes, epochs: Sequence[EpochDone], lines: Mapping[str, Sequence[float]]) -> None:
    numbers = [epoch.epoch for epoch in epochs]
    for label, values in lines.items():
        axes.plot(numbers, values, marker="o", markersize=4, label=label)
    best = best_epoch(epochs)
    axes.axvline(best, color="gray", linestyle="--", zorder=1, label=f"best epoch: {best:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set(xlabel="epoch", xlim=(min(numbers) - 0.5, max(numbers) + 0.5))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False)
