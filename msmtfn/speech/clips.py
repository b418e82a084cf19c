"""Cut the speech of a call into clips for a recogniser, batch clips by seconds, and bring times back to the call.

A clip is a row of pieces, stretches of a channel with speech; the silence between them is left out, because a
recogniser costs as much for silence as for speech, and invents text in it.
Shapes: C channels, S samples, N segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from msmtfn.speech.recogniser import SAMPLE_RATE, Segment, Waveform, Word

SEARCH_SEC: Final = 3.0
"""Seconds before the limit in which the quietest place for a cut is looked for."""
QUIET_SEC: Final = 0.1
MIN_ROOM_SEC: Final = 6.0
"""Room in a clip from which on a segment that does not fit is cut to fill it."""
MIN_WORD_SEC: Final = 0.01

Stretch = tuple[int, int, int]
"""Channel, and first sample and the sample after the last."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Stretch of a channel, in samples: `start` to `end` of the call, which lies at `at` in its clip."""

    channel: int
    start: int
    end: int
    at: int

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Clip:
    """Pieces of a call that a recogniser hears as one, one after the other."""

    pieces: tuple[Piece, ...]

    @property
    def num_samples(self) -> int:
        """Length of the clip."""
        return sum(map(len, self.pieces))

    @property
    def duration_sec(self) -> float:
        """Length in seconds."""
        return self.num_samples / SAMPLE_RATE

    def cut(self, channels: Waveform) -> Waveform:
        """Return the samples of the clip, out of those of all channels, (C, S)."""
        return np.concatenate([channels[piece.channel, piece.start : piece.end] for piece in self.pieces])


def cut_clips(
    channels: Waveform, speech: Sequence[npt.NDArray[np.float64]], *, max_clip_sec: float, padding_sec: float
) -> list[Clip]:
    """Cut the speech of a call into clips.

    A clip holds one channel's speech, as a recogniser understands one speaker best. What is left at the end of each
    channel shares a clip where it fits, since most of a short call would be padding otherwise.

    Args:
        channels: (C, S) samples at `SAMPLE_RATE`.
        speech: (N, 2) start_sec and end_sec of each channel's speech, ordered and disjoint.
        max_clip_sec: length of the longest clip.
        padding_sec: silence that is kept before and after each segment.
    """
    max_samples = math.floor(max_clip_sec * SAMPLE_RATE)
    full: list[list[Stretch]] = []
    rest: list[list[Stretch]] = []
    for channel, segments in enumerate(speech):
        padded = _pad_segments(segments, channels.shape[1], padding_sec)
        clips = _fill(channels[channel], channel, padded, max_samples)
        full += clips[:-1]
        for last in clips[-1:]:
            if rest and sum(end - start for _, start, end in [*rest[-1], *last]) <= max_samples:
                rest[-1] += last
            else:
                rest.append(last)
    return [Clip(tuple(_place(pieces))) for pieces in [*full, *rest]]


def batch_clips(durations_sec: Sequence[float], batch_sec: float, fixed_clip_sec: float | None) -> list[list[int]]:
    """Put clips of about the same length into batches of at most `batch_sec`, padding included.

    Args:
        durations_sec: length of each clip.
        batch_sec: seconds that a batch may have; a longer clip is a batch by itself.
        fixed_clip_sec: seconds that the recogniser computes for any clip; None if it pads to the longest of a batch.

    Returns:
        The numbers of the clips of each batch.
    """
    batches: list[list[int]] = []
    padded_sec = 0.0
    for number in sorted(range(len(durations_sec)), key=durations_sec.__getitem__):
        # In ascending order the last clip of a batch is its longest, to which all others are padded.
        padded_sec = max(fixed_clip_sec or 0.0, durations_sec[number])
        if not batches or padded_sec * (len(batches[-1]) + 1) > batch_sec:
            batches.append([])
        batches[-1].append(number)
    return batches


def padding_share(durations_sec: Sequence[float], batches: Sequence[Sequence[int]], fixed_sec: float | None) -> float:
    """Return the share of what a recogniser computes that is padding."""
    computed = sum(
        len(batch) * max(fixed_sec or 0.0, *(durations_sec[number] for number in batch)) for batch in batches
    )
    return 1 - sum(durations_sec) / computed if computed else 0.0


def restore_times(segment: Segment, clip: Clip) -> list[tuple[int, Segment]]:
    """Return a segment of a clip with the times of the call, apart for each channel that the clip has pieces of."""
    words: dict[int, list[Word]] = {}
    for word in segment.words:
        channel, placed = _restore_word(word, clip)
        words.setdefault(channel, []).append(placed)
    return [(channel, replace(segment, words=tuple(each))) for channel, each in words.items()]


def _restore_word(word: Word, clip: Clip) -> tuple[int, Word]:
    """Move a word to the piece in which its middle lies, and cut it off at the edges of the piece."""
    middle = (word.start_sec + word.end_sec) / 2 * SAMPLE_RATE
    piece = next((piece for piece in clip.pieces if middle < piece.at + len(piece)), clip.pieces[-1])
    shift_sec = (piece.start - piece.at) / SAMPLE_RATE
    first_sec, last_sec = piece.start / SAMPLE_RATE, piece.end / SAMPLE_RATE
    start_sec = min(max(word.start_sec + shift_sec, first_sec), last_sec - MIN_WORD_SEC)
    end_sec = min(max(word.end_sec + shift_sec, start_sec + MIN_WORD_SEC), last_sec)
    return piece.channel, replace(word, start_sec=round(start_sec, 3), end_sec=round(end_sec, 3))


def _pad_segments(segments: npt.NDArray[np.float64], num_samples: int, padding_sec: float) -> Iterator[tuple[int, int]]:
    """Yield the segments in samples with padding; where two would overlap, the padding between them is shared."""
    padding = round(padding_sec * SAMPLE_RATE)
    edges = np.rint(segments * SAMPLE_RATE).astype(np.int64)
    for number, (start, end) in enumerate(edges.tolist()):
        first = 0 if number == 0 else (edges[number - 1, 1] + start + 1) // 2
        last = num_samples if number == len(edges) - 1 else (end + edges[number + 1, 0] + 1) // 2
        padded = max(int(first), start - padding), min(int(last), end + padding)
        if padded[1] > padded[0]:
            yield padded


def _fill(
    waveform: Waveform, channel: int, segments: Iterable[tuple[int, int]], max_samples: int
) -> list[list[Stretch]]:
    """Fill clips with the segments of a channel; one that does not fit is cut where it is quiet."""
    searched = min(round(SEARCH_SEC * SAMPLE_RATE), max_samples - 1)
    clips: list[list[Stretch]] = []
    free = 0
    for start, end in segments:
        while end - start > free:
            if free > MIN_ROOM_SEC * SAMPLE_RATE or (free == max_samples and not clips[-1]):
                cut = _quietest(waveform, start + free - searched, start + free)
                clips[-1].append((channel, start, cut))
                start = cut  # noqa: PLW2901
            clips.append([])
            free = max_samples
        clips[-1].append((channel, start, end))
        free -= end - start
    return clips


def _quietest(waveform: Waveform, first: int, last: int) -> int:
    """Return the middle of the quietest window between two samples."""
    window = min(round(QUIET_SEC * SAMPLE_RATE), max(last - first, 1))
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform[first:last], dtype=np.float64))])
    quietest = int(np.argmin(energy[window:] - energy[:-window]))
    return first + quietest + window // 2


def _place(stretches: Iterable[Stretch]) -> Iterator[Piece]:
    at = 0
    for channel, start, end in stretches:
        yield Piece(channel, start, end, at)
        at += end - start
