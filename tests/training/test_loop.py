from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msmtfn.model.losses import multi_task_loss
from msmtfn.model.network import MsmtFn
from msmtfn.training.calls import collate
from msmtfn.training.events import StepDone
from msmtfn.training.loop import InMemoryCalls, Loop, NotFiniteError
from msmtfn.training.recipe import Recipe
from tests.conftest import make_tiny_network
from tests.training.loop_cases import (
    FIVE_CALLS,
    SEPARABLE,
    Weights,
    assert_close,
    call,
    equal,
    gradient_of_a_step,
    gradients,
    make_loop,
    make_recipe,
    weights_of,
    without_dropout,
)


def test_the_loss_falls_and_separable_classes_are_learned() -> None:
    recipe = make_recipe(batch_calls=4, accumulation_steps=1, max_epochs=12, learning_rate=3e-3)
    loop = make_loop(make_tiny_network(dropout=0.0, attention_dropout=0.0), recipe, SEPARABLE)
    loop.run()
    assert loop.epochs[-1].training_loss < loop.epochs[0].training_loss / 2
    best = [each for each in loop.epochs if each.is_best][-1]
    assert best.accuracy == {"five": 1.0, "four": 1.0, "three": 1.0, "two": 1.0}


@pytest.mark.parametrize("frozen", ["nothing", "convolutions"])
def test_every_trainable_weight_gets_a_gradient_and_no_frozen_one_does(frozen: str) -> None:
    network = make_tiny_network()
    loop = make_loop(network, make_recipe(frozen=frozen, batch_calls=5), FIVE_CALLS)
    network.train()
    loop.step(FIVE_CALLS)
    received = {name for name, gradient in gradients(network).items() if gradient.count_nonzero()}
    still = "audio_encoder.model.feature_extractor." if frozen == "convolutions" else "none"
    assert received == {name for name, _ in network.named_parameters() if not name.startswith(still)}


def test_frozen_encoders_stay_in_evaluation_mode() -> None:
    network = make_tiny_network()
    loop = make_loop(network, make_recipe(frozen="encoders"), FIVE_CALLS)
    loop.learner.train()
    assert network.fusion.training
    assert not any(module.training for module in (*network.audio_encoder.modules(), *network.text_encoder.modules()))


def test_a_step_returns_the_mean_loss_of_its_calls() -> None:
    network = without_dropout()
    expected = [make_loop(copy.deepcopy(network), make_recipe(), [each]).step([each]) for each in FIVE_CALLS]
    loss = make_loop(network, make_recipe(), FIVE_CALLS).step(FIVE_CALLS)
    assert loss == pytest.approx(sum(expected) / 5, abs=1e-5)


def test_accumulated_batches_have_the_gradient_of_one_large_batch() -> None:
    large = gradient_of_a_step(make_recipe(batch_calls=5, samples_per_batch=1_000_000))
    assert_close(gradient_of_a_step(make_recipe(batch_calls=2, samples_per_batch=1_000_000)), large)


def test_groups_of_rounds_with_recomputation_have_the_gradient_of_one_large_batch() -> None:
    large = gradient_of_a_step(make_recipe(batch_calls=5, samples_per_batch=1_000_000))
    assert_close(gradient_of_a_step(make_recipe(batch_calls=5, samples_per_batch=1_300)), large)


def test_recomputed_rounds_have_the_same_dropout() -> None:
    network = make_tiny_network()
    loop = make_loop(network, make_recipe(samples_per_batch=1), FIVE_CALLS)
    network.train()
    batch = collate(FIVE_CALLS[2:3], 0)
    torch.manual_seed(1)
    loop.learner(batch).backward()
    recomputed = gradients(network)
    network.zero_grad()
    torch.manual_seed(1)
    longest_first = [np.array([2]), np.array([0]), np.array([1])]  # of 700, 100 and 1,200 samples, one at a time
    vectors = torch.cat([batch.vectors(network, group) for group in longest_first])[[1, 2, 0]]
    logits = network.classify_calls(vectors, [3])
    multi_task_loss(logits, batch.intents, reduction="sum").backward()
    assert_close(recomputed, gradients(network))


def contrary_loop(network: MsmtFn) -> Loop:
    """A loop whose validation calls contradict the training calls, so that an early epoch is the best."""
    contrary = [replace(each, intent=4 - each.intent) for each in SEPARABLE]
    recipe = make_recipe(max_epochs=30, patience=2, learning_rate=3e-3, batch_calls=4, accumulation_steps=1)
    return make_loop(network, recipe, SEPARABLE, validation=contrary)


def test_training_stops_when_its_patience_is_exhausted() -> None:
    loop = contrary_loop(without_dropout())
    loop.run()
    losses = [each.validation_loss for each in loop.epochs]
    assert len(losses) == losses.index(min(losses)) + 1 + 2 < 30
    assert [each.is_best for each in loop.epochs] == [loss < min([*losses[:n], 99]) for n, loss in enumerate(losses)]


def test_the_weights_of_the_best_epoch_are_loaded_at_the_end() -> None:
    loop = contrary_loop(without_dropout())
    after: list[Weights] = []
    loop.run(lambda loop: after.append(weights_of(loop.network)))
    losses = [each.validation_loss for each in loop.epochs]
    assert equal(weights_of(loop.network), after[losses.index(min(losses))])
    assert not equal(weights_of(loop.network), after[-1])
    assert not loop.network.training


@functools.cache
def uninterrupted(recipe: Recipe) -> tuple[Weights, list[dict[str, Any]]]:
    network = make_tiny_network()
    loop = make_loop(network, recipe, FIVE_CALLS)
    states = [copy.deepcopy(loop.state_dict()) for _ in range(recipe.max_epochs) if loop.run_epoch()]
    return weights_of(network), states


@pytest.mark.parametrize("saved", [False, True])
def test_a_resumed_loop_ends_like_an_uninterrupted_one(tmp_path: Path, *, saved: bool) -> None:
    recipe = make_recipe(max_epochs=3, schedule="one_cycle", batch_calls=2, accumulation_steps=1, modality_dropout=0.25)
    expected, states = uninterrupted(recipe)
    state = copy.deepcopy(states[0])
    if saved:
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    network = make_tiny_network(seed=5)
    loop = make_loop(network, recipe, FIVE_CALLS)
    loop.load_state_dict(state)
    torch.rand(7)  # earlier draws must not matter
    loop.run_epoch()
    loop.run_epoch()
    assert equal(weights_of(network), expected)
    assert [(each.epoch, each.validation_loss) for each in loop.epochs] == [
        (each["epoch"], each["validation_loss"]) for each in states[-1]["epochs"]
    ]


def test_a_loop_resumed_after_its_last_epoch_loads_the_best_weights() -> None:
    recipe = make_recipe(max_epochs=2)
    _, states = uninterrupted(recipe)
    network = make_tiny_network(seed=5)
    loop = make_loop(network, recipe, FIVE_CALLS)
    loop.load_state_dict(states[-1])
    loop.run()
    assert len(loop.epochs) == 2
    assert equal(weights_of(network), states[-1]["best"])


def test_another_seed_gives_another_dropout() -> None:
    losses = []
    for seed in (0, 1):
        loop = make_loop(make_tiny_network(), make_recipe(seed=seed, batch_calls=5), FIVE_CALLS)
        losses.append(loop.run_epoch().training_loss)
    assert losses[0] != losses[1]


def test_a_nan_loss_ends_training_and_changes_no_weight() -> None:
    network = without_dropout()
    with torch.no_grad():
        network.get_parameter("heads.heads.two.1.bias")[0] = float("nan")
    loop = make_loop(network, make_recipe(), FIVE_CALLS)
    before = {name: weight.clone() for name, weight in weights_of(network).items() if weight.isfinite().all()}
    with pytest.raises(NotFiniteError, match="the loss is nan in epoch 0"):
        loop.run()
    after = weights_of(network)
    assert equal(before, {name: after[name] for name in before})


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
def test_an_infinite_gradient_ends_training_and_changes_no_weight(max_grad_norm: float) -> None:
    network = without_dropout()
    network.get_parameter("heads.heads.two.1.bias").register_hook(lambda gradient: gradient * float("inf"))
    loop = make_loop(network, make_recipe(max_grad_norm=max_grad_norm), FIVE_CALLS)
    before = {name: weight.clone() for name, weight in weights_of(network).items()}
    with pytest.raises(NotFiniteError, match="a gradient is not finite in epoch 0"):
        loop.run()
    assert equal(before, weights_of(network))


def test_a_nan_validation_loss_ends_training(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop(without_dropout(), make_recipe(), FIVE_CALLS)
    monkeypatch.setattr(loop, "_validate", lambda: (float("nan"), {}))
    with pytest.raises(NotFiniteError, match="the validation loss is nan in epoch 0"):
        loop.run()
    assert loop.best == {}


def constant_network(**biases: list[float]) -> MsmtFn:
    """A network whose heads give the same logits for every call; 0 in the tasks that are not named."""
    network = without_dropout(multi_task=len(biases) != 1)
    with torch.no_grad():
        for name, weight in network.heads.named_parameters():
            weight.zero_()
            for task, values in biases.items():
                if name == f"heads.{task}.1.bias":
                    weight.copy_(torch.tensor(values))
    return network


def test_a_single_task_network_learns_the_five_classes_only() -> None:
    network = constant_network(five=[1.0, 0.0, 0.0, 0.0, 0.0])
    loss = make_loop(network, make_recipe(), FIVE_CALLS[:1]).step(FIVE_CALLS[:1])  # which is an A
    assert loss == pytest.approx(np.log(np.e + 4) - 1, abs=1e-5)


def test_validation_computes_the_mean_loss_and_the_accuracy_of_each_task() -> None:
    logits: dict[str, list[float]] = {"five": [0, 0, 1, 0, 0], "four": [0, 0, 1, 0], "three": [0, 1, 0], "two": [0, 1]}
    recipe = make_recipe(learning_rate=1e-12)
    epoch = make_loop(constant_network(**logits), recipe, FIVE_CALLS).run_epoch()  # A to E, one each
    assert epoch.accuracy == pytest.approx({"five": 0.2, "four": 0.2, "three": 0.4, "two": 0.4})
    loss = sum(np.log(np.e + others) for others in (4, 3, 2, 1)) - (0.2 + 0.2 + 0.4 + 0.4)
    assert epoch.validation_loss == pytest.approx(loss, abs=1e-4)


def test_class_weights_multiply_the_losses() -> None:
    training = [call(number, 500, intent=intent) for number, intent in enumerate("AAAB")]
    loop = make_loop(constant_network(), make_recipe(class_weights="balanced"), training)
    # A call of A weighs 4 / (2 * 3), one of B 4 / (2 * 1); in the task of two classes both are ABC and weigh 1.
    expected = 2 * (np.log(5) + np.log(4) + np.log(3)) + np.log(2)
    assert loop.step(training[3:]) == pytest.approx(expected, abs=1e-5)


def test_gradients_are_clipped_to_the_largest_norm() -> None:
    clipped = gradient_of_a_step(make_recipe(batch_calls=5, max_grad_norm=0.01))
    norm = torch.stack([gradient.square().sum() for gradient in clipped.values()]).sum().sqrt()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


def test_every_epoch_yields_all_training_calls_once_in_another_order() -> None:
    calls = [call(number, 10) for number in range(20)]
    held = InMemoryCalls(calls, [], seed=3)
    orders = [[each.call_id for step in held.training(epoch, 6) for each in step] for epoch in (0, 0, 1)]
    assert sorted(orders[0]) == sorted(each.call_id for each in calls)
    assert orders[0] == orders[1] != orders[2]
    assert [len(step) for step in held.training(0, 6)] == [6, 6, 6, 2]


def test_every_step_is_reported_with_its_place_in_the_epoch() -> None:
    steps: list[StepDone] = []
    recipe = make_recipe(batch_calls=2, accumulation_steps=1)
    make_loop(without_dropout(), recipe, FIVE_CALLS, on_step=steps.append).run_epoch()
    assert [(step.epoch, step.step, step.num_steps) for step in steps] == [(0, 1, 3), (0, 2, 3), (0, 3, 3)]
    assert all(step.loss > 0 and step.rounds_per_sec > 0 for step in steps)
