from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from msmtfn.calls.audio import AudioConfig, decode_recording
from msmtfn.speech.diarisation import DiarisationConfig, cluster, diarise, merge_alike
from msmtfn.speech.embeddings import embed_windows
from msmtfn.speech.recogniser import SAMPLE_RATE
from msmtfn.speech.voice import VoiceConfig, detect_speech, total_sec
from tests.speech.measures import diarisation_error

ENERGY = VoiceConfig(detector="energy")


def test_directions_are_put_into_groups() -> None:
    generator = np.random.default_rng(1)
    centers = np.eye(8, dtype=np.float32)[:3]
    truth = generator.integers(0, 3, 60)
    vectors = centers[truth] + 0.1 * generator.standard_normal((60, 8)).astype(np.float32)
    labels = cluster(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), 3)
    assert all(len(set(labels[truth == group])) == 1 for group in range(3))
    assert len(set(labels.tolist())) == 3


def test_fewer_vectors_than_speakers_are_a_speaker_each() -> None:
    assert cluster(np.eye(2, dtype=np.float32), 3).tolist() == [0, 1]


def test_silence_has_no_speaker_and_one_speaker_has_all_speech() -> None:
    waveform, speech = np.zeros(SAMPLE_RATE, np.float32), np.array([[0.2, 0.8]])
    assert diarise(waveform, np.empty((0, 2)), DiarisationConfig()) == []
    (only,) = diarise(waveform, speech, DiarisationConfig(num_speakers=1))
    assert only.tolist() == speech.tolist()


def test_vectors_have_length_one_even_of_silence_shorter_than_a_window() -> None:
    vectors = embed_windows(np.zeros(SAMPLE_RATE // 2, np.float32), np.array([0.1, 0.4]), 1.6)
    assert vectors.shape == (2, 256)
    assert np.isfinite(vectors).all()


def test_the_two_speakers_of_the_real_call_are_told_apart_in_one_channel(recordings: Path) -> None:
    data = (recordings / "auto_repairs_40.flac").read_bytes()
    channels = decode_recording(data, sample_rate=SAMPLE_RATE, config=AudioConfig()).channels[:, : 90 * SAMPLE_RATE]
    reference = detect_speech(channels, ENERGY)
    mixed = channels.mean(axis=0)
    speech = detect_speech(mixed[None], ENERGY)[0]
    speakers = diarise(mixed, speech, DiarisationConfig())
    assert len(speakers) == 2
    assert sum(map(total_sec, speakers)) == pytest.approx(total_sec(speech))
    assert diarisation_error(reference, speakers, 90.0, collar_sec=0.25) < 0.15


def test_groups_that_sound_alike_are_one_speaker() -> None:
    # The cosine of the first two is 0.96, of the third and the others at most 0.28.
    vectors = np.array([[0.96, 0.28, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]], np.float32)
    assert merge_alike(vectors, np.array([0, 1, 2]), 0.85).tolist() == [0, 0, 2]
    assert merge_alike(vectors, np.array([0, 1, 2]), 0.97).tolist() == [0, 1, 2]


def test_one_speaker_alone_is_not_taken_for_two(recordings: Path) -> None:
    data = (recordings / "auto_repairs_40.flac").read_bytes()
    agent = decode_recording(data, sample_rate=SAMPLE_RATE, config=AudioConfig()).channels[0]
    (speech,) = detect_speech(agent[None], ENERGY)
    assert len(diarise(agent, speech, DiarisationConfig())) == 1


def test_an_impossible_number_of_speakers_is_refused() -> None:
    with pytest.raises(ValueError, match="num_speakers is 9"):
        DiarisationConfig(num_speakers=9)
