from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from msmtfn.model.context import RoundContext


@pytest.fixture
def context() -> RoundContext:
    """Make a context of two layers of width 5 over vectors of width 3."""
    torch.manual_seed(0)
    return RoundContext(input_size=3, context_size=5, num_layers=2, dropout=0.3).train(False)


@pytest.fixture
def vectors() -> Tensor:
    """Make the vectors of six rounds."""
    return torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_a_calls_vector_is_the_final_states_in_both_directions() -> None:
    context = RoundContext(input_size=1, context_size=1, num_layers=1, dropout=0.0)
    for name, weight in context.gru.named_parameters():
        weight.zero_()
        if name.startswith("weight_ih"):
            weight[2] = 1.0  # weight of the new state; those of the two gates come first
    # With zero weights both gates are 1/2, so a state is half of tanh(x) and half of the previous state.
    one, two = math.tanh(1.0), math.tanh(2.0)
    (call,) = context(torch.tensor([[1.0], [2.0]]), [2])
    assert call.tolist() == pytest.approx([two / 2 + one / 4, one / 2 + two / 4], abs=1e-6)


@torch.no_grad()
def test_two_layers_give_the_final_states_of_the_second_layer(context: RoundContext, vectors: Tensor) -> None:
    outputs, _ = context.gru(vectors[None])
    # The forward direction ends at the last round, the backward one at the first.
    expected = torch.cat([outputs[0, -1, :5], outputs[0, 0, 5:]])
    torch.testing.assert_close(context(vectors, [6])[0], expected)


@torch.no_grad()
def test_a_calls_vector_has_the_width_of_both_directions(context: RoundContext, vectors: Tensor) -> None:
    assert context.output_size == 10
    assert context(vectors, [1, 3, 2]).shape == (3, 10)


@torch.no_grad()
def test_the_order_of_a_calls_rounds_matters(context: RoundContext, vectors: Tensor) -> None:
    assert (context(vectors, [6]) - context(vectors.flip(0), [6])).abs().max() > 1e-3


@pytest.mark.parametrize("index", range(6))
@torch.no_grad()
def test_every_round_changes_the_calls_vector(context: RoundContext, vectors: Tensor, index: int) -> None:
    changed = vectors.clone()
    changed[index] += 1.0
    assert (context(vectors, [6]) - context(changed, [6])).abs().max() > 1e-4


@torch.no_grad()
def test_a_calls_vector_is_the_same_alone_and_beside_longer_and_shorter_calls(
    context: RoundContext, vectors: Tensor
) -> None:
    together = context(vectors, [1, 3, 2])
    alone = [context(vectors[:1], [1]), context(vectors[1:4], [3]), context(vectors[4:], [2])]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


@torch.no_grad()
def test_calls_keep_their_order(context: RoundContext, vectors: Tensor) -> None:
    first, second = context(vectors, [2, 4])
    turned = context(torch.cat([vectors[2:], vectors[:2]]), [4, 2])
    torch.testing.assert_close(turned, torch.stack([second, first]), atol=1e-6, rtol=0)


def test_dropout_is_applied_between_the_layers_in_training(context: RoundContext, vectors: Tensor) -> None:
    assert not torch.equal(context.train()(vectors, [6]), context(vectors, [6]))


@pytest.mark.parametrize("rounds_per_call", [[5], [7], [3, 4], [0, 6]])
def test_numbers_of_rounds_that_do_not_match_the_vectors_are_refused(
    context: RoundContext, vectors: Tensor, rounds_per_call: list[int]
) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        context(vectors, rounds_per_call)


# ---- without layers


def test_without_layers_a_calls_vector_is_the_mean_of_its_rounds() -> None:
    context = RoundContext(input_size=2, context_size=5, num_layers=0, dropout=0.3)
    vectors = torch.tensor([[1.0, 2.0], [3.0, 8.0], [7.0, 9.0]])
    assert context.output_size == 2
    assert context(vectors, [2, 1]).tolist() == [[2.0, 5.0], [7.0, 9.0]]


def test_without_layers_there_are_no_weights() -> None:
    assert not list(RoundContext(input_size=2, context_size=5, num_layers=0, dropout=0.3).parameters())


@pytest.mark.parametrize("rounds_per_call", [[5], [7], [3, 4], [0, 6]])
def test_without_layers_numbers_of_rounds_that_do_not_match_the_vectors_are_refused(
    vectors: Tensor, rounds_per_call: list[int]
) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        RoundContext(input_size=3, context_size=5, num_layers=0, dropout=0.3)(vectors, rounds_per_call)
