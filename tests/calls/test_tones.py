from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from msmtfn.calls.activity import ActivityConfig, detect_activity
from msmtfn.calls.tones import drop_tones

RATE = 8000


def ringing(frequencies: tuple[int, ...], on_sec: float, off_sec: float) -> NDArray[np.float32]:
    """Twenty seconds of a ringing or busy tone, with line noise at -45 dB, through 8 bits of mu-law."""
    seconds = np.arange(20 * RATE) / RATE
    tone = 0.2 * sum(np.sin(2 * np.pi * each * seconds) for each in frequencies) / len(frequencies)
    heard = tone * (seconds % (on_sec + off_sec) < on_sec)
    heard += 10 ** (-45 / 20) * np.random.default_rng(0).standard_normal(len(seconds))
    code = np.rint(127 * np.sign(heard) * np.log1p(255 * np.abs(heard)) / np.log(256)) / 127
    sound: NDArray[np.float32] = (np.sign(code) * (256 ** np.abs(code) - 1) / 255).astype(np.float32)
    return sound


@pytest.mark.parametrize(
    ("frequencies", "on_sec", "off_sec"),
    [((450,), 1, 4), ((450,), 0.35, 0.35), ((425,), 1, 4), ((440, 480), 2, 4), ((480, 620), 0.5, 0.5)],
)
def test_the_tones_of_a_line_are_no_voices(frequencies: tuple[int, ...], on_sec: float, off_sec: float) -> None:
    waveform = ringing(frequencies, on_sec, off_sec)
    segments = detect_activity(waveform, RATE, ActivityConfig())
    assert len(segments) >= 4  # the detector takes them for speech
    assert len(drop_tones(waveform, RATE, segments)) == 0


@pytest.mark.parametrize("name", ["auto_repairs_40.flac", "auto_repairs_mono_u8.wav", "mandarin_short.wav"])
def test_no_voice_of_a_real_call_is_taken_for_a_tone(name: str, recordings: Path) -> None:
    waveform, rate = soundfile.read(recordings / name, dtype="float32", always_2d=True)
    segments = detect_activity(waveform[:, 0].copy(), rate, ActivityConfig())
    assert len(segments) > 0
    assert drop_tones(waveform[:, 0], rate, segments).tolist() == segments.tolist()


def test_a_voice_after_the_ringing_stays() -> None:
    waveform = ringing((450,), 1, 4)
    voice = np.random.default_rng(1).standard_normal(RATE).astype(np.float32)
    waveform[18 * RATE : 19 * RATE] = 0.1 * voice * np.abs(np.sin(4 * np.pi * np.arange(RATE) / RATE))
    [(start_sec, end_sec)] = drop_tones(waveform, RATE, detect_activity(waveform, RATE, ActivityConfig()))
    assert 17.9 < start_sec < end_sec < 19.1


def test_nothing_has_no_tones() -> None:
    assert drop_tones(np.zeros(RATE, np.float32), RATE, np.zeros((0, 2))).shape == (0, 2)
