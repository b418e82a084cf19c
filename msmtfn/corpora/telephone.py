"""Make clean audio sound like a recorded telephone line, and write it in the formats of one.

Shape letters: C channels, S samples.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

SAMPLE_RATE: Final = 8_000
BAND_HZ: Final = (300.0, 3_400.0)
EDGE_HZ: Final = 60.0
"""Width of the transition inside each end of the band; a narrower one would ring longer."""

# Silence appended for the ringing of the filter: a product of spectra is a circular convolution, so without it the
# ringing of the end would wrap around to the start.
SETTLE_SEC: Final = 0.05

RecordingFormat = Literal["wav_mulaw", "wav_pcm16", "flac"]
"""OGG is missing because libsndfile gives every stream a random serial number: the same call would give other bytes."""

_SOUNDFILE_NAMES: Final[dict[RecordingFormat, tuple[str, str]]] = {
    "wav_mulaw": ("WAV", "ULAW"),
    "wav_pcm16": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
}


def telephone_band(waveform: NDArray[np.float32], from_rate: int, to_rate: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """Band-pass `waveform` to 300 to 3400 Hz and resample it in one Fourier transform, without delay.

    Args:
        waveform: (S,) at `from_rate`.
        from_rate: samples per second of `waveform`.
        to_rate: samples per second of the result; more than twice the upper end of the band.

    Returns:
        (ceil(S * to_rate / from_rate),)

    Raises:
        ValueError: `waveform` has more than one channel, or a rate is too low for the band.
    """
    if waveform.ndim != 1:
        raise ValueError(f"waveform has shape {waveform.shape}; pass one channel, (S,)")
    lowest_rate = 2 * BAND_HZ[1]
    if min(from_rate, to_rate) <= lowest_rate:
        raise ValueError(f"rates are {from_rate} and {to_rate}; the telephone band needs more than {lowest_rate:.0f}")
    # A spectrum of N bins that is read back with M bins gives the same signal at M / N times the rate, scaled by N / M.
    # Both lengths are whole multiples of the reduced ratio of the rates, so M / N is exact.
    common = math.gcd(from_rate, to_rate)
    step_from, step_to = from_rate // common, to_rate // common
    num_steps_needed = math.ceil((len(waveform) + SETTLE_SEC * from_rate) / step_from)
    num_steps = 1 << (num_steps_needed - 1).bit_length()  # a power of two: large prime factors make the FFT slow
    num_padded, num_resampled = num_steps * step_from, num_steps * step_to
    spectrum = np.fft.rfft(waveform, n=num_padded)[: num_resampled // 2 + 1]
    spectrum = spectrum * _band_gain(np.arange(len(spectrum)) * from_rate / num_padded)
    resampled = np.fft.irfft(spectrum, n=num_resampled) * (num_resampled / num_padded)
    return resampled[: math.ceil(len(waveform) * to_rate / from_rate)].astype(np.float32)


def set_level(waveform: NDArray[np.float32], level_db: float) -> NDArray[np.float32]:
    """Scale a waveform, which must not be silent, to a root mean square of `level_db` dBFS."""
    root_mean_square: np.float32 = np.sqrt(np.mean(np.square(waveform)))
    gain = np.float32(10 ** (level_db / 20)) / root_mean_square
    return waveform * gain


def add_line_noise(waveform: NDArray[np.float32], level_db: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add independent white noise in the telephone band, of `level_db` dBFS, to every channel of a (C, S) waveform."""
    noise = rng.standard_normal(waveform.shape, dtype=np.float32)
    return waveform + np.stack([set_level(telephone_band(channel, SAMPLE_RATE), level_db) for channel in noise])


def write_recording(
    path: Path, waveform: NDArray[np.float32], sample_rate: int, recording_format: RecordingFormat
) -> None:
    """Write a (C, S) waveform to `path`; samples outside [-1, 1] are clipped."""
    if waveform.ndim != 2:  # noqa: PLR2004
        raise ValueError(f"waveform has shape {waveform.shape}; it must be (channels, samples)")
    container, subtype = _SOUNDFILE_NAMES[recording_format]
    soundfile.write(path, np.clip(waveform.T, -1.0, 1.0), sample_rate, format=container, subtype=subtype)


def _band_gain(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the gain by frequency: 0 outside the band, 1 inside, raised-cosine edges of `EDGE_HZ` between."""
    distance_hz = np.minimum(frequency_hz - BAND_HZ[0], BAND_HZ[1] - frequency_hz)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(distance_hz / EDGE_HZ, 0.0, 1.0))
