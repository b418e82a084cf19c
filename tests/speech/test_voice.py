from __future__ import annotations

import numpy as np
import pytest

from msmtfn.speech.recogniser import SAMPLE_RATE
from msmtfn.speech.voice import VoiceConfig, covers, detect_speech, join_gaps, subtract, total_sec, union


def segments(*edges: tuple[float, float]) -> np.ndarray:
    return np.array(edges, np.float64).reshape(-1, 2)


def test_segments_are_joined_subtracted_and_united() -> None:
    assert join_gaps(segments((0, 1), (1.2, 2), (4, 4.1)), 0.3, 0.5).tolist() == [[0, 2]]
    assert subtract(segments((0, 4), (6, 8)), segments((1, 2), (7, 9))).tolist() == [[0, 1], [2, 4], [6, 7]]
    assert union(segments((0, 2)), segments((1, 3), (5, 6))).tolist() == [[0, 3], [5, 6]]
    assert subtract(segments(), segments((1, 2))).tolist() == []
    assert total_sec(segments((0, 2), (3, 3.5))) == 2.5


def test_a_time_lies_in_a_segment_or_not() -> None:
    inside = covers(segments((1, 2), (4, 5)), np.array([0.5, 1.0, 1.9, 2.0, 3.0, 4.5, 9.0]))
    assert inside.tolist() == [False, True, True, False, False, True, False]
    assert covers(segments(), np.array([1.0])).tolist() == [False]


def test_speech_of_the_other_channel_is_no_speech() -> None:
    rng = np.random.default_rng(0)
    voice = np.concatenate([np.zeros(SAMPLE_RATE), 0.3 * rng.standard_normal(SAMPLE_RATE), np.zeros(SAMPLE_RATE)])
    hiss = 0.002 * rng.standard_normal((2, len(voice)))
    channels = (hiss + np.stack([voice, 0.02 * voice])).astype(np.float32)
    first, second = detect_speech(channels, VoiceConfig(detector="energy"))
    assert first.round(1).tolist() == [[1.0, 2.0]]
    assert second.tolist() == []


def test_silero_takes_neither_ringing_nor_noise_for_speech() -> None:
    pytest.importorskip("faster_whisper", reason="needs the extra asr")
    seconds = np.arange(20 * SAMPLE_RATE) / SAMPLE_RATE
    ringing = 0.2 * np.sin(2 * np.pi * 450 * seconds) * (seconds % 5 < 1)
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(seconds))
    for sound in (ringing, noise):
        assert detect_speech(sound.astype(np.float32)[None], VoiceConfig())[0].tolist() == []


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValueError, match="detector is 'ear'"):
        VoiceConfig(detector="ear")  # type: ignore[arg-type]
