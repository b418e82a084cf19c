from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from msmtfn.cli import main
from msmtfn.corpora.recogniser_data import SpokenText, Track, read_tracks
from msmtfn.corpora.recogniser_training import (
    RecogniserTraining,
    find_characters,
    make_batches,
    measure_error_rate,
    train_recogniser,
    without_marks,
)
from msmtfn.corpora.simulation.corpus import write_corpus
from msmtfn.corpora.simulation.plan import SimulationConfig
from msmtfn.errors import UsageError
from msmtfn.speech.conv_ctc import ConvCtc, ConvCtcConfig, load_conv_ctc

NUM_MELS = 8
FRAMES_PER_CHARACTER = 18


def spoken(text: str) -> SpokenText:
    """Return features in which each character has a band of its own, with silence after it."""
    mels = torch.zeros(FRAMES_PER_CHARACTER * len(text) + 6, NUM_MELS)
    for place, character in enumerate(text):
        first = place * FRAMES_PER_CHARACTER + 6
        mels[first : first + 12, "abcd".index(character)] = 5.0
    return SpokenText(mels.half(), text)


def random_tracks(number: int, generator: np.random.Generator) -> list[Track]:
    texts = ["".join(generator.choice(list("abcd"), int(generator.integers(3, 8)))) for _ in range(2 * number)]
    return [[spoken(one), spoken(other)] for one, other in zip(texts[::2], texts[1::2], strict=True)]


def test_marks_do_not_count_as_characters() -> None:
    assert without_marks("你好，一个。 ") == "你好一个"


def test_every_turn_is_in_one_clip_of_an_epoch_and_batches_keep_to_their_seconds() -> None:
    tracks = random_tracks(40, np.random.default_rng(0))
    batches = make_batches(tracks, 2, 6.0, np.random.default_rng(1))
    turns = Counter(id(turn) for batch in batches for clip in batch for turn in clip)
    assert turns == Counter(id(turn) for track in tracks for turn in track)
    for batch in batches:
        lengths = [sum(len(turn.mels) for turn in clip) for clip in batch]
        assert len(batch) == 1 or len(batch) * max(lengths) <= 600
    assert {len(clip) for batch in batches for clip in batch} == {1, 2}


def test_a_network_learns_to_read_what_it_hears() -> None:
    training, unseen = (random_tracks(number, np.random.default_rng(number)) for number in (60, 20))
    torch.manual_seed(0)
    network = ConvCtc(ConvCtcConfig(characters="abcd", num_mels=NUM_MELS, width=16, num_blocks=2, dropout=0.0))
    options = RecogniserTraining(epochs=12, learning_rate=0.02, batch_sec=6.0, max_turns=2)
    losses: list[float] = []
    epochs = list(train_recogniser(network, training, options, lambda _done, _total, loss: losses.append(loss)))
    assert epochs == list(range(1, 13))
    assert np.mean(losses[-10:]) < 0.2 * np.mean(losses[:10])
    assert measure_error_rate(network, unseen) <= 0.1


def test_the_same_seed_trains_the_same_network() -> None:
    weights = []
    for _ in range(2):
        torch.manual_seed(1)
        network = ConvCtc(ConvCtcConfig(characters="abcd", num_mels=NUM_MELS, width=8, num_blocks=1))
        tracks = random_tracks(6, np.random.default_rng(0))
        list(train_recogniser(network, tracks, RecogniserTraining(epochs=1, batch_sec=3.0), lambda *_: None))
        weights.append(network.head.weight.detach().clone())
    assert torch.equal(*weights)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("espeakng_loader")
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, SimulationConfig(calls=10, seed=5, brief=True), num_workers=1, report=lambda _done: None)
    return folder


class TestSimulatedCalls:
    def test_the_turns_have_the_true_words_and_the_sound_of_their_channel(self, corpus: Path) -> None:
        tracks = read_tracks(corpus, ["training", "validation", "test"], NUM_MELS)
        turns = [turn for track in tracks for turn in track]
        assert all(len(track) > 1 for track in tracks)
        assert 10 < len(tracks) <= 20  # a third of the calls has one channel
        for turn in turns:
            assert turn.text.endswith("。")
            assert 0.1 < len(turn.mels) / 100 / len(without_marks(turn.text)) < 0.6  # seconds a character
        # The loudest band is louder than the noise in the middle of a turn, so the channel is the right one.
        louder = [
            turn.mels.float().max(dim=0).values.mean() - turn.mels.float().min(dim=0).values.mean() for turn in turns
        ]
        assert min(louder) > 2.0

    def test_the_command_writes_a_recogniser_with_its_card(self, corpus: Path, tmp_path: Path) -> None:
        out = tmp_path / "recogniser"
        options = ["--corpus", str(corpus), "--out", str(out), "--epochs", "1", "--width", "8", "--num-blocks", "1"]
        assert main(["train-recogniser", *options]) == 0
        assert set(load_conv_ctc(out).config.characters) == set(find_characters(read_tracks(corpus, ["training"], 40)))
        assert "| 1 | " in (out / "README.md").read_text(encoding="utf-8")
        assert main(["train-recogniser", *options]) == 2  # the folder holds something

    def test_a_folder_without_a_corpus_is_wrong_usage(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is no corpus of simulate-calls"):
            read_tracks(tmp_path, ["training"], NUM_MELS)
