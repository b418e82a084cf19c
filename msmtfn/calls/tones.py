"""Tell the tones of a telephone line (ringing, busy) from voices, which voice activity detection does not.

A tone holds one or two steady frequencies; a voice has many, which move. A few frames of every segment are looked at,
so that a day of calls costs next to nothing. Ringing that plays music is not recognised.

Shapes: N segments, K frames of a segment, W samples of a frame, F frequencies.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

FRAME_SEC: Final = 0.064
NUM_FRAMES: Final = 8
"""Number of frames of a segment that are looked at, spread evenly."""
MIN_TONE_SEC: Final = 0.3
"""Shortest tone; busy tones last 0.35 s in China, and a hum of less than this may be as steady."""
PEAK_WIDTH: Final = 2
"""Frequencies on each side of a peak that belong to it: the main lobe of a Hann window."""
MIN_PURITY: Final = 0.97
"""Least share of a frame's power in its two largest peaks; a vowel over a telephone stays below it, mostly."""
CHUNK_SEGMENTS: Final = 128
"""Number of segments that are looked at together, so that a long call takes no more memory than a short one."""
MIN_TONE_FRAMES: Final = 0.8
"""Least share of a segment's frames that are pure and have the segment's frequency."""


def drop_tones(
    waveform: npt.NDArray[np.float32], sample_rate: int, segments: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the segments of a channel, as `detect_activity` returns them, without those that are tones.

    Args:
        waveform: (S,) samples of the channel.
        sample_rate: sample rate of `waveform` in Hz.
        segments: (N, 2) start and end in seconds.
    """
    length = round(FRAME_SEC * sample_rate)
    is_long = segments[:, 1] - segments[:, 0] >= max(MIN_TONE_SEC, length / sample_rate)
    if not is_long.any():
        return segments
    bounds = (segments[is_long] * sample_rate).astype(np.int64)
    # The first and the last frame of a segment may hold its onset, so they are left out.
    places = np.linspace(0, 1, NUM_FRAMES + 2)[1:-1]
    starts = bounds[:, :1] + ((bounds[:, 1:] - bounds[:, :1] - length) * places).astype(np.int64)
    starts = np.minimum(starts, len(waveform) - length)
    is_tone = np.zeros(len(segments), np.bool_)
    is_tone[is_long] = np.concatenate(
        [
            _are_tones(waveform[chunk[:, :, None] + np.arange(length)])
            for chunk in np.array_split(starts, -(-len(starts) // CHUNK_SEGMENTS))
        ]
    )
    return segments[~is_tone]


def _are_tones(frames: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    """Return (N,) True where the frames (N, K, W) of a segment are one tone."""
    centred = frames - frames.mean(axis=2, keepdims=True)
    power = np.abs(np.fft.rfft(centred * np.hanning(frames.shape[2]), axis=2)) ** 2
    total = power.sum(axis=2)
    first, peak = _take_peak(power)
    second, _ = _take_peak(power)
    is_pure = first + second >= MIN_PURITY * np.maximum(total, np.finfo(np.float64).tiny)
    is_steady = np.abs(peak - np.median(peak, axis=1, keepdims=True)) <= 1
    result: npt.NDArray[np.bool_] = (is_pure & is_steady).mean(axis=1) >= MIN_TONE_FRAMES
    return result


def _take_peak(power: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return the power (N, K) of the largest peaks of (N, K, F) and their frequencies, and set that power to 0."""
    peak = power.argmax(axis=2)
    near = np.abs(np.arange(power.shape[2]) - peak[:, :, None]) <= PEAK_WIDTH
    taken = np.where(near, power, 0.0).sum(axis=2)
    power[near] = 0.0
    return taken, peak
