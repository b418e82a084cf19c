from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from msmtfn.model.checkpoint import pack_network
from msmtfn.model.network import MsmtFn
from msmtfn.training.prosody import NUM_FIGURES, SEGMENTS, ProsodyLearner, describe_prosody, load_state

RATE = 8000
LEVEL, SHARE, PITCH, MOVEMENT, PEAKS = range(5)  # of each segment of a round


def tone(seconds: float, hertz: float = 150.0, amplitude: float = 8000.0) -> np.ndarray:
    """A voice of constant pitch: a tone with overtones."""
    time = np.arange(round(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in (1, 2, 3))
    return np.asarray(amplitude * wave).astype(np.int16)


def segments(samples: np.ndarray) -> np.ndarray:
    """The features (8, 5) of the segments of a round."""
    return describe_prosody(samples, RATE)[: 5 * SEGMENTS].reshape(SEGMENTS, 5)


def test_every_round_has_finite_features() -> None:
    rng = np.random.default_rng(0)
    for samples in (tone(2.0), np.zeros(1600, np.int16), rng.integers(-9, 9, 250).astype(np.int16), tone(0.001)):
        figures = describe_prosody(samples, RATE)
        assert figures.shape == (NUM_FIGURES,)
        assert np.isfinite(figures).all()


@pytest.mark.parametrize("hertz", [100.0, 150.0, 300.0])
def test_the_pitch_of_a_voice_is_in_octaves(hertz: float) -> None:
    assert segments(tone(2.0, hertz))[:, PITCH] == pytest.approx(np.log2(hertz / 150), abs=0.05)
    assert segments(tone(2.0, hertz))[:, MOVEMENT] == pytest.approx(0, abs=0.05)


def test_a_change_of_pitch_is_found_in_its_segment() -> None:
    moving = segments(np.concatenate([tone(1.0, 100), tone(0.125, 100), tone(0.125, 200), tone(0.75, 200)]))[
        :, MOVEMENT
    ]
    assert moving.argmax() == 4
    assert moving[4] > 0.3


def test_half_the_amplitude_is_6_db_less() -> None:
    levels = segments(np.concatenate([tone(1.0), tone(1.0, amplitude=4000)]))[:, LEVEL]
    assert levels[1] - levels[6] == pytest.approx(6.02, abs=0.1)


def test_a_pause_has_no_active_frames_and_its_length_is_a_feature() -> None:
    samples = np.concatenate([tone(1.0), np.zeros(RATE, np.int16)])
    assert segments(samples)[:, SHARE].tolist() == pytest.approx([1, 1, 1, 1, 0, 0, 0, 0], abs=0.1)
    longest = describe_prosody(samples, RATE)[5 * SEGMENTS]
    assert np.exp(longest) == pytest.approx(100, abs=4)  # frames of 10 ms


def test_syllables_are_peaks_of_loudness() -> None:
    time = np.arange(2 * RATE) / RATE
    spoken = (tone(2.0) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))).astype(np.int16)
    assert segments(spoken)[:, PEAKS].mean() == pytest.approx(4 / 100, abs=0.01)  # four a second, of 100 frames


ROUNDS = [tone(0.5, hertz, amplitude) for hertz in (90, 140, 200, 320) for amplitude in (500, 2000, 8000)]


def make_learner(network: MsmtFn, rounds: list[np.ndarray], num_epochs: int, state: bytes = b"") -> ProsodyLearner:
    return ProsodyLearner(
        pack_network(network), lambda: [rounds], num_epochs=num_epochs, seed=0, threads=1, state=state
    )


def test_the_encoder_learns(tiny_network: Callable[..., MsmtFn]) -> None:
    too_short = np.zeros(3, np.int16)
    learner = make_learner(tiny_network(), [*ROUNDS, too_short], 20)
    errors = [learner.run_epoch()[0] for _ in range(20)]
    assert errors[-1] < 0.8 * errors[0]


def test_a_resumed_learner_ends_like_an_uninterrupted_one(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    uninterrupted = make_learner(network, ROUNDS, 3)
    *_, (expected_error, expected) = [uninterrupted.run_epoch() for _ in range(3)]
    _, state = make_learner(network, ROUNDS, 3).run_epoch()
    resumed = make_learner(network, ROUNDS, 3, state)
    *_, (error, last) = [resumed.run_epoch() for _ in range(2)]
    assert error == expected_error
    weights, expected_weights = load_state(last)["encoder"], load_state(expected)["encoder"]
    assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)


def test_rounds_shorter_than_a_frame_are_rejected(tiny_network: Callable[..., MsmtFn]) -> None:
    with pytest.raises(ValueError, match="no round is as long as a frame"):
        make_learner(tiny_network(), [np.zeros(3, np.int16)], 1)
