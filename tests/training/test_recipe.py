from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from msmtfn.evaluation.metrics import class_targets
from msmtfn.labels import TASKS
from msmtfn.training.augmentation import AugmentationConfig
from msmtfn.training.recipe import (
    SMALL_RECIPE,
    Frozen,
    Recipe,
    balanced_weights,
    count_trainable,
    freeze,
    make_optimizer,
)
from tests.conftest import make_tiny_network


def learning_rates(num_steps: int, **options: Any) -> list[float]:
    """The learning rate of each step."""
    optimizer, schedule = make_optimizer(nn.Linear(1, 1), Recipe(**options), num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def frozen_weights(frozen: Frozen) -> set[str]:
    """The names of the weights that are frozen."""
    network = make_tiny_network()
    freeze(network, frozen)
    return {name for name, weight in network.named_parameters() if not weight.requires_grad}


def names(*prefixes: str) -> set[str]:
    return {name for name, _ in make_tiny_network().named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", -1e-5),
        ("learning_rate", float("nan")),
        ("batch_calls", 0),
        ("accumulation_steps", 0),
        ("max_epochs", 0),
        ("patience", 0),
        ("weight_decay", -0.1),
        ("weight_decay", float("nan")),
        ("max_grad_norm", -1.0),
        ("samples_per_batch", -1),
        ("seed", -1),
        ("warmup_share", 0.0),
        ("warmup_share", 1.0),
        ("modality_dropout", -0.1),
        ("modality_dropout", 0.6),
    ],
)
def test_a_number_out_of_range_is_rejected_by_name(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} is {value}; it must be"):
        Recipe(**{name: value})  # type: ignore[arg-type]


def test_frozen_encoders_cannot_be_combined_with_augmentation() -> None:
    with pytest.raises(ValueError, match=r"^augment is 'both'; it must be 'none' with frozen encoders"):
        Recipe(frozen="encoders")
    Recipe(frozen="encoders", augmentation=AugmentationConfig(augment="none"))


def test_a_step_has_the_calls_of_all_its_batches() -> None:
    assert Recipe(batch_calls=3, accumulation_steps=5).calls_per_step == 15


def test_every_weight_is_trainable_if_nothing_is_frozen() -> None:
    assert frozen_weights("nothing") == set()


def test_convolutions_freezes_those_of_the_audio_encoder_only() -> None:
    convolutions = names("audio_encoder.model.feature_extractor.")
    assert convolutions
    assert frozen_weights("convolutions") == convolutions


def test_audio_freezes_the_whole_audio_encoder_only() -> None:
    assert frozen_weights("audio") == names("audio_encoder.")


def test_encoders_freezes_both_encoders_only() -> None:
    assert frozen_weights("encoders") == names("audio_encoder.", "text_encoder.")


def test_the_optimizer_has_the_trainable_weights_only() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    network[0].requires_grad_(False)
    optimizer, _ = make_optimizer(network, Recipe(learning_rate=0.5, weight_decay=0.25), 1)
    matrices, vectors = optimizer.param_groups
    assert [weight.shape for weight in matrices["params"]] == [(1, 2)]
    assert [weight.shape for weight in vectors["params"]] == [(1,)]
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0.25), (0.5, 0.0)]
    assert count_trainable(network.parameters()) == 3


def test_only_matrices_decay() -> None:
    network = make_tiny_network()
    _, vectors = make_optimizer(network, Recipe(), 1)[0].param_groups
    spared = {id(weight) for weight in vectors["params"]}
    names = {name for name, weight in network.named_parameters() if id(weight) in spared}
    assert {"fusion.bottleneck.tokens", "fusion.text_token.token", "fusion.bottleneck.norm.weight"} <= names
    assert {name for name, weight in network.named_parameters() if weight.ndim < 2} == names - {
        "fusion.bottleneck.tokens"
    }


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("decoupled", 1.6),  # 2 - 0.5 * 0.4 * 2, and no gradient
        ("l2", 1.5),  # the gradient is 0.4 * 2, and Adam's first step is the learning rate against its sign
    ],
)
def test_weight_decay_is_decoupled_or_added_to_the_gradient(form: str, expected: float) -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 2.0)
    recipe = Recipe(learning_rate=0.5, weight_decay=0.4, weight_decay_form=form)  # type: ignore[arg-type]
    optimizer, _ = make_optimizer(layer, recipe, 1)
    layer.weight.grad = torch.zeros(1, 1)
    optimizer.step()
    assert layer.weight.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("cycled", "expected"), [(False, 0.9), (True, 0.95)])
def test_one_cycle_leaves_beta1_alone_unless_asked(cycled: bool, expected: float) -> None:
    recipe = Recipe(schedule="one_cycle", cycle_momentum=cycled)
    optimizer, _ = make_optimizer(nn.Linear(1, 1), recipe, 10)
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(expected)


def test_a_constant_schedule_keeps_the_learning_rate() -> None:
    assert learning_rates(4, learning_rate=0.5) == [0.5] * 4


def test_one_cycle_rises_from_a_25th_to_the_learning_rate_and_falls_to_almost_zero() -> None:
    rates = learning_rates(19, schedule="one_cycle", learning_rate=1.0, warmup_share=0.25)  # of 20: steps 0 to 4
    assert rates[0] == pytest.approx(0.04)
    assert rates[2] == pytest.approx(0.52)  # halfway along a cosine
    assert rates[4] == pytest.approx(1.0)
    assert rates[1:5] == sorted(rates[1:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] < 0.02


@pytest.mark.parametrize(("num_steps", "warmup_share"), [(1, 0.1), (1, 0.5), (2, 0.1), (3, 0.25), (9, 0.1)])
def test_one_cycle_works_with_any_number_of_steps(num_steps: int, warmup_share: float) -> None:
    rates = learning_rates(num_steps, schedule="one_cycle", learning_rate=1.0, warmup_share=warmup_share)
    assert rates[0] == pytest.approx(0.04)
    assert all(0 < rate <= 1.0 for rate in rates)


def test_balanced_weights_are_inversely_proportional_to_the_calls_of_a_class() -> None:
    weights = balanced_weights(np.array([0, 0, 0, 0, 1, 1, 3, 4]))  # A 4, B 2, D 1, E 1 of 8 calls
    assert weights["five"][[0, 1, 3, 4]].tolist() == [0.5, 1.0, 2.0, 2.0]  # 8 / (4 classes * count)
    torch.testing.assert_close(weights["three"], torch.tensor([8 / 12, 8 / 6, 8 / 6]))  # A 4, BC 2, DE 2
    torch.testing.assert_close(weights["two"], torch.tensor([8 / 12, 8 / 4]))  # ABC 6, DE 2


@pytest.mark.parametrize("task", TASKS)
def test_the_mean_balanced_weight_of_a_call_is_1(task: str) -> None:
    intents = np.array([0, 0, 0, 2, 2, 4])
    weights = balanced_weights(intents)[task]
    assert float(weights[class_targets(task, intents)].mean()) == pytest.approx(1.0)


def test_the_small_recipe_pretrains_the_audio_encoder_and_then_freezes_it() -> None:
    assert SMALL_RECIPE.prosody_epochs > 0
    assert SMALL_RECIPE.frozen == "audio"
    assert SMALL_RECIPE.learning_rate > Recipe().learning_rate
