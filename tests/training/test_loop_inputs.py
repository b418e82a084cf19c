from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from msmtfn.inference.scorer import CallRounds
from msmtfn.labels import INTENTS
from msmtfn.model.network import MsmtFn
from msmtfn.training.augmentation import Augmenter
from msmtfn.training.calls import EmbeddedRounds, LabelledCall, embedded_calls
from msmtfn.training.embedding import Embedder
from tests.conftest import make_tiny_network
from tests.training.loop_cases import (
    FIVE_CALLS,
    call,
    gradients,
    make_loop,
    make_recipe,
    weights_of,
    without_dropout,
)


class Recorder(Augmenter):
    """An augmenter that records its calls and silences every round."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int]] = []

    def augment(self, call_id: str, epoch: int, call: CallRounds) -> CallRounds:
        self.asked.append((call_id, epoch))
        return CallRounds([np.zeros_like(each) for each in call.samples], call.tokens)


@dataclass(frozen=True)
class Seen:
    """A round as the network received it."""

    in_training: bool
    loudest: float
    num_samples: int
    num_tokens: int


def watch(network: MsmtFn) -> list[Seen]:
    """Record the rounds that the network receives from now on."""
    seen: list[Seen] = []
    original = network.encode_rounds

    def encode(audio: Tensor, samples: Tensor, text: Tensor, tokens: Tensor, *, padded: bool = True) -> Tensor:
        for waveform, num_samples, num_tokens in zip(audio, samples.tolist(), tokens.tolist(), strict=True):
            seen.append(Seen(network.training, float(waveform.abs().max()), num_samples, num_tokens))
        return original(audio, samples, text, tokens, padded=padded)

    network.encode_rounds = encode  # type: ignore[method-assign, assignment]
    return seen


def test_calls_are_augmented_in_training_and_not_in_validation() -> None:
    recorder, network = Recorder(), without_dropout()
    loop = make_loop(network, make_recipe(batch_calls=2, accumulation_steps=1), FIVE_CALLS, augmenter=recorder)
    seen = watch(network)
    loop.run_epoch()
    loop.run_epoch()
    assert {(each.in_training, each.loudest > 0) for each in seen} == {(True, False), (False, True)}
    assert sorted(recorder.asked) == sorted((f"c{number}", epoch) for number in range(5) for epoch in (0, 1))


class TextRemover(Augmenter):
    """An augmenter that removes the text."""

    def __init__(self) -> None:
        pass

    def augment(self, call_id: str, epoch: int, call: CallRounds) -> CallRounds:
        return CallRounds(call.samples, [each[:0] for each in call.tokens])


def test_text_with_cached_audio_states_is_augmented_in_training_and_not_in_validation() -> None:
    rng, network = np.random.default_rng(0), without_dropout()
    states = [rng.normal(size=(3, 24)).astype(np.float16)]
    calls = [LabelledCall(f"c{number}", number, EmbeddedRounds(states, [np.full(4, 7, np.int32)])) for number in (0, 1)]
    lengths: list[tuple[bool, list[int]]] = []
    original = network.encode_text

    def read(input_ids: Tensor, num_tokens: Tensor) -> tuple[Tensor, Tensor]:
        lengths.append((network.training, num_tokens.tolist()))
        return original(input_ids, num_tokens)

    network.encode_text = read  # type: ignore[method-assign]
    recipe = make_recipe(frozen="audio", batch_calls=2, samples_per_batch=100_000)
    make_loop(network, recipe, calls, augmenter=TextRemover()).run_epoch()
    assert lengths == [(True, [0, 0]), (False, [4, 4])]


def test_cached_audio_states_give_the_same_gradient_as_the_samples() -> None:
    network = without_dropout()
    columns = {
        "call_id": [each.call_id for each in FIVE_CALLS],
        "intent": [INTENTS[each.intent] for each in FIVE_CALLS],
        "samples": [np.concatenate(rounds_of(each).samples) for each in FIVE_CALLS],
        "round_samples": [[len(samples) for samples in rounds_of(each).samples] for each in FIVE_CALLS],
        "tokens": [np.concatenate(rounds_of(each).tokens) for each in FIVE_CALLS],
        "round_tokens": [[len(tokens) for tokens in rounds_of(each).tokens] for each in FIVE_CALLS],
    }
    cached = embedded_calls(Embedder(network, with_text=False).embed_batch(pa.table(columns)), 24, None)
    of_calls = []
    for calls in (FIVE_CALLS, cached):
        learning = copy.deepcopy(network)
        make_loop(learning, make_recipe(frozen="audio", batch_calls=5, samples_per_batch=100_000), calls).step(calls)
        of_calls.append(gradients(learning))
    assert of_calls[0].keys() == of_calls[1].keys()
    for name, gradient in of_calls[0].items():  # the states are float16
        torch.testing.assert_close(of_calls[1][name], gradient, atol=2e-3, rtol=2e-2, msg=name)


def rounds_of(each: LabelledCall) -> CallRounds:
    assert isinstance(each.rounds, CallRounds)
    return each.rounds


def rounds_of_a_step(modality_dropout: float) -> list[Seen]:
    """The 160 rounds that the network receives in one training step."""
    network, calls = without_dropout(), [call(number, 500, 600, 700, 800) for number in range(40)]
    loop = make_loop(network, make_recipe(batch_calls=40, modality_dropout=modality_dropout), calls)
    seen = watch(network)
    torch.manual_seed(0)
    loop.step(calls)
    return seen


def test_modality_dropout_drops_the_audio_or_the_text_of_a_round_and_never_both() -> None:
    seen = rounds_of_a_step(0.25)
    assert len(seen) == 160
    assert all(each.num_samples or each.num_tokens for each in seen)
    assert 18 < sum(each.num_samples == 0 for each in seen) < 62  # 40, and four standard deviations of 5.5
    assert 18 < sum(each.num_tokens == 0 for each in seen) < 62


def test_a_modality_dropout_of_one_half_leaves_each_round_one_modality() -> None:
    assert all((each.num_samples == 0) != (each.num_tokens == 0) for each in rounds_of_a_step(0.5))


def test_no_modality_is_dropped_in_validation() -> None:
    network = without_dropout()
    loop = make_loop(network, make_recipe(modality_dropout=0.5), FIVE_CALLS)
    seen = watch(network)
    list(loop.predict(loop.source.validation(16)))
    assert len(seen) == 9
    assert all(each.num_samples and each.num_tokens for each in seen)


def test_embedded_calls_train_only_the_network_behind_the_encoders() -> None:
    rng = np.random.default_rng(0)
    calls = [
        LabelledCall(
            f"c{number}",
            number,
            EmbeddedRounds(
                [rng.normal(size=(frames, 24)).astype(np.float16) for frames in (3, 0)],
                [rng.normal(size=(tokens, 40)).astype(np.float16) for tokens in (0, 4)],
            ),
        )
        for number in range(5)
    ]
    network = make_tiny_network()
    before = weights_of(network)
    make_loop(network, make_recipe(frozen="encoders"), calls).run_epoch()
    changed = {name for name, weight in weights_of(network).items() if not torch.equal(weight, before[name])}
    assert changed == {name for name, _ in network.named_parameters() if "encoder." not in name}
