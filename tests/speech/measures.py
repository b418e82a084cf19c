"""Error rates of recognisers and diarisation: words or characters, seconds of speech, words per speaker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from msmtfn.speech.voice import Segments, covers

STEP_SEC = 0.01


def words_of(text: str) -> list[str]:
    """Return the words of a text without case and punctuation."""
    return re.sub(r"[^\w\s']", " ", text.lower()).split()


def error_rate(reference: Sequence[str], heard: Sequence[str]) -> float:
    """Return the edit distance of two rows of words or characters, relative to the first."""
    row = np.arange(len(heard) + 1)
    for number, unit in enumerate(reference, start=1):
        other = np.array([unit != each for each in heard])
        best = np.minimum(row[1:] + 1, row[:-1] + other)
        new = np.empty_like(row)
        new[0] = number
        for place, value in enumerate(best, start=1):
            new[place] = min(value, new[place - 1] + 1)
        row = new
    return float(row[-1]) / len(reference)


def diarisation_error(
    reference: Sequence[Segments], found: Sequence[Segments], duration_sec: float, collar_sec: float = 0.0
) -> float:
    """Return the diarisation error rate: missed, invented and confused speech, relative to all speech.

    Args:
        reference: segments of each speaker.
        found: segments of as many speakers, in any order.
        duration_sec: length of the recording.
        collar_sec: time around each edge of the reference that does not count.
    """
    times = np.arange(0, duration_sec, STEP_SEC) + STEP_SEC / 2
    edges = np.concatenate([segments.ravel() for segments in reference])
    counts = (
        (np.abs(times[:, None] - edges[None]).min(axis=1) >= collar_sec) if collar_sec else np.full(len(times), True)
    )
    truth = _masks(reference, times)
    others = _masks([*found, *[np.empty((0, 2))] * (len(reference) - len(found))], times)
    errors = []
    for order in permutations(range(len(others)), len(reference)):
        correct = (truth & others[list(order)]).sum(axis=0)
        wrong = np.maximum(truth.sum(axis=0), others.sum(axis=0)) - correct
        errors.append(wrong[counts].sum() / truth.sum(axis=0)[counts].sum())
    return float(min(errors))


def share_of_words_of_right_speaker(reference: Sequence[Any], heard: Sequence[Any]) -> float:
    """Return the share of heard words, spread over their turns by time, in a turn of the same speaker.

    Args:
        reference: turns with `speaker`, `start_sec`, `end_sec` and `text`.
        heard: turns whose speakers have the same names. Words outside all reference turns do not count.
    """
    right = total = 0
    for turn in heard:
        words = words_of(turn["text"])
        for place in range(len(words)):
            middle = turn["start_sec"] + (place + 0.5) / len(words) * (turn["end_sec"] - turn["start_sec"])
            speakers = {each["speaker"] for each in reference if each["start_sec"] <= middle <= each["end_sec"]}
            total += bool(speakers)
            right += turn["speaker"] in speakers
    return right / max(total, 1)


def _masks(segments: Sequence[Segments], times: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    return np.stack([covers(each, times) for each in segments])
