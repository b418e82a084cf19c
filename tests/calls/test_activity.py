from __future__ import annotations

import json
import math
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from msmtfn.calls.activity import ActivityConfig, detect_activity, detect_channel_activity

SAMPLE_RATE = 8000

# Measured against a recogniser's turns, which bridge pauses shorter than 0.8 s: agent 0.87, customer 0.75.
LEAST_OVERLAP = {"agent": 0.80, "customer": 0.68}


def faint_noise(duration_sec: float, seed: int = 0) -> NDArray[np.float32]:
    """Line noise at -60 dB."""
    rng = np.random.default_rng(seed)
    return (0.001 * rng.standard_normal(round(duration_sec * SAMPLE_RATE))).astype(np.float32)


def add_tone(waveform: NDArray[np.float32], start_sec: float, end_sec: float, peak: float = 0.2) -> None:
    """Add a 400 Hz tone: exactly eight periods per frame of 20 ms."""
    start, end = round(start_sec * SAMPLE_RATE), round(end_sec * SAMPLE_RATE)
    waveform[start:end] += peak * np.sin(2 * np.pi * 400 / SAMPLE_RATE * np.arange(end - start)).astype(np.float32)


def syllables(duration_sec: float) -> NDArray[np.float32]:
    """Noise modulated at 4 Hz, by 20 dB: like speech without a pause."""
    seconds = np.arange(round(duration_sec * SAMPLE_RATE)) / SAMPLE_RATE
    envelope = 0.55 + 0.45 * np.sin(2 * np.pi * 4 * seconds)
    return (0.1 * envelope * np.random.default_rng(1).standard_normal(len(seconds))).astype(np.float32)


def as_mask(segments: NDArray[np.float64], duration_sec: float) -> NDArray[np.bool_]:
    """Mask of the hundredths of a second that lie in a segment."""
    mask = np.zeros(round(duration_sec * 100) + 1, dtype=np.bool_)
    for start_sec, end_sec in segments:
        mask[round(start_sec * 100) : round(end_sec * 100)] = True
    return mask


def test_a_tone_in_faint_noise_is_one_segment() -> None:
    waveform = faint_noise(3.0)
    add_tone(waveform, 1.0, 2.0)
    np.testing.assert_array_equal(detect_activity(waveform, SAMPLE_RATE, ActivityConfig()), [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("gap_sec", "expected"),
    [(0.3, [[1.0, 2.3]]), (0.32, [[1.0, 1.5], [1.82, 2.32]])],
    ids=["as_long_as_allowed", "a_frame_longer"],
)
def test_segments_are_joined_only_over_gaps_up_to_the_limit(gap_sec: float, expected: list[list[float]]) -> None:
    waveform = faint_noise(4.0)
    add_tone(waveform, 1.0, 1.5)
    add_tone(waveform, 1.5 + gap_sec, 2.0 + gap_sec)
    np.testing.assert_allclose(detect_activity(waveform, SAMPLE_RATE, ActivityConfig(max_gap_sec=0.3)), expected)


def test_a_click_shorter_than_the_minimum_segment_is_dropped() -> None:
    waveform = faint_noise(4.0)
    add_tone(waveform, 1.0, 1.18)
    add_tone(waveform, 3.0, 3.2)
    np.testing.assert_allclose(
        detect_activity(waveform, SAMPLE_RATE, ActivityConfig(min_segment_sec=0.2)), [[3.0, 3.2]]
    )


def test_a_quiet_beginning_and_end_belong_to_a_segment_that_gets_loud() -> None:
    waveform = faint_noise(4.0)
    add_tone(waveform, 1.0, 2.0, peak=0.0045)  # -50 dB, 10 dB above the noise: over close_db, under open_db
    add_tone(waveform, 1.4, 1.6)
    np.testing.assert_allclose(detect_activity(waveform, SAMPLE_RATE, ActivityConfig()), [[1.0, 2.0]])


def test_a_sound_that_never_gets_loud_opens_no_segment() -> None:
    waveform = faint_noise(4.0)
    add_tone(waveform, 1.0, 2.0, peak=0.0045)
    assert detect_activity(waveform, SAMPLE_RATE, ActivityConfig()).shape == (0, 2)


def test_speech_without_a_pause_is_one_segment() -> None:
    segments = detect_activity(syllables(10.0), SAMPLE_RATE, ActivityConfig())
    assert segments.shape == (1, 2)
    assert segments[0, 0] < 0.3
    assert segments[0, 1] > 9.7


@pytest.mark.parametrize("num_samples", [0, 1, 100, 160, 8000])
def test_digital_silence_of_any_length_contains_no_speech(num_samples: int) -> None:
    waveform = np.zeros(num_samples, dtype=np.float32)
    assert detect_activity(waveform, SAMPLE_RATE, ActivityConfig()).shape == (0, 2)
    assert [
        len(segments) for segments in detect_channel_activity(np.stack([waveform] * 2), SAMPLE_RATE, ActivityConfig())
    ] == [0, 0]


@pytest.mark.parametrize("level", [0.0001, 0.001, 0.01, 0.1])
def test_constant_noise_of_any_level_contains_no_speech(level: float) -> None:
    noise = np.float32(level) * np.random.default_rng(2).standard_normal(60 * SAMPLE_RATE, dtype=np.float32)
    assert len(detect_activity(noise, SAMPLE_RATE, ActivityConfig())) == 0


@pytest.mark.parametrize("offset", [0.02, -0.5])
def test_a_dc_offset_changes_nothing(offset: float) -> None:
    waveform = faint_noise(3.0)
    add_tone(waveform, 1.0, 2.0)
    segments = detect_activity(waveform + np.float32(offset), SAMPLE_RATE, ActivityConfig())
    np.testing.assert_array_equal(segments, [[1.0, 2.0]])


def test_speech_up_to_the_end_includes_a_last_frame_that_is_short() -> None:
    waveform = faint_noise(2.005)  # 100 frames of 20 ms and 5 ms
    add_tone(waveform, 1.0, 2.005)
    np.testing.assert_array_equal(detect_activity(waveform, SAMPLE_RATE, ActivityConfig()), [[1.0, 2.005]])


def test_digital_silence_before_line_noise_does_not_turn_the_noise_into_speech() -> None:
    waveform = 10 * faint_noise(10.0)  # -40 dB
    waveform[: 4 * SAMPLE_RATE] = 0
    add_tone(waveform, 6.0, 7.0)
    np.testing.assert_array_equal(detect_activity(waveform, SAMPLE_RATE, ActivityConfig()), [[6.0, 7.0]])


def test_crosstalk_from_the_other_channel_is_not_speech() -> None:
    channels = np.stack([faint_noise(8.0), faint_noise(8.0, seed=1)])
    add_tone(channels[0], 1.0, 3.0, peak=0.4)
    add_tone(channels[1], 1.2, 3.2, peak=0.02)  # 26 dB lower, 0.2 s later
    add_tone(channels[1], 5.0, 6.0, peak=0.02)
    agent, customer = detect_channel_activity(channels, SAMPLE_RATE, ActivityConfig())
    np.testing.assert_array_equal(agent, [[1.0, 3.0]])
    np.testing.assert_array_equal(customer, [[5.0, 6.0]])


def test_an_infinite_crosstalk_level_disables_the_check() -> None:
    channels = np.stack([faint_noise(8.0), faint_noise(8.0, seed=1)])
    add_tone(channels[0], 1.0, 3.0, peak=0.4)
    add_tone(channels[1], 1.2, 3.2, peak=0.02)
    config = ActivityConfig(crosstalk_db=math.inf)
    together = detect_channel_activity(channels, SAMPLE_RATE, config)
    for waveform, segments in zip(channels, together, strict=True):
        np.testing.assert_array_equal(segments, detect_activity(waveform, SAMPLE_RATE, config))


def test_both_speakers_are_found_when_they_speak_at_once() -> None:
    channels = np.stack([faint_noise(8.0), faint_noise(8.0, seed=1)])
    add_tone(channels[0], 1.0, 4.0)
    add_tone(channels[1], 2.0, 3.0, peak=0.05)  # 12 dB lower
    agent, customer = detect_channel_activity(channels, SAMPLE_RATE, ActivityConfig())
    np.testing.assert_array_equal(agent, [[1.0, 4.0]])
    np.testing.assert_array_equal(customer, [[2.0, 3.0]])


@pytest.mark.parametrize(
    "waveform", [np.zeros(8, dtype=np.int16), np.zeros(8), np.zeros((2, 8), dtype=np.float32)], ids=str
)
def test_a_waveform_that_is_not_one_channel_of_float32_is_refused(waveform: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="float32"):
        detect_activity(waveform, SAMPLE_RATE, ActivityConfig())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("frame_sec", 0.0),
        ("noise_percentile", 101.0),
        ("min_noise_db", 3.0),
        ("open_db", 0.0),
        ("close_db", 12.5),
        ("max_gap_sec", -0.1),
        ("min_segment_sec", math.nan),
        ("crosstalk_db", 0.0),
        ("crosstalk_tail_sec", 1.1),
    ],
)
def test_an_error_names_the_option_with_its_value_and_limits(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^{field} is {value}; it must be between"):
        ActivityConfig(**{field: value})


def test_ten_minutes_are_processed_2000_times_faster_than_real_time() -> None:
    waveform = syllables(600.0)
    detect_activity(waveform, SAMPLE_RATE, ActivityConfig())
    started = time.perf_counter()
    detect_activity(waveform, SAMPLE_RATE, ActivityConfig())
    assert time.perf_counter() - started < 600 / 2000


def test_the_samples_are_not_copied() -> None:
    waveform = syllables(60.0)
    tracemalloc.start()
    try:
        detect_activity(waveform, SAMPLE_RATE, ActivityConfig())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < waveform.nbytes / 4


@pytest.mark.parametrize(("channel", "speaker"), [(0, "agent"), (1, "customer")])
def test_the_activity_of_a_real_call_overlaps_with_a_recognisers_turns(
    recordings: Path, channel: int, speaker: str
) -> None:
    samples, sample_rate = soundfile.read(recordings / "auto_repairs_40.flac", dtype="float32")
    turns = json.loads((recordings / "auto_repairs_40.turns.json").read_text())
    expected = np.array([[turn["start_sec"], turn["end_sec"]] for turn in turns if turn["speaker"] == speaker])
    duration_sec = len(samples) / sample_rate
    segments = detect_channel_activity(samples.T, sample_rate, ActivityConfig())[channel]
    found, spoken = as_mask(segments, duration_sec), as_mask(expected, duration_sec)
    assert (found & spoken).sum() / (found | spoken).sum() > LEAST_OVERLAP[speaker]
