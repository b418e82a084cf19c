from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from msmtfn.labels import INTENTS
from msmtfn.model.losses import multi_task_loss
from msmtfn.model.network import MsmtFn
from msmtfn.scoring.scorer import CallRounds
from msmtfn.training.augmentation import AugmentationConfig, Augmenter
from msmtfn.training.calls import EmbeddedRounds, LabelledCall, collate, embedded_calls
from msmtfn.training.embedding import Embedder
from msmtfn.training.events import StepDone
from msmtfn.training.loop import HeldCalls, Loop, NotFiniteError
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


def make_loop(network: MsmtFn, recipe: Recipe, training: Sequence[LabelledCall], **options: Any) -> Loop:
    """A loop in one process over calls in memory, which also validate unless `validation` has others."""
    validation = options.pop("validation", training)
    return Loop(
        network,
        recipe,
        HeldCalls(training, validation, recipe.seed),
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


def two_process_recipe(**options: Any) -> Recipe:
    """A recipe that makes two batches of three calls, the larger one in groups, and one batch of two calls."""
    return make_recipe(
        batch_calls=2, accumulation_steps=2, samples_per_batch=2_500, class_weights="balanced", **options
    )


def process(rank: int, folder: str) -> None:
    """Run one of two processes: a step on its share of the calls, then an epoch."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    result: dict[str, Any] = {}
    share = FIVE_CALLS[:3] if rank == 0 else FIVE_CALLS[3:]
    for frozen in ("nothing", "convolutions"):
        network = without_dropout()
        loop = Loop(
            network,
            two_process_recipe(frozen=frozen),
            HeldCalls(share, share, 0),
            steps_per_epoch=1,
            training_intents=np.array([each.intent for each in FIVE_CALLS]),
        )
        assert isinstance(loop.learner, DistributedDataParallel)
        network.train()
        loss = loop.step(share)
        result[frozen] = {"loss": loss, "gradient": gradients(network)}
        epoch = loop.run_epoch()
        result[frozen] |= {"weights": weights_of(network), "epoch": epoch.as_row()}
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of two processes with unequal shares of the calls, by rank."""
    folder = tmp_path_factory.mktemp("processes")
    spawn(process, (str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@functools.cache
def one_process(frozen: str) -> dict[str, Any]:
    """The result of one process with all calls in one batch."""
    network = without_dropout()
    recipe = replace(two_process_recipe(frozen=frozen), batch_calls=5, samples_per_batch=1_000_000)
    loop = make_loop(network, recipe, FIVE_CALLS)
    network.train()
    loss = loop.step(FIVE_CALLS)
    result: dict[str, Any] = {"loss": loss, "gradient": gradients(network)}
    return result | {"epoch": loop.run_epoch().as_row()}


@pytest.mark.parametrize("frozen", ["nothing", "convolutions"])
def test_two_processes_with_unequal_shares_have_the_gradient_of_one_with_all_calls(
    shares: list[dict[str, Any]], frozen: str
) -> None:
    for rank in range(2):
        assert_close(shares[rank][frozen]["gradient"], one_process(frozen)["gradient"])
        assert shares[rank][frozen]["loss"] == pytest.approx(one_process(frozen)["loss"], abs=1e-5)


@pytest.mark.parametrize("frozen", ["nothing", "convolutions"])
def test_two_processes_have_the_same_weights_after_an_epoch(shares: list[dict[str, Any]], frozen: str) -> None:
    first, second = (each[frozen]["weights"] for each in shares)
    assert equal(first, second)
    assert not equal(first, weights_of(without_dropout()))


def test_two_processes_report_the_figures_of_one(shares: list[dict[str, Any]]) -> None:
    expected = one_process("nothing")["epoch"]
    for result in shares:
        epoch = result["nothing"]["epoch"]
        for name in ("training_loss", "validation_loss", "accuracy_five", "accuracy_two"):
            assert epoch[name] == pytest.approx(expected[name], abs=1e-3), name


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
    original = network.read_rounds

    def read(input_ids: Tensor, num_tokens: Tensor) -> tuple[Tensor, Tensor]:
        lengths.append((network.training, num_tokens.tolist()))
        return original(input_ids, num_tokens)

    network.read_rounds = read  # type: ignore[method-assign]
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


def test_every_epoch_yields_all_training_calls_once_in_another_order() -> None:
    calls = [call(number, 10) for number in range(20)]
    held = HeldCalls(calls, [], seed=3)
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
