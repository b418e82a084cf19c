"""The training loop with MMML: the same calls, the same steps, its own loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from msmtfn.model.mmml import Mmml
from msmtfn.training.calls import collate
from msmtfn.training.recipe import MMML_RECIPE
from tests.conftest import TINY_FIELDS, make_tiny_mmml
from tests.training.loop_cases import (
    FIVE_CALLS,
    SEPARABLE,
    WITHOUT_DROPOUT,
    assert_close,
    gradients,
    make_loop,
    make_recipe,
)


def without_dropout() -> Mmml:
    """A tiny MMML that computes the same in training mode as in evaluation mode."""
    audio = TINY_FIELDS["audio_config"] | WITHOUT_DROPOUT
    text = TINY_FIELDS["text_config"] | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return make_tiny_mmml(audio_config=audio, text_config=text, dropout=0.0, attention_dropout=0.0)


def test_separable_classes_are_learned() -> None:
    recipe = make_recipe(batch_calls=4, accumulation_steps=1, max_epochs=12, learning_rate=3e-3)
    loop = make_loop(make_tiny_mmml(dropout=0.0, attention_dropout=0.0), recipe, SEPARABLE)
    loop.run()
    assert loop.epochs[-1].training_loss < loop.epochs[0].training_loss / 2
    best = [each for each in loop.epochs if each.is_best][-1]
    assert best.accuracy == {"five": 1.0, "four": 1.0, "three": 1.0, "two": 1.0}


def test_the_losses_of_training_and_validation_are_the_sum_of_three() -> None:
    network = without_dropout()
    batch = collate(FIVE_CALLS, 0)
    with torch.no_grad():
        vectors = batch.vectors(network, np.arange(len(batch.audio_lengths)))
        expected = network.compute_loss(vectors, batch.rounds_per_call, batch.intents).item()
    epoch = make_loop(network, make_recipe(learning_rate=1e-12), FIVE_CALLS).run_epoch()
    assert (epoch.training_loss, epoch.validation_loss) == pytest.approx((expected, expected), abs=1e-4)


def test_the_gradient_does_not_depend_on_how_the_rounds_are_grouped() -> None:
    found = []
    for samples in (1_000_000, 1_300):
        network = without_dropout()
        loop = make_loop(network, make_recipe(batch_calls=5, samples_per_batch=samples), FIVE_CALLS)
        network.train()
        loop.step(FIVE_CALLS)
        found.append(gradients(network))
    assert_close(*found)


def test_the_recipe_is_that_of_the_description() -> None:
    recipe = MMML_RECIPE
    assert (recipe.learning_rate, recipe.calls_per_step, recipe.patience, recipe.seed) == (1e-5, 8, 8, 1)
    assert (recipe.frozen, recipe.augmentation.augment, recipe.schedule) == ("convolutions", "none", "constant")
