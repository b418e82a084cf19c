"""Calls, recipes and loops that the tests of the training loop share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msmtfn.inference.scorer import CallRounds
from msmtfn.labels import INTENTS
from msmtfn.model.base import CallNetwork
from msmtfn.model.network import MsmtFn
from msmtfn.training.augmentation import AugmentationConfig
from msmtfn.training.calls import LabelledCall
from msmtfn.training.loop import InMemoryCalls, Loop
from msmtfn.training.recipe import Recipe
from tests.conftest import make_tiny_config, make_tiny_network

CLS, SEP, A, B = 2, 3, 5, 6
NO_AUGMENTATION = AugmentationConfig(augment="none")
WITHOUT_DROPOUT = {"hidden_dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0, "feat_proj_dropout": 0.0}
Weights = dict[str, Tensor]


def make_recipe(**options: Any) -> Recipe:
    """A recipe of small steps, without augmentation and clipping, whose results can be computed by hand."""
    fields: dict[str, Any] = {
        "learning_rate": 1e-3,
        "frozen": "nothing",
        "max_epochs": 2,
        "max_grad_norm": 0.0,
        "augmentation": NO_AUGMENTATION,
    }
    return Recipe(**(fields | options))


def without_dropout(**options: Any) -> MsmtFn:
    """A tiny network that computes the same in training mode as in evaluation mode."""
    config = make_tiny_config()
    audio = config.audio.to_dict() | WITHOUT_DROPOUT
    text = config.text.to_dict() | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return make_tiny_network(audio_config=audio, text_config=text, dropout=0.0, attention_dropout=0.0, **options)


def call(number: int, *lengths: int, intent: str | None = None) -> LabelledCall:
    """A call with noise and some letters in rounds of these lengths, which depends on the number only."""
    rng = np.random.default_rng(number)
    samples = [rng.integers(-3000, 3000, length).astype(np.int16) for length in lengths]
    tokens = [np.array([CLS, *rng.integers(5, 15, 2 + index), SEP], np.int32) for index in range(len(lengths))]
    label = INTENTS.index(intent) if intent else number % 5
    return LabelledCall(f"c{number}", label, CallRounds(samples, tokens))


def call_saying(token: int, number: int) -> LabelledCall:
    """A call whose label is A if its token is `A`, and E if it is `B`."""
    noisy = call(number, 1_000, intent="A" if token == A else "E")
    return replace(noisy, rounds=CallRounds(noisy.rounds.samples, [np.array([CLS, token, SEP], np.int32)]))  # type: ignore[union-attr]


FIVE_CALLS = [call(0, 2_000, 900), call(1, 1_500), call(2, 700, 100, 1_200), call(3, 400), call(4, 3_000, 2_000)]
SEPARABLE = [call_saying(token, number) for number, token in enumerate([A, B] * 4)]


def make_loop(network: CallNetwork, recipe: Recipe, training: Sequence[LabelledCall], **options: Any) -> Loop:
    """A loop in one process over calls in memory, which also validate unless `validation` has others."""
    validation = options.pop("validation", training)
    return Loop(
        network,
        recipe,
        InMemoryCalls(training, validation, recipe.seed),
        steps_per_epoch=-(-len(training) // recipe.calls_per_step),
        training_intents=np.array([each.intent for each in training]),
        **options,
    )


def gradients(network: nn.Module) -> Weights:
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.grad is not None}


def gradient_of_a_step(recipe: Recipe, calls: Sequence[LabelledCall] = FIVE_CALLS) -> Weights:
    network = without_dropout()
    loop = make_loop(network, recipe, calls)
    network.train()
    loop.step(calls)
    return gradients(network)


def weights_of(network: nn.Module) -> Weights:
    return {name: weight.clone() for name, weight in network.state_dict().items()}


def equal(left: Weights, right: Weights) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def assert_close(left: Weights, right: Weights) -> None:
    assert left.keys() == right.keys()
    apart = {name: float((values - right[name]).abs().max()) for name, values in left.items()}
    assert {name: gap for name, gap in apart.items() if not gap <= 1e-5} == {}
