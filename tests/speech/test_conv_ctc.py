from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from msmtfn.errors import ModelError
from msmtfn.speech.conv_ctc import ConvCtc, ConvCtcConfig, load_conv_ctc, log_mels, normalise, save_conv_ctc
from msmtfn.speech.conv_ctc_recogniser import ConvCtcRecogniser, HeardCharacter, read_characters, split_sentences
from msmtfn.speech.models import RecogniserConfig, choose_engine, load_recogniser, recogniser_version
from msmtfn.speech.recogniser import SAMPLE_RATE, Segment

CHARACTERS = "。你们好，"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small network with random weights that says something all the same."""
    torch.manual_seed(0)
    network = ConvCtc(ConvCtcConfig(characters=CHARACTERS, num_mels=20, width=16, num_blocks=4))
    with torch.no_grad():
        network.head.weight *= 20
        network.head.bias[0] = -1.0
    folder = tmp_path_factory.mktemp("conv") / "model"
    save_conv_ctc(network, folder)
    return folder


def noise(*seconds: float) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    envelope = [1.2 + np.sin(np.arange(round(sec * SAMPLE_RATE)) / 900) for sec in seconds]
    return [(0.1 * each * generator.standard_normal(len(each))).astype(np.float32) for each in envelope]


def log_probs_of(*rows: tuple[int, float]) -> torch.Tensor:
    """Return frames in which one number has the given probability, and the others share the rest."""
    probs = torch.empty(len(rows), len(CHARACTERS) + 1)
    for row, (number, prob) in zip(probs, rows, strict=True):
        row[:] = (1 - prob) / len(CHARACTERS)
        row[number] = prob
    return probs.log()


def test_a_clip_sounds_the_same_alone_and_in_a_batch(folder: Path) -> None:
    recogniser = ConvCtcRecogniser(folder, device="cpu")
    clips = noise(0.3, 2.0, 5.0)
    alone = [recogniser.recognise([clip], ["zh"])[0] for clip in clips]
    together = recogniser.recognise(clips, ["zh"] * 3)
    assert sum(map(len, alone)) > 3
    for one, other in zip(alone, together, strict=True):
        assert [segment.text for segment in one] == [segment.text for segment in other]
        assert times_of(one) == pytest.approx(times_of(other), abs=1e-6)
        assert confidences_of(one) == pytest.approx(confidences_of(other), abs=1e-4)


def times_of(segments: list[Segment]) -> list[float]:
    return [value for segment in segments for word in segment.words for value in (word.start_sec, word.end_sec)]


def confidences_of(segments: list[Segment]) -> list[float]:
    return [word.confidence or 0.0 for segment in segments for word in segment.words]


def test_words_are_in_order_and_within_the_clip(folder: Path) -> None:
    (segments,) = ConvCtcRecogniser(folder, device="cpu").recognise(noise(4.0), [None])
    times = times_of(segments)
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 4.0


def test_a_run_of_frames_is_one_character_at_its_surest_frame() -> None:
    heard = read_characters(log_probs_of((2, 0.6), (2, 0.9), (0, 0.9), (2, 0.7), (3, 0.8)), CHARACTERS)
    assert [(each.text, round(each.at_sec, 3)) for each in heard] == [("你", 0.09), ("你", 0.21), ("们", 0.27)]
    assert math.exp(heard[0].log_prob) == pytest.approx(0.9)


def test_frames_of_blanks_are_nothing() -> None:
    assert split_sentences(read_characters(log_probs_of((0, 0.9), (0, 0.8)), CHARACTERS), 0.12) == []


def test_marks_join_the_word_before_them_and_sentences_are_segments() -> None:
    characters = (("，", 0.1), ("你", 1.0), ("好", 1.2), ("，", 1.5), ("们", 2.0), ("。", 2.2), ("好", 3.0))
    segments = split_sentences([HeardCharacter(text, at_sec, math.log(0.5)) for text, at_sec in characters], 3.1)
    assert [[word.text for word in segment.words] for segment in segments] == [["你", "好，", "们。"], ["好"]]
    times = times_of(segments)
    assert times == pytest.approx([0.85, 1.1, 1.1, 1.35, 1.85, 2.15, 2.85, 3.1])
    assert segments[0].confidence == pytest.approx(0.5)


def test_the_level_of_a_recording_changes_nothing() -> None:
    (clip,) = noise(1.0)
    loud, quiet = (normalise(log_mels(clip * np.float32(gain), 20)) for gain in (1.0, 0.25))
    assert torch.allclose(loud, quiet, atol=0.01)


def test_a_tone_is_in_the_band_of_its_frequency() -> None:
    times = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    bands = [
        int(log_mels(np.sin(2 * np.pi * hertz * times).astype(np.float32), 20)[50].argmax())
        for hertz in (300, 1_000, 2_000, 3_600)
    ]
    assert bands == sorted(bands)
    assert len(set(bands)) == 4


def test_weights_are_stored_in_half_precision(folder: Path) -> None:
    network = load_conv_ctc(folder)
    num_weights = sum(weight.numel() for weight in network.parameters())
    assert (folder / "model.safetensors").stat().st_size < 2 * num_weights + 8_000
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert network.config.characters == CHARACTERS


def test_the_engine_follows_from_the_configuration(folder: Path, tmp_path: Path) -> None:
    assert choose_engine(folder, "auto") == choose_engine(folder, "msmtfn") == "msmtfn"
    assert isinstance(load_recogniser(folder, RecogniserConfig(), device="cpu", threads=1), ConvCtcRecogniser)
    assert len(recogniser_version(folder)) == 12
    with pytest.raises(ModelError, match="is one of the engine msmtfn"):
        choose_engine(folder, "transformers")
    (tmp_path / "config.json").write_text('{"architectures": ["Wav2Vec2ForCTC"]}')
    with pytest.raises(ModelError, match="is none of the engine msmtfn"):
        choose_engine(tmp_path, "msmtfn")


@pytest.mark.parametrize(
    "content",
    [
        '{"architectures": ["MsmtfnConvCtc"]}',
        '{"architectures": ["MsmtfnConvCtc"], "characters": "ab", "width": 0}',
        '{"architectures": ["MsmtfnConvCtc"], "characters": "aa"}',
        '{"architectures": ["MsmtfnConvCtc"], "characters": "ab", "width": 16, "num_mels": 20, "num_blocks": 4}',
    ],
    ids=["no characters", "no width", "a character twice", "weights of another size"],
)
def test_a_configuration_that_does_not_fit_is_one_model_error(folder: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_recogniser(tmp_path, RecogniserConfig(), device="cpu", threads=1)
