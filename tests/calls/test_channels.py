import io

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf

from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.channels import merge_channels

RATE = 8000
Waveform = npt.NDArray[np.float32]


def voice(seed: int, silent_from_sec: float = 20.0) -> Waveform:
    """20 s of a speaker: noise of changing pitch and level, with pauses, until a given time."""
    rng = np.random.default_rng(seed)
    noise = np.convolve(rng.standard_normal(20 * RATE), np.ones(4) / 4, "same")
    syllables = np.repeat(rng.uniform(0, 0.3, 80) * (rng.random(80) > 0.4), RATE // 4)
    syllables[round(silent_from_sec * RATE) :] = 0
    return (noise * syllables + 1e-4 * rng.standard_normal(20 * RATE)).astype(np.float32)


def noise(level_db: float, seed: int = 9) -> Waveform:
    """Noise at a level in dB relative to a voice."""
    power = 10 ** (level_db / 20) * np.sqrt(np.mean(np.square(voice(1))))
    wave: Waveform = (power * np.random.default_rng(seed).standard_normal(20 * RATE)).astype(np.float32)
    return wave


def merge(first: Waveform, second: Waveform) -> Waveform:
    return merge_channels(np.stack([first, second]), RATE)


def correlation(first: Waveform, second: Waveform) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def decode(*channels: Waveform) -> Recording:
    file = io.BytesIO()
    sf.write(file, np.stack(channels, axis=1), RATE, format="WAV", subtype="FLOAT")
    return decode_recording(file.getvalue(), sample_rate=RATE, config=AudioConfig())


def test_two_equal_channels_are_one_and_its_samples_are_the_same() -> None:
    assert np.array_equal(merge(voice(1), voice(1)), voice(1)[None])


@pytest.mark.parametrize("gain", [0.05, 0.5, 0.9, 2.0, -1.0, -0.3])
def test_a_gain_or_the_opposite_polarity_makes_no_second_channel(gain: float) -> None:
    merged = merge(voice(1), np.float32(gain) * voice(1))
    np.testing.assert_allclose(merged, (1 + abs(gain)) / 2 * voice(1)[None], atol=1e-6)


@pytest.mark.parametrize("delay", [1, 3, 40, 150])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_delay_makes_no_second_channel(delay: int, sign: int) -> None:
    later = np.pad(voice(1), (delay, 0))[: 20 * RATE]
    merged = merge(np.float32(sign) * voice(1), later)
    assert merged.shape == (1, 20 * RATE)
    assert abs(correlation(merged[0], voice(1))) > 0.99
    assert np.abs(merge(later, np.float32(sign) * voice(1))[0, delay:]).max() == pytest.approx(np.abs(merged).max())


@pytest.mark.parametrize("level_db", [-40, -20, -15])
def test_noise_makes_no_second_channel(level_db: float) -> None:
    merged = merge(voice(1) + noise(level_db, 8), voice(1) + noise(level_db))
    assert len(merged) == 1
    assert correlation(merged[0], voice(1)) > 0.98


def test_a_changing_gain_makes_no_second_channel() -> None:
    gain = np.repeat(10 ** (np.random.default_rng(0).uniform(-4, 4, 20) / 20), RATE).astype(np.float32)
    assert len(merge(voice(1), gain * voice(1))) == 1


@pytest.mark.parametrize("crosstalk", [0.0, 0.03, 0.1, 0.25])
def test_two_speakers_stay_two_channels_bit_for_bit(crosstalk: float) -> None:
    first, second = voice(1), voice(2)
    channels = np.stack([first + np.float32(crosstalk) * second, np.float32(crosstalk) * first + second])
    assert merge_channels(channels, RATE) is channels


def test_a_speaker_who_says_a_word_stays_a_channel_in_spite_of_crosstalk() -> None:
    channels = np.stack([np.roll(voice(1), RATE), voice(2, 2.0) + np.float32(0.1) * np.roll(voice(1), RATE)])
    assert merge_channels(channels, RATE) is channels


def test_a_hum_on_both_channels_does_not_make_them_one() -> None:
    hum = 0.5 * np.sin(2 * np.pi * 50 / RATE * np.arange(20 * RATE), dtype=np.float32)
    assert len(merge(voice(1) + hum, voice(2) + hum)) == 2


@pytest.mark.parametrize("dead", [np.zeros(20 * RATE, np.float32), np.full(20 * RATE, 0.1, np.float32), noise(-40)])
def test_a_dead_channel_is_not_the_other_one(dead: Waveform) -> None:
    assert len(merge(voice(1), dead)) == 2


@pytest.mark.parametrize("num_samples", [0, 1, 100, 2000, 2001])
def test_a_short_recording_is_merged_or_left(num_samples: int) -> None:
    channels = np.stack([voice(1), voice(1)])[:, :num_samples]
    assert merge_channels(channels, RATE).shape[1] == num_samples


def test_a_mono_call_in_two_channels_is_decoded_as_one_channel() -> None:
    assert np.array_equal(decode(voice(1), voice(1)).channels, decode(voice(1)).channels)


def test_channels_of_opposite_polarity_do_not_cancel_in_the_mix() -> None:
    assert np.array_equal(decode(voice(1), -voice(1)).mono(), voice(1))


def test_the_mix_of_two_speakers_is_their_mean() -> None:
    mean = np.stack([voice(1), voice(2)]).mean(axis=0)
    assert np.array_equal(decode(voice(1), voice(2)).mono(), mean)
