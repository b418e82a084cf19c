from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from msmtfn.corpora.telephone import (
    RecordingFormat,
    add_line_noise,
    set_level,
    telephone_band,
    write_recording,
)


def sine(frequency_hz: float, sample_rate: int, duration_sec: float = 1.0) -> NDArray[np.float32]:
    times = np.arange(round(duration_sec * sample_rate)) / sample_rate
    return np.sin(2 * np.pi * frequency_hz * times).astype(np.float32)


def level_db(waveform: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(waveform.astype(np.float64) ** 2) + 1e-20))


@pytest.mark.parametrize("frequency_hz", [400, 1000, 3200])
@pytest.mark.parametrize("from_rate", [8_000, 16_000, 22_050])
def test_a_tone_in_the_band_keeps_its_amplitude_and_phase(frequency_hz: float, from_rate: int) -> None:
    resampled = telephone_band(sine(frequency_hz, from_rate), from_rate)

    expected = sine(frequency_hz, 8_000)
    assert resampled.shape == expected.shape
    np.testing.assert_allclose(resampled[800:-800], expected[800:-800], atol=0.01)


@pytest.mark.parametrize("frequency_hz", [50, 150, 250, 3_500, 3_900, 6_000, 10_000])
def test_a_tone_outside_the_band_is_attenuated_by_30_db(frequency_hz: float) -> None:
    tone = sine(frequency_hz, 22_050)
    resampled = telephone_band(tone, 22_050)

    assert level_db(resampled[800:-800]) < level_db(tone) - 30


def test_only_the_band_of_white_noise_remains() -> None:
    noise = np.random.default_rng(0).standard_normal(22_050 * 4).astype(np.float32)
    power = np.abs(np.fft.rfft(telephone_band(noise, 22_050))) ** 2
    frequency_hz = np.linspace(0, 4_000, len(power))
    in_band = (frequency_hz >= 300) & (frequency_hz <= 3_400)

    assert 10 * np.log10(power[~in_band].mean() / power[in_band].mean()) < -30


def test_the_end_does_not_wrap_around_to_the_start() -> None:
    waveform = np.zeros(8_000, dtype=np.float32)
    waveform[-2_000:] = sine(1_000, 8_000, 0.25)

    assert np.abs(telephone_band(waveform, 8_000)[:4_000]).max() < 1e-3


@pytest.mark.parametrize(
    ("num_samples", "from_rate", "to_rate", "expected"),
    [(22_050, 22_050, 8_000, 8_000), (441, 22_050, 8_000, 160), (442, 22_050, 8_000, 161), (800, 8_000, 16_000, 1_600)],
)
def test_the_length_scales_with_the_rate(num_samples: int, from_rate: int, to_rate: int, expected: int) -> None:
    assert telephone_band(np.zeros(num_samples, dtype=np.float32), from_rate, to_rate).shape == (expected,)


def test_a_rate_too_low_for_the_band_is_rejected() -> None:
    with pytest.raises(ValueError, match="6800"):
        telephone_band(np.zeros(100, dtype=np.float32), 8_000, 6_000)


def test_a_waveform_with_two_channels_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"\(2, 100\)"):
        telephone_band(np.zeros((2, 100), dtype=np.float32), 8_000)


@pytest.mark.parametrize(
    ("recording_format", "names", "tolerance"),
    [("wav_mulaw", ("WAV", "ULAW"), 0.03), ("wav_pcm16", ("WAV", "PCM_16"), 1e-4), ("flac", ("FLAC", "PCM_16"), 1e-4)],
)
@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_recording_is_read_back_as_written(
    tmp_path: Path, recording_format: RecordingFormat, names: tuple[str, str], tolerance: float, num_channels: int
) -> None:
    path = tmp_path / "call"
    waveform = np.stack([sine(500 * (channel + 1), 8_000) * 0.9 for channel in range(num_channels)])
    write_recording(path, waveform, 8_000, recording_format)

    info = soundfile.info(path)
    assert (info.format, info.subtype, info.samplerate) == (*names, 8_000)
    samples, _ = soundfile.read(path, always_2d=True)
    np.testing.assert_allclose(samples.T, waveform, atol=tolerance)


@pytest.mark.parametrize("recording_format", ["wav_mulaw", "wav_pcm16", "flac"])
def test_samples_outside_full_scale_are_clipped(tmp_path: Path, recording_format: RecordingFormat) -> None:
    path = tmp_path / "call"
    write_recording(path, np.array([[-3.0, 0.0, 3.0]], dtype=np.float32), 8_000, recording_format)

    samples, _ = soundfile.read(path)
    np.testing.assert_allclose(samples, [-1, 0, 1], atol=0.03)


def test_a_waveform_without_a_channel_axis_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(channels, samples\)"):
        write_recording(tmp_path / "call.wav", np.zeros(100, dtype=np.float32), 8_000, "wav_pcm16")


def test_a_waveform_is_scaled_to_its_level() -> None:
    assert level_db(set_level(sine(500, 8_000), -20.0)) == pytest.approx(-20.0, abs=0.01)


def test_independent_noise_of_the_given_level_is_added_to_every_channel() -> None:
    noise = add_line_noise(np.zeros((2, 8_000), dtype=np.float32), -40.0, np.random.default_rng(0))

    assert [level_db(channel) for channel in noise] == pytest.approx([-40.0, -40.0], abs=0.01)
    assert abs(np.corrcoef(*noise).item(1)) < 0.1
