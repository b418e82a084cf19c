"""Plots of an evaluation as PNG: confusion matrices and reliability diagrams.

The figures are made without pyplot, whose list of open figures is global and so not thread-safe. Saving as PNG uses
matplotlib's Agg backend, which needs no display.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from msmtfn.evaluation.metrics import TaskMetrics, check_tasks
from msmtfn.labels import TASKS

DOTS_PER_INCH: Final = 120

_DARK: Final = 0.55  # from this share of a row on, a cell is dark enough to need white text


def plot_confusions(metrics: Mapping[str, TaskMetrics]) -> bytes:
    """Plot the confusion matrix of each task: number of calls, and share of the calls of the true class.

    Raises:
        ValueError: a task of `TASKS` is missing, or there is another one.
    """
    check_tasks(metrics)
    figure = new_figure(width_inch=10, height_inch=9.5)
    panels = figure.subplots(2, 2)
    images = [_draw_confusion(axes, task, metrics[task]) for axes, task in zip(panels.flat, TASKS, strict=True)]
    figure.colorbar(images[0], ax=panels, shrink=0.5, label="share of the true class")
    return to_png(figure)


def plot_reliability(metrics: Mapping[str, TaskMetrics]) -> bytes:
    """Plot the reliability diagram of each task: accuracy by confidence, and below it the number of calls.

    Raises:
        ValueError: a task of `TASKS` is missing, or there is another one.
    """
    check_tasks(metrics)
    figure = new_figure(width_inch=15, height_inch=5.5)
    panels = figure.subplots(2, len(TASKS), sharex=True, height_ratios=[3, 1])
    for column, task in enumerate(TASKS):
        _draw_reliability(panels[0, column], panels[1, column], task, metrics[task])
    panels[0, 0].set_ylabel("accuracy")
    panels[1, 0].set_ylabel("calls")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return to_png(figure)


def _draw_confusion(axes: Axes, task: str, metrics: TaskMetrics) -> AxesImage:
    counts = np.array(metrics.confusion)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count}\n{shares[row, column]:.0%}" if totals[row, 0] else f"{count}\n–"
        color = "white" if shares[row, column] > _DARK else "black"
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    axes.set_xticks(range(len(counts)), TASKS[task])
    axes.set_yticks(range(len(counts)), TASKS[task])
    axes.set(xlabel="predicted", ylabel="true")
    axes.set_title(f"{task} classes: accuracy {metrics.accuracy:.3f}, macro F1 {metrics.macro_f1:.3f}", fontsize=11)
    return image


def _draw_reliability(upper: Axes, lower: Axes, task: str, metrics: TaskMetrics) -> None:
    confidences, accuracies, calls = (np.array(column) for column in zip(*metrics.bins, strict=True))
    upper.plot([0, 1], [0, 1], color="gray", linestyle="--", label="perfectly calibrated")
    upper.vlines(confidences, confidences, accuracies, color="tab:red", alpha=0.5, linewidth=3, label="gap")
    upper.plot(confidences, accuracies, color="tab:blue", marker="o", label="model")
    upper.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    upper.set_title(f"{task} classes: ECE {metrics.calibration_error:.3f}", fontsize=11)
    upper.grid(alpha=0.3)
    lower.bar(confidences, calls, width=0.04, color="tab:blue")
    lower.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
    lower.set_xlabel("confidence")


def new_figure(width_inch: float, height_inch: float) -> Figure:
    """Return an empty figure with a constrained layout."""
    return Figure(figsize=(width_inch, height_inch), dpi=DOTS_PER_INCH, layout="constrained")


def to_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return buffer.getvalue()
