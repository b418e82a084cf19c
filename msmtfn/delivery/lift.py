"""Compare outcomes with scores: conversion by decile, score band and rank, and by group, as one table.

Intervals are Wilson's (1927) at 95 %. A group is compared with all other leads of its grouping by Fisher's exact test;
the p-values of all groups of all groupings are adjusted together by Benjamini and Yekutieli (2001), which holds however
the groups overlap.

Shapes: L leads whose outcome is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats

from msmtfn.delivery.figures import ALL, BAND, DECILE, DIFFERS, FIGURES, FIRST, TOO_FEW
from msmtfn.delivery.outcomes import CONVERTED, GROUPINGS, KnownOutcomes
from msmtfn.errors import OutcomesError
from msmtfn.leads.schema import LEAD_RANK

NUM_DECILES: Final = 10
BANDS: Final = tuple(range(0, 100, 10))

MIN_LEADS: Final = 30
"""Number of leads below which a conversion is marked, and a group is not compared with others."""
CONFIDENCE: Final = 0.95

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Some of the leads whose outcome is known.

    Attributes:
        measure: `all`, `decile`, `band`, `first`, or a grouping such as `agent_id`.
        slice: which of its slices; deciles count from the best.
        leads: number of leads.
        converted: number of these that were converted.
        conversion: share of these.
        low: lower end of its 95 % interval.
        high: upper end.
        lift: conversion divided by that of all leads; None where none was converted.
        mean_score: mean lead score.
        p_adjusted: adjusted p-value of the comparison with all other leads; None where there is none.
        warning: `too_few` or `differs`.
    """

    measure: str
    slice: str
    leads: int
    converted: int
    conversion: float
    low: float
    high: float
    lift: float | None
    mean_score: float
    p_adjusted: float | None = None
    warning: str | None = None


def measure_outcomes(known: KnownOutcomes, first: Sequence[int]) -> pa.Table:
    """Return the figures of all slices as rows of `FIGURES`.

    Args:
        known: the leads whose outcome is known.
        first: numbers of first leads of a day, by rank, whose conversion is wanted.

    Raises:
        OutcomesError: no outcome is known.
    """
    leads = known.leads
    if not len(leads):
        raise OutcomesError(
            f"no row belongs to a lead of {known.first_date} to {known.last_date} ({known.unused_by_reason}); check "
            "the ids, --to and --days"
        )
    converted = leads[CONVERTED].to_numpy(zero_copy_only=False).astype(bool)
    scores = leads["lead_score"].to_numpy()
    slices = [
        _describe(measure, name, chosen, converted, scores)
        for measure, name, chosen in [*_slices_by_score(leads, scores, first), *_slices_by_group(leads)]
        if chosen.any()
    ]
    rows = [
        {name: getattr(each, name) for name in Slice.__slots__}
        | {"first_date": known.first_date, "last_date": known.last_date}
        for each in _compare_groups(slices)
    ]
    return pa.Table.from_pylist(rows, schema=FIGURES)


def _slices_by_score(
    leads: pa.Table, scores: npt.NDArray[np.float64], first: Sequence[int]
) -> Iterator[tuple[str, str, Flags]]:
    """Yield measure, name and leads (L,) of each slice by score or rank."""
    yield ALL, ALL, np.ones(len(leads), bool)
    best_first = np.argsort(-scores, kind="stable")
    for number, places in enumerate(np.array_split(best_first, NUM_DECILES), start=1):
        yield DECILE, str(number), np.isin(np.arange(len(leads)), places)
    for start in reversed(BANDS):
        end = start + 100 // len(BANDS)
        yield BAND, f"{start}-{end}", (scores >= start) & ((scores < end) | (end == BANDS[-1] + 100 // len(BANDS)))
    ranks = leads[LEAD_RANK.name].fill_null(np.iinfo(np.int32).max).to_numpy()
    for number in sorted(set(first)):
        yield FIRST, str(number), ranks <= number


def _slices_by_group(leads: pa.Table) -> Iterator[tuple[str, str, Flags]]:
    """Yield measure, name and leads (L,) of each group; leads of no group are in none."""
    for grouping in GROUPINGS:
        encoded = leads[grouping].combine_chunks().dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy()
        names = encoded.dictionary.to_pylist()
        for code in sorted(range(len(names)), key=lambda each: names[each]):
            yield grouping, names[code], codes == code


def _describe(measure: str, name: str, chosen: Flags, converted: Flags, scores: npt.NDArray[np.float64]) -> Slice:
    number, successes = int(chosen.sum()), int((chosen & converted).sum())
    interval = stats.binomtest(successes, number).proportion_ci(CONFIDENCE, method="wilson")
    overall = float(converted.mean())
    return Slice(
        measure=measure,
        slice=name,
        leads=number,
        converted=successes,
        conversion=successes / number,
        low=float(interval.low),
        high=float(interval.high),
        lift=successes / number / overall if overall else None,
        mean_score=float(scores[chosen].mean()),
        warning=TOO_FEW if number < MIN_LEADS else None,
    )


def _compare_groups(slices: Sequence[Slice]) -> list[Slice]:
    """Return the slices with the groups compared that are large enough, each with the others of its grouping."""
    p_values: dict[int, float] = {}
    for place, each in enumerate(slices):
        others = [other for other in slices if other.measure == each.measure and other is not each]
        num_others, converted = sum(other.leads for other in others), sum(other.converted for other in others)
        if each.measure in GROUPINGS and min(each.leads, num_others) >= MIN_LEADS:
            counts = [[each.converted, each.leads - each.converted], [converted, num_others - converted]]
            p_values[place] = float(stats.fisher_exact(np.array(counts)).pvalue)
    compared: dict[int, float] = {}
    if p_values:
        adjusted = stats.false_discovery_control(list(p_values.values()), method="by").tolist()
        compared = dict(zip(p_values, adjusted, strict=True))
    return [
        replace(each, p_adjusted=compared[place], warning=DIFFERS if compared[place] < 1 - CONFIDENCE else None)
        if place in compared
        else each
        for place, each in enumerate(slices)
    ]
