"""Why a call has its score: the rounds that moved it most, found by leaving rounds out.

The rounds' vectors are computed once. To leave a round out, only the BiGRU and the heads run again, over the vectors
of the others, which costs thousands of times less than encoding. Whether it was the words or the sound that counted is
told by one more run, with the vector of the round's sound alone in place of the round's own. The runs of all calls are
one batch each, whose vectors are gathered in one step.

Shapes: R rounds of all calls, C calls, N runs over vectors, D width of the fusion.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Side = Literal["words", "sound", "both"]
ScoreCalls = Callable[[Tensor, list[int]], npt.NDArray[np.float32]]
"""Maps vectors (R, D) of calls and their numbers of rounds to their lead scores (C,)."""

MAX_EVIDENCE: Final = 3
MAX_PARTS: Final = 64
"""Maximum number of parts of a call that are left out in turn. A longer call is cut into this many parts of several
rounds, so that the cost grows with the number of rounds and not with its square."""

ROUNDS_AT_ONCE: Final = 2**14
"""Maximum number of vectors that are read at once, about 50 MB; a run alone may have more."""

PREDOMINANT: Final = 2.0
"""Factor by which the effect of one side must exceed the other's to be named alone."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One round of a call, or several in a row, that moved its score.

    Attributes:
        first_round: index of the round.
        last_round: index of the last round; the same but in calls of more than `MAX_PARTS` rounds.
        change: lead score with it minus lead score without it, in points.
        side: whether its words moved the score, or its sound, or both.
    """

    first_round: int
    last_round: int
    change: float
    side: Side


@dataclass(frozen=True, slots=True)
class _Run:
    """One run over some vectors of a call: `first` to `last` (exclusive) are left out, or replaced by their sound.

    Both count the rounds of all calls.
    """

    call: int
    first: int
    last: int
    sound_alone: bool = False


def find_evidence(
    sides: Tensor,
    rounds_per_call: Sequence[int],
    scores: npt.NDArray[np.float32],
    has_words: npt.NDArray[np.bool_],
    has_sound: npt.NDArray[np.bool_],
    score_calls: ScoreCalls,
) -> list[list[Evidence]]:
    """Return for each call up to `MAX_EVIDENCE` rounds, largest absolute change first; ties in order of the rounds.

    A call of one round has none, since there is no call without rounds to compare it with.

    Args:
        sides: (R, 2, D), as `CallNetwork.encode_sides` returns them, call by call.
        rounds_per_call: C numbers that sum to R.
        scores: (C,) lead scores of the calls.
        has_words: (R,) True where a round has text that the network reads.
        has_sound: (R,) likewise for its audio.
        score_calls: scores calls from their vectors.
    """
    vectors = sides.flatten(0, 1)  # that of round r is 2 r, and that of its sound 2 r + 1
    starts = np.cumsum([0, *rounds_per_call]).tolist()
    runs = [
        _Run(call, starts[call] + first, starts[call] + last)
        for call, num_rounds in enumerate(rounds_per_call)
        if num_rounds > 1
        for first, last in _parts(num_rounds)
    ]
    without = _score_runs(runs, vectors, starts, score_calls)
    most_moving = _select(runs, [float(scores[run.call] - score) for run, score in zip(runs, without, strict=True)])
    chosen = [(runs[index], float(without[index])) for index in most_moving]
    with_sound = [_Run(run.call, run.first, run.last, True) for run, _ in chosen]
    sounds = _score_runs(with_sound, vectors, starts, score_calls)
    evidence: list[list[Evidence]] = [[] for _ in rounds_per_call]
    for (run, score_without), score_of_sound in zip(chosen, sounds, strict=True):
        score = float(scores[run.call])
        is_read, is_heard = (bool(has[run.first : run.last].any()) for has in (has_words, has_sound))
        side = _name_side(score - float(score_of_sound), float(score_of_sound) - score_without)
        if is_read != is_heard:
            side = "words" if is_read else "sound"
        start = starts[run.call]
        evidence[run.call].append(Evidence(run.first - start, run.last - 1 - start, score - score_without, side))
    return evidence


def _parts(num_rounds: int) -> Iterator[tuple[int, int]]:
    """Yield the first round and the one after the last of each part that is left out."""
    edges = np.linspace(0, num_rounds, min(num_rounds, MAX_PARTS) + 1).round().astype(int).tolist()
    yield from pairwise(edges)


def _select(runs: Sequence[_Run], changes: Sequence[float]) -> list[int]:
    """Return the indices of the runs with the largest absolute changes of each call, call by call."""
    order = sorted(range(len(runs)), key=lambda index: (runs[index].call, -abs(changes[index]), runs[index].first))
    num_of_call: dict[int, int] = {}
    selected = []
    for index in order:
        call = runs[index].call
        num_of_call[call] = num_of_call.get(call, 0) + 1
        if num_of_call[call] <= MAX_EVIDENCE:
            selected.append(index)
    return selected


def _score_runs(
    runs: Sequence[_Run], vectors: Tensor, starts: Sequence[int], score_calls: ScoreCalls
) -> npt.NDArray[np.float32]:
    """Return the lead score (N,) of each run, scoring as many at once as `ROUNDS_AT_ONCE` allows.

    Args:
        runs: the runs.
        vectors: (2 R, D) vectors of the rounds, each followed by that of its sound.
        starts: index of each call's first round, and at the end R.
        score_calls: scores calls from their vectors.
    """
    scores = [np.zeros(0, np.float32)]
    rows: list[npt.NDArray[np.int64]] = []
    num_rows = 0
    for index, run in enumerate(runs):
        rows.append(_rows_of(run, starts))
        num_rows += len(rows[-1])
        if index == len(runs) - 1 or num_rows >= ROUNDS_AT_ONCE:
            gathered = vectors[torch.from_numpy(np.concatenate(rows)).to(vectors.device)]
            scores.append(score_calls(gathered, [len(each) for each in rows]))
            rows, num_rows = [], 0
    return np.concatenate(scores)


def _rows_of(run: _Run, starts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the rows that a run reads of the vectors of all calls."""
    rows = np.arange(2 * starts[run.call], 2 * starts[run.call + 1], 2)
    first, last = run.first - starts[run.call], run.last - starts[run.call]
    if run.sound_alone:
        rows[first:last] += 1
        return rows
    return np.concatenate([rows[:first], rows[last:]])


def _name_side(words: float, sound: float) -> Side:
    """Name the side whose effect predominates.

    Args:
        words: what the words add to the score, on top of the sound.
        sound: what the sound alone adds to it.
    """
    if abs(sound) >= PREDOMINANT * abs(words) and sound:
        return "sound"
    return "words" if abs(words) >= PREDOMINANT * abs(sound) and words else "both"
