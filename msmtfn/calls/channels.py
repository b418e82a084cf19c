"""Tell whether two channels are one signal: a mono recording in two channels.

A gain, a delay of some milliseconds, noise or the opposite polarity make no second speaker of it. Shapes: S samples,
W windows, N samples of a window.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

MIN_CORRELATION: Final = 0.9
"""Correlation of two channels from which on they may be one: the same signal with noise 7 dB below it in both."""

PROBE_CORRELATION: Final = 0.6
"""Correlation in a few windows below which two channels are not compared further, as in most calls."""

MAX_DELAY_SEC: Final = 0.02
WINDOW_SEC: Final = 0.25
NUM_PROBES: Final = 16
NUM_COMPARED: Final = 2_400
"""Windows of a call that are compared where the probes are alike: all of 10 minutes, a part of longer calls."""

AUDIBLE_DB: Final = 15.0
"""Windows this many dB below the loudest ones do not count: noise differs between channels."""

MAX_LEVEL_SPREAD_DB: Final = 10.0
MAX_OTHER_SHARE: Final = 0.01
"""Share of the audible windows that may differ in level by more: with a second speaker, more do."""

POWER_FLOOR: Final = 1e-12

Waveform = npt.NDArray[np.float32]


def merge_channels(channels: Waveform, sample_rate: int) -> Waveform:
    """Return the one channel, (1, S), that two channels are, or the channels as they are.

    Args:
        channels: (C, S) samples, C being 1 or 2.
        sample_rate: sample rate of `channels` in Hz.
    """
    window = round(WINDOW_SEC * sample_rate)
    num_windows = channels.shape[1] // window
    if len(channels) < 2 or not num_windows:  # noqa: PLR2004
        return channels
    windows = channels[:, : num_windows * window].reshape(2, num_windows, window)
    probes = windows[:, _spread(num_windows, NUM_PROBES)]
    delay, correlation = _correlate(probes, round(MAX_DELAY_SEC * sample_rate))
    if abs(correlation) < PROBE_CORRELATION:
        return channels
    first, second = _align(channels, delay)
    if not _is_one_signal(first, second, window):
        return channels
    merged = (first + second if correlation > 0 else first - second) / np.float32(2)
    return np.pad(merged, (max(delay, 0), max(-delay, 0)))[None]


def _spread(num_windows: int, num_chosen: int) -> npt.NDArray[np.intp]:
    """Return the indices of at most `num_chosen` windows, evenly spread over a call."""
    return np.linspace(0, num_windows - 1, min(num_chosen, num_windows)).astype(np.intp)


def _correlate(windows: Waveform, max_delay: int) -> tuple[int, float]:
    """Return by how many samples the first channel of (2, W, N) is later, and their correlation at that delay."""
    steps = np.diff(windows, axis=2)  # a hum that both channels have is weaker in them
    size = 1 << (windows.shape[2] + max_delay).bit_length()  # the delayed window fits, and powers of 2 are fast
    first, second = np.fft.rfft(steps, size)
    product = np.fft.irfft((first * second.conj()).sum(axis=0))
    lags = np.arange(-max_delay, max_delay + 1)
    energy = float(np.sqrt(np.prod(np.square(steps, dtype=np.float64).sum(axis=(1, 2)))))
    best = int(np.abs(product[lags]).argmax())
    return int(lags[best]), float(product[lags[best]]) / max(energy, POWER_FLOOR)


def _align(channels: Waveform, delay: int) -> tuple[Waveform, Waveform]:
    """Return both channels without the delay of the first, which may be negative; shorter by it."""
    size = channels.shape[1] - abs(delay)
    return channels[0, max(delay, 0) :][:size], channels[1, max(-delay, 0) :][:size]


def _is_one_signal(first: Waveform, second: Waveform, window: int) -> bool:
    """Return whether two aligned channels, (S,), are correlated, and differ in level by the same everywhere."""
    num_windows = len(first) // window
    if not num_windows:
        return False
    chosen = _spread(num_windows, NUM_COMPARED)
    both = np.stack([side[: num_windows * window].reshape(num_windows, window)[chosen] for side in (first, second)])
    both -= both.mean(axis=2, keepdims=True)
    power = np.einsum("cwn,cwn->cw", both, both).astype(np.float64) + POWER_FLOOR
    product = float(np.einsum("wn,wn->w", both[0], both[1]).astype(np.float64).sum())
    if abs(product) < MIN_CORRELATION * float(np.sqrt(np.prod(power.sum(axis=1)))):
        return False
    level_db = 10 * np.log10(power)
    audible = (level_db > level_db.max(axis=1, keepdims=True) - AUDIBLE_DB).any(axis=0)
    difference_db = (level_db[0] - level_db[1])[audible]
    is_other = np.abs(difference_db - np.median(difference_db)) > MAX_LEVEL_SPREAD_DB
    return bool(is_other.mean() <= MAX_OTHER_SHARE)
