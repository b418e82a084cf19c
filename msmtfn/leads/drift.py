"""Detect drift: calls unlike those that the model was trained on, and a higher share of rejects than before.

The model's folder keeps histograms of its own calls (`distribution.json`). A day's calls are counted in the same bins,
and the two are compared by the population stability index, PSI = sum over bins of (p - q) ln(p / q). By
convention, PSI below 0.1 means no change, and 0.2 or more a significant one. For n and m calls of the same population,
PSI is about (1/n + 1/m) times a chi-square of B - 1 degrees of freedom (Yurdakul, "Statistical properties of the
population stability index", 2018), which exceeds 0.2 on small days, so the threshold is the larger of the two.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn.labels import INTENTS
from msmtfn.leads.schema import REJECTED, SCORED

logger = logging.getLogger(__name__)

DISTRIBUTION_FILE: Final = "distribution.json"
MOVED_PSI: Final = 0.2
NOISE_DEVIATIONS: Final = 6.0
"""Above the mean of what chance does to PSI: with some ten figures a night, about one false alarm a year."""
NUM_BINS, NUM_BINS_OF_FEW, FEW_CALLS = 10, 5, 500
NUM_VALUES: Final = 20
"""Maximum number of values of a category; rarer ones are counted together."""
SMOOTHING: Final = 0.5
LEAST_MORE_REJECTS: Final = 0.02
REJECT_DEVIATIONS: Final = 4.0

LANGUAGE: Final = "language"
NUMBERS: Final = ("duration_sec", "num_rounds", "loudness_dbfs")
COLUMNS: Final = ("status", "five", *NUMBERS, "num_tokens", LANGUAGE)


class DayCounts(Protocol):
    """Counts of a published day."""

    @property
    def calls(self) -> int:
        """Number of calls."""

    @property
    def rejected(self) -> int:
        """Number of rejects."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Number of calls in each bin of one figure.

    Attributes:
        edges: inner edges of the bins of a number, ascending; a value on an edge belongs to the bin above it.
        values: values of a category; all other values share the last bin.
        counts: number of calls in each bin, one more than there are edges or values.
    """

    edges: list[float]
    values: list[str]
    counts: list[int]

    def check(self) -> None:
        """Check that edges, values and counts fit together.

        Raises:
            ValueError: they do not.
            TypeError: a value has the wrong type.
        """
        if len(self.counts) != len(self.edges or self.values) + 1 or not sum(self.counts) > 0:
            raise ValueError("a histogram has no counts, or another number of them than of bins")
        if not all(isinstance(value, str) for value in self.values) or any(np.diff([float(e) for e in self.edges]) < 0):
            raise ValueError("the bins of a histogram are none")

    def count(self, column: pa.ChunkedArray) -> Histogram:
        """Count the values of a column in the bins of this histogram; nulls are left out."""
        column = column.drop_null()
        if self.values:
            places = pc.index_in(column, pa.array(self.values, pa.string())).fill_null(len(self.values))
        else:
            numbers = column.to_numpy()
            places = np.searchsorted(np.array(self.edges), numbers[np.isfinite(numbers)], side="right")
        counts = np.bincount(np.asarray(places, dtype=np.int64), minlength=len(self.counts))
        return Histogram(self.edges, self.values, counts.tolist())

    def plus(self, other: Histogram) -> Histogram:
        """Return the sum of two histograms with the same bins."""
        return Histogram(self.edges, self.values, np.add(self.counts, other.counts).tolist())


Distribution = dict[str, Histogram]
"""A histogram for each figure of a call."""


def describe(calls: pa.Table) -> Distribution:
    """Return the distribution of the calls that a model was trained on.

    Args:
        calls: scored or prepared calls with any of `COLUMNS`.
    """
    return {name: _histogram_of(column) for name, column in _figures(calls).items() if len(column.drop_null())}


def write_distribution(distribution: Distribution, folder: Path) -> None:
    """Write a distribution to a model's folder."""
    content = {name: asdict(histogram) for name, histogram in distribution.items()}
    (folder / DISTRIBUTION_FILE).write_text(json.dumps({"figures": content}, indent=1) + "\n", encoding="utf-8")


def read_distribution(folder: Path) -> Distribution:
    """Read the distribution in a model's folder; empty if there is none or it cannot be parsed."""
    path = folder / DISTRIBUTION_FILE
    if not path.exists():
        return {}
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))["figures"]
        distribution = {name: Histogram(**histogram) for name, histogram in figures.items()}
        for histogram in distribution.values():
            histogram.check()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
        logger.warning("%s cannot be understood (%s); days are not compared with it", path, exc)
        return {}
    return distribution


def stability_index(reference: Sequence[int], day: Sequence[int]) -> float:
    """Return the PSI of two histograms with the same bins, with half a call added to each bin so that none is empty."""
    p, q = (_shares(counts) for counts in (day, reference))
    return float(((p - q) * np.log(p / q)).sum())


def psi_threshold(reference: Sequence[int], day: Sequence[int]) -> float:
    """Return the PSI above which a figure counts as moved, given the two histograms' numbers of calls."""
    # Without drift, PSI / (1/n + 1/m) is approximately chi-squared with bins - 1 degrees of freedom (Yurdakul 2018),
    # hence mean `freedom` and variance 2 * `freedom`; n and m are the two numbers of calls.
    freedom = len(reference) - 1
    noise = freedom + NOISE_DEVIATIONS * math.sqrt(2 * freedom)
    return max(MOVED_PSI, noise * (1 / sum(reference) + 1 / sum(day)))


def compare_day(parts: pads.Dataset, model_folder: Path, before: Iterable[DayCounts]) -> dict[str, Any]:
    """Compare a day, before it is published, with what its model was made on and with the days before it.

    Args:
        parts: the scored calls of the day.
        model_folder: folder of the model.
        before: records of the days published before.

    Returns:
        For `_SUCCESS`: each figure's `psi`, its `threshold` and whether it `moved`; the share of rejects likewise; and
        the names of all that `moved`.
    """
    schema = parts.schema
    reference = read_distribution(model_folder)
    day = {name: Histogram(bins.edges, bins.values, [0] * len(bins.counts)) for name, bins in reference.items()}
    calls = rejected = 0
    for batch in parts.to_batches(columns=[name for name in COLUMNS if name in schema.names], cache_metadata=False):
        rows = pa.Table.from_batches([batch])
        if LANGUAGE not in schema.names:
            rows = rows.append_column(LANGUAGE, pa.nulls(len(rows), pa.string()))
        calls += len(rows)
        rejected += pc.sum(pc.equal(rows["status"], REJECTED)).as_py() or 0
        for name, column in _figures(rows.filter(pc.equal(rows["status"], SCORED))).items():
            if name in day:
                day[name] = day[name].plus(day[name].count(column))
    figures = {name: _compare(reference[name].counts, day[name].counts) for name in reference if sum(day[name].counts)}
    rejects = compare_rejects(calls, rejected, before)
    moved = [name for name, result in (figures | {"rejected": rejects}).items() if result["moved"]]
    return {"figures": figures, "rejected": rejects, "moved": moved}


def compare_rejects(calls: int, rejected: int, before: Iterable[DayCounts]) -> dict[str, Any]:
    """Compare a day's share of rejects with that of the days before it.

    The share has moved if it is larger by 2 points, and by four standard deviations of chance.
    """
    days = list(before)
    all_calls, all_rejected = sum(day.calls for day in days), sum(day.rejected for day in days)
    share = rejected / max(calls, 1)
    if not all_calls or not calls:
        return {"share": round(share, 4), "share_before": None, "days": 0, "moved": False}
    expected = all_rejected / all_calls
    at_least_one = max(expected, 1 / all_calls)
    chance = REJECT_DEVIATIONS * math.sqrt(at_least_one * (1 - min(at_least_one, 1.0)) * (1 / calls + 1 / all_calls))
    return {
        "share": round(share, 4),
        "share_before": round(expected, 4),
        "days": len(days),
        "moved": share > expected + max(LEAST_MORE_REJECTS, chance),
    }


def describe_drift(drift: Mapping[str, Any]) -> str | None:
    """Describe in one line what has moved; None if nothing has."""
    words = [f"not known what ({drift['error']}, see the log)"] if "error" in drift else []
    for name in drift["moved"]:
        if name == "rejected":
            rejects = drift["rejected"]
            words.append(
                f"share of rejects {100 * rejects['share']:.1f} %, {100 * rejects['share_before']:.1f} % in the "
                f"{rejects['days']} days before"
            )
        else:
            words.append(f"{name} (PSI {drift['figures'][name]['psi']:.2f} to the model's own calls)")
    return ", ".join(words) or None


def _compare(reference: Sequence[int], day: Sequence[int]) -> dict[str, Any]:
    psi, threshold = stability_index(reference, day), psi_threshold(reference, day)
    return {"psi": round(psi, 4), "threshold": round(threshold, 4), "moved": psi > threshold}


def _shares(counts: Sequence[int]) -> npt.NDArray[np.float64]:
    smoothed = np.asarray(counts, dtype=np.float64) + SMOOTHING
    shares: npt.NDArray[np.float64] = smoothed / smoothed.sum()
    return shares


def _figures(calls: pa.Table) -> dict[str, pa.ChunkedArray]:
    """Return the figures of calls by name, for the columns that exist."""
    figures: dict[str, pa.ChunkedArray] = {name: calls[name] for name in NUMBERS if name in calls.schema.names}
    if "five" in calls.schema.names:
        for place, intent in enumerate(INTENTS):
            figures[f"probability_{intent}"] = pc.struct_field(calls["five"], [place])
    if "num_tokens" in calls.schema.names:
        has_text = pc.greater(calls["num_tokens"], 0)
        figures["has_text"] = pc.if_else(has_text, "yes", "no")
    if LANGUAGE in calls.schema.names and not pa.types.is_nested(calls[LANGUAGE].type):
        figures[LANGUAGE] = pc.fill_null(calls[LANGUAGE].cast(pa.string()), "")
    return figures


def _histogram_of(column: pa.ChunkedArray) -> Histogram:
    column = column.drop_null()
    if pa.types.is_string(column.type):
        by_count = sorted(pc.value_counts(column).to_pylist(), key=lambda entry: (-entry["counts"], entry["values"]))
        values = [entry["values"] for entry in by_count[:NUM_VALUES]]
        return Histogram([], values, [0] * (len(values) + 1)).count(column)
    numbers = column.to_numpy()
    bins = NUM_BINS if len(numbers) >= FEW_CALLS else NUM_BINS_OF_FEW
    edges = np.unique(np.quantile(numbers[np.isfinite(numbers)], np.linspace(0, 1, bins + 1)[1:-1]))
    if pa.types.is_integer(column.type):
        edges = np.unique([*edges, numbers.max() + 1])  # values above the largest one so far get a bin of their own
    return Histogram(edges.tolist(), [], [0] * (len(edges) + 1)).count(column)
