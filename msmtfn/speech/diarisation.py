"""Diarise one channel: who of its speakers speaks when, over the whole call at once.

Windows of speech become vectors of the voice encoder, which k-means puts into as many groups as there are speakers.
Each moment of speech then belongs to the group of the window around it, smoothed so that no speaker changes for an
instant.
Shapes: S samples, N segments, W windows, D width of a vector, K speakers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from msmtfn.errors import require
from msmtfn.speech.embeddings import embed_windows
from msmtfn.speech.recogniser import Waveform
from msmtfn.speech.voice import Segments, join_gaps

MAX_SPEAKERS: Final = 4
NUM_STARTS: Final = 10
MAX_ITERATIONS: Final = 50
SEED: Final = 0
MIN_DISTANCE: Final = 1e-9

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class DiarisationConfig:
    """Options of telling the speakers of one channel apart."""

    num_speakers: int = 2
    """Number of speakers in a channel that holds the whole call, 1 to 4; 1 tells nobody apart."""
    voice_window_sec: float = 1.6
    """Length in seconds of the windows by which voices are compared."""
    voice_hop_sec: float = 0.4
    """Seconds from one window to the next."""
    max_voice_similarity: float = 0.85
    """Similarity (cosine) from which on two groups of windows are one voice: one speaker alone has 0.94, two 0.74."""
    min_turn_sec: float = 0.3
    """A change of speaker that is shorter than this many seconds is taken back."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        limits: dict[str, tuple[float, float, str]] = {
            "num_speakers": (1, MAX_SPEAKERS, ""),
            "voice_window_sec": (0.4, 10, " seconds"),
            "voice_hop_sec": (0.05, self.voice_window_sec, " seconds, the length of the windows at most"),
            "min_turn_sec": (0, 10, " seconds"),
        }
        for name, (low, high, unit) in limits.items():
            require(
                low <= getattr(self, name) <= high, name, getattr(self, name), f"between {low:g} and {high:g}{unit}"
            )
        similarity = self.max_voice_similarity
        require(0 < similarity <= 1, "max_voice_similarity", similarity, "more than 0 and at most 1")


def diarise(waveform: Waveform, speech: Segments, config: DiarisationConfig) -> list[Segments]:
    """Return when each speaker of a channel speaks, in the order in which they are first heard.

    Args:
        waveform: (S,) samples in [-1, 1].
        speech: (N, 2) segments of speech.
        config: options of the diarisation.

    Returns:
        The segments of each speaker, which together are `speech`. There are as many as the configuration says, fewer
        where there are fewer voices, or too little speech to tell so many apart.
    """
    if config.num_speakers == 1 or not len(speech):
        return [speech] if len(speech) else []
    centers_sec, owners = _place_windows(speech, config)
    vectors = embed_windows(waveform, centers_sec, config.voice_window_sec)
    labels = merge_alike(vectors, cluster(vectors, config.num_speakers), config.max_voice_similarity)
    parts = []
    for number, (start_sec, end_sec) in enumerate(speech.tolist()):
        mine = owners == number
        parts += _runs(start_sec, end_sec, centers_sec[mine], labels[mine], config.min_turn_sec)
    return _by_first_heard(parts)


def cluster(vectors: Vectors, num_speakers: int) -> npt.NDArray[np.int64]:
    """Return the group (W,) of each vector, by k-means over directions, the best of several starts.

    Args:
        vectors: (W, D) of length 1.
        num_speakers: number of groups, K.
    """
    if len(vectors) <= num_speakers:
        return np.arange(len(vectors))
    generator = np.random.default_rng(SEED)
    best_fit, best = -np.inf, np.zeros(len(vectors), np.int64)
    for _ in range(NUM_STARTS):
        centers = _choose_centers(vectors, num_speakers, generator)
        for _ in range(MAX_ITERATIONS):
            labels = (vectors @ centers.T).argmax(axis=1)
            moved = _mean_directions(vectors, labels, centers)
            if np.allclose(moved, centers):
                break
            centers = moved
        fit = float((vectors @ centers.T).max(axis=1).sum())
        if fit > best_fit:
            best_fit, best = fit, (vectors @ centers.T).argmax(axis=1)
    return best.astype(np.int64)


def merge_alike(vectors: Vectors, labels: npt.NDArray[np.int64], max_similarity: float) -> npt.NDArray[np.int64]:
    """Return the groups (W,) after those whose mean directions are alike have become one, the most alike first."""
    labels = labels.copy()
    while len(names := np.unique(labels)) > 1:
        centers = np.stack([vectors[labels == name].sum(axis=0) for name in names])
        centers /= np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), np.float32(MIN_DISTANCE))
        similarity = np.triu(centers @ centers.T, k=1)
        one, other = np.unravel_index(int(similarity.argmax()), similarity.shape)
        if similarity[one, other] < max_similarity:
            break
        labels[labels == names[other]] = names[one]
    return labels


def _place_windows(
    speech: Segments, config: DiarisationConfig
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the middles (W,) of the windows, at least one in each segment, and the segments that they belong to."""
    centers, owners = [], []
    half_sec = config.voice_window_sec / 2
    for number, (start_sec, end_sec) in enumerate(speech.tolist()):
        if end_sec - start_sec <= config.voice_window_sec:
            placed = np.array([(start_sec + end_sec) / 2])
        else:
            placed = np.arange(
                start_sec + half_sec, end_sec - half_sec + config.voice_hop_sec / 2, config.voice_hop_sec
            )
        centers.append(placed)
        owners.append(np.full(len(placed), number))
    return np.concatenate(centers), np.concatenate(owners)


def _choose_centers(vectors: Vectors, number: int, generator: np.random.Generator) -> Vectors:
    """Choose the first centers of k-means far from each other (k-means++)."""
    centers = [vectors[generator.integers(len(vectors))]]
    while len(centers) < number:
        distance = np.maximum(1 - (vectors @ np.stack(centers).T).max(axis=1), MIN_DISTANCE).astype(np.float64)
        centers.append(vectors[generator.choice(len(vectors), p=distance / distance.sum())])
    return np.stack(centers)


def _mean_directions(vectors: Vectors, labels: npt.NDArray[np.int64], centers: Vectors) -> Vectors:
    """Return the mean direction of each group; an empty group keeps its center."""
    means = np.stack(
        [vectors[labels == k].sum(axis=0) if (labels == k).any() else centers[k] for k in range(len(centers))]
    )
    directions: Vectors = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), np.float32(MIN_DISTANCE))
    return directions


def _runs(
    start_sec: float,
    end_sec: float,
    centers_sec: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    min_turn_sec: float,
) -> list[tuple[float, float, int]]:
    """Cut a segment where the speaker changes: halfway between two windows of different groups."""
    edges = [start_sec, *((centers_sec[1:] + centers_sec[:-1]) / 2).tolist(), end_sec]
    runs: list[tuple[float, float, int]] = []
    for first, last, label in zip(edges[:-1], edges[1:], labels.tolist(), strict=True):
        if runs and runs[-1][2] == label:
            runs[-1] = (runs[-1][0], last, label)
        else:
            runs.append((first, last, label))
    while len(runs) > 1 and min(last - first for first, last, _ in runs) < min_turn_sec:
        shortest = min(range(len(runs)), key=lambda number: runs[number][1] - runs[number][0])
        _absorb(runs, shortest)
    return runs


def _absorb(runs: list[tuple[float, float, int]], number: int) -> None:
    """Give a run to its longer neighbour, and join neighbours that are then of one speaker."""
    neighbours = [place for place in (number - 1, number + 1) if 0 <= place < len(runs)]
    label = runs[max(neighbours, key=lambda place: runs[place][1] - runs[place][0])][2]
    runs[number] = (*runs[number][:2], label)
    for place in (number + 1, number):
        if 0 < place < len(runs) and runs[place][2] == runs[place - 1][2]:
            runs[place - 1 : place + 1] = [(runs[place - 1][0], runs[place][1], label)]


def _by_first_heard(parts: list[tuple[float, float, int]]) -> list[Segments]:
    """Return the segments of each group, in the order of their first."""
    groups = dict.fromkeys(label for _, _, label in sorted(parts))
    return [
        join_gaps(np.array([part[:2] for part in sorted(parts) if part[2] == label], np.float64), 0.0, 0.0)
        for label in groups
    ]
