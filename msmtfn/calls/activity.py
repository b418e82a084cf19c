"""Detect voice activity by the energy of each channel, fast enough to run on every call of a day.

Shapes: C channels, S samples, F frames, N segments.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from msmtfn.errors import require

SILENCE_POWER: Final = 1e-12  # -120 dB, below the quantisation step of 16-bit audio; keeps the logarithm finite


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivityConfig:
    """Thresholds of the voice activity detector. Levels are in dB; 0 dB is a full-scale square wave."""

    frame_sec: float = 0.02
    """Length in seconds of the frames whose level is measured; segments start and end on frame boundaries."""
    noise_percentile: float = 10.0
    """Percentile of the levels of a channel's audible frames that is taken as its noise floor."""
    min_noise_db: float = -65.0
    """Level in dB below which a frame counts as inaudible; the noise floor is never lower."""
    open_db: float = 12.0
    """A segment needs at least one frame that exceeds the noise floor by this many dB."""
    close_db: float = 6.0
    """A segment extends both ways while its frames exceed the noise floor by this many dB; at most open_db."""
    max_gap_sec: float = 0.3
    """Segments of one channel that are at most this many seconds apart are joined."""
    min_segment_sec: float = 0.2
    """Segments that are shorter than this many seconds after joining are dropped as clicks or breaths."""
    crosstalk_db: float = 20.0
    """A frame more than this many dB below the other channel is crosstalk, not speech; inf keeps every frame."""
    crosstalk_tail_sec: float = 0.2
    """Seconds for which crosstalk is still expected after a sound on the other channel."""

    def __post_init__(self) -> None:
        limits = (
            ("frame_sec", 0.005, 0.1),
            ("noise_percentile", 0, 100),
            ("min_noise_db", -120, -20),
            ("open_db", 1, 60),
            ("close_db", 1, self.open_db),
            ("max_gap_sec", 0, 10),
            ("min_segment_sec", 0, 10),
            ("crosstalk_db", 1, math.inf),
            ("crosstalk_tail_sec", 0, 1),
        )
        for field, lowest, highest in limits:
            value = getattr(self, field)
            require(lowest <= value <= highest, field, value, f"between {lowest} and {highest}")


def detect_activity(waveform: NDArray[np.float32], sample_rate: int, config: ActivityConfig) -> NDArray[np.float64]:
    """Return the segments of one channel that contain speech.

    A sound of constant level (noise, a tone) is taken as the noise floor, however loud it is.

    Args:
        waveform: (S,) samples in [-1, 1].
        sample_rate: sample rate of `waveform` in Hz.
        config: thresholds of the detector.

    Returns:
        (N, 2) start_sec and end_sec of each segment; ordered, disjoint, within [0, S / sample_rate].

    Raises:
        ValueError: `waveform` is not a single channel of float32.
    """
    frame_samples = _frame_samples(sample_rate, config)
    level_db = _frame_levels_db(waveform, frame_samples)
    frames = _find_segments(level_db, level_db, frame_samples / sample_rate, config)
    return _to_seconds(frames, frame_samples, len(waveform), sample_rate)


def detect_channel_activity(
    channels: NDArray[np.float32], sample_rate: int, config: ActivityConfig
) -> list[NDArray[np.float64]]:
    """Return the speech segments of every channel of a call, without crosstalk from the other channels.

    Args:
        channels: (C, S) samples in [-1, 1].
        sample_rate: sample rate of `channels` in Hz.
        config: thresholds of the detector.

    Returns:
        One array per channel, as `detect_activity` returns it.

    Raises:
        ValueError: `channels` is not (C, S) of float32.
    """
    frame_samples = _frame_samples(sample_rate, config)
    frame_sec = frame_samples / sample_rate
    levels_db = [_frame_levels_db(waveform, frame_samples) for waveform in channels]
    segments = []
    for level_db, is_crosstalk in zip(levels_db, _find_crosstalk(levels_db, frame_sec, config), strict=True):
        frames = _find_segments(level_db, np.where(is_crosstalk, -np.inf, level_db), frame_sec, config)
        segments.append(_to_seconds(frames, frame_samples, channels.shape[1], sample_rate))
    return segments


def detect_crosstalk(
    channels: NDArray[np.float32], sample_rate: int, config: ActivityConfig
) -> list[NDArray[np.float64]]:
    """Return the segments of every channel of a call in which it carries no more than another channel's sound.

    Arguments, result and errors are those of `detect_channel_activity`.
    """
    frame_samples = _frame_samples(sample_rate, config)
    levels_db = [_frame_levels_db(waveform, frame_samples) for waveform in channels]
    masks = _find_crosstalk(levels_db, frame_samples / sample_rate, config)
    return [_to_seconds(_runs_of_true(mask), frame_samples, channels.shape[1], sample_rate) for mask in masks]


def _find_crosstalk(
    levels_db: list[NDArray[np.float64]], frame_sec: float, config: ActivityConfig
) -> list[NDArray[np.bool_]]:
    """Return for every channel a mask (F,) of the frames that are far below another channel."""
    masks = []
    for channel, level_db in enumerate(levels_db):
        is_crosstalk = np.zeros(len(level_db), np.bool_)
        for other_db in levels_db[:channel] + levels_db[channel + 1 :]:
            loudest_db = _hold_peaks(other_db, round(config.crosstalk_tail_sec / frame_sec))
            is_crosstalk |= loudest_db - level_db > config.crosstalk_db
        masks.append(is_crosstalk)
    return masks


def _frame_samples(sample_rate: int, config: ActivityConfig) -> int:
    return max(1, round(config.frame_sec * sample_rate))


def _frame_levels_db(waveform: NDArray[np.float32], frame_samples: int) -> NDArray[np.float64]:
    """Return the (F,) levels of all frames in dB, each without its DC offset; the last frame may be short."""
    if waveform.ndim != 1 or waveform.dtype != np.float32:
        raise ValueError(
            f"waveform is {waveform.dtype} of shape {waveform.shape}; pass one channel, (S,), of float32 in [-1, 1]"
        )
    num_whole = len(waveform) // frame_samples
    whole = waveform[: num_whole * frame_samples].reshape(num_whole, frame_samples)
    power = _power_around_mean(whole)
    tail = waveform[num_whole * frame_samples :]
    if len(tail):
        power = np.append(power, _power_around_mean(tail[None]))
    level_db: NDArray[np.float64] = 10.0 * np.log10(np.maximum(power, SILENCE_POWER))
    return level_db


def _power_around_mean(frames: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the (F,) variances of all frames; unlike the mean square, a variance ignores a line's DC offset.

    Var(x) = E[x^2] - E[x]^2. The float32 sums keep about 7 digits, so the difference loses sounds below about -65 dB
    when the DC offset is half of full scale.
    """
    count = frames.shape[1]
    mean = frames.sum(axis=1).astype(np.float64) / count
    mean_square = np.einsum("ij,ij->i", frames, frames).astype(np.float64) / count
    power: NDArray[np.float64] = mean_square - mean * mean
    return power


def _hold_peaks(level_db: NDArray[np.float64], num_held: int) -> NDArray[np.float64]:
    """Return for every frame the highest level of that frame and the `num_held` frames before it, (F,)."""
    if not len(level_db):
        return level_db
    padded = np.concatenate([np.full(num_held, -np.inf), level_db])
    peaks: NDArray[np.float64] = np.lib.stride_tricks.sliding_window_view(padded, num_held + 1).max(axis=1)
    return peaks


def _find_segments(
    level_db: NDArray[np.float64], speech_db: NDArray[np.float64], frame_sec: float, config: ActivityConfig
) -> NDArray[np.int64]:
    """Return the (N, 2) segments as the first frame and the frame after the last.

    Args:
        level_db: (F,) level of the channel, from which the noise floor is estimated.
        speech_db: (F,) the same levels, -inf in frames that are crosstalk.
        frame_sec: exact length of a frame, after rounding to whole samples.
        config: thresholds of the detector.
    """
    audible_db = level_db[level_db > config.min_noise_db]
    if not len(audible_db):
        return np.empty((0, 2), dtype=np.int64)
    noise_db = float(np.percentile(audible_db, config.noise_percentile))
    runs = _runs_of_true(speech_db > noise_db + config.close_db)
    num_opened = np.concatenate([[0], np.cumsum(speech_db > noise_db + config.open_db)])
    segments = runs[num_opened[runs[:, 1]] > num_opened[runs[:, 0]]]
    segments = _join_over_gaps(segments, round(config.max_gap_sec / frame_sec))
    return segments[segments[:, 1] - segments[:, 0] >= round(config.min_segment_sec / frame_sec)]


def _runs_of_true(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the (N, 2) runs of True as the first index and the index after the last."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return edges.reshape(-1, 2).astype(np.int64)


def _join_over_gaps(segments: NDArray[np.int64], max_gap: int) -> NDArray[np.int64]:
    if not len(segments):
        return segments
    is_wide = segments[1:, 0] - segments[:-1, 1] > max_gap
    starts = segments[np.append(True, is_wide), 0]
    ends = segments[np.append(is_wide, True), 1]
    return np.stack([starts, ends], axis=1)


def _to_seconds(
    frames: NDArray[np.int64], frame_samples: int, num_samples: int, sample_rate: int
) -> NDArray[np.float64]:
    return np.minimum(frames * frame_samples, num_samples) / sample_rate
