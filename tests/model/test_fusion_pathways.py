"""The text pathway, the complementary pathway and the bottleneck, layer by layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from msmtfn.model.attention import Attention, length_mask
from msmtfn.model.fusion import (
    BottleneckFusion,
    ComplementaryPathway,
    RoundFusion,
    TextPathway,
)
from tests.model.fusions import MakeConfig, Rounds, changes, make, record_steps

NUM_BOTTLENECK_TOKENS = 4


def normalised(states: Tensor) -> Tensor:
    centred = states - states.mean(dim=-1, keepdim=True)
    return centred / centred.square().mean(dim=-1, keepdim=True).sqrt()


@pytest.fixture
def bottleneck(tiny_config: MakeConfig) -> BottleneckFusion:
    return make(BottleneckFusion, tiny_config())


@pytest.fixture
def mean_bottleneck(tiny_config: MakeConfig) -> BottleneckFusion:
    return make(BottleneckFusion, tiny_config(fused="mean"))


@pytest.fixture
def streams() -> tuple[Tensor, Tensor, Tensor]:
    """Make the text and the mixed stream and their mask, for two rounds of 5 and 3 tokens."""
    generator = torch.Generator().manual_seed(2)
    text, mixed = torch.randn(2, 2, 5, 32, generator=generator)
    return text, mixed, length_mask(torch.tensor([5, 3]), 5)


@torch.no_grad()
def test_every_token_in_the_text_pathway_attends_to_every_other(tiny_config: MakeConfig) -> None:
    pathway, text = make(TextPathway, tiny_config()), torch.randn(1, 4, 32)
    mask = torch.ones(1, 4, dtype=torch.bool)
    before = pathway(text, mask)
    text[0, 3] += torch.randn(32)
    assert all(changes(before[:, index], pathway(text, mask)[:, index]) for index in range(4))


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_text_pathway_has_the_configured_number_of_layers(tiny_config: MakeConfig, num_layers: int) -> None:
    assert len(make(TextPathway, tiny_config(num_text_layers=num_layers)).layers) == num_layers


@torch.no_grad()
def test_each_complementary_layer_gets_the_output_of_the_previous_one(tiny_config: MakeConfig) -> None:
    pathway = make(ComplementaryPathway, tiny_config())
    steps = [record_steps(layer) for layer in pathway.layers]
    text, audio = torch.randn(1, 4, 32), torch.randn(1, 6, 32)
    mixed = pathway(text, length_mask(torch.tensor([4]), 4), audio, length_mask(torch.tensor([6]), 6))
    ((first,), (second,), (third,), (fourth,)) = steps
    assert first.inputs[0] is text
    assert [second.inputs[0], third.inputs[0], fourth.inputs[0]] == [first.output, second.output, third.output]
    assert mixed is fourth.output


@torch.no_grad()
def test_every_complementary_layer_queries_the_same_audio(tiny_config: MakeConfig) -> None:
    pathway = make(ComplementaryPathway, tiny_config())
    steps = [record_steps(layer.cross_attention) for layer in pathway.layers]
    audio, audio_mask = torch.randn(1, 6, 32), length_mask(torch.tensor([5]), 6)
    pathway(torch.randn(1, 4, 32), length_mask(torch.tensor([4]), 4), audio, audio_mask)
    for (step,) in steps:
        assert torch.equal(step.inputs[1], audio_mask)
        assert step.inputs[2] is audio


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("part", ["cross_attention", "self_attention", "feed_forward"])
@torch.no_grad()
def test_every_part_of_every_complementary_layer_changes_the_rounds_vector(
    fusion: RoundFusion, rounds: Rounds, index: int, part: str
) -> None:
    before = rounds.through(fusion)
    for weight in getattr(fusion.complementary_pathway.layers[index], part).parameters():
        weight.add_(0.1 * torch.randn_like(weight))
    assert changes(before, rounds.through(fusion))


@torch.no_grad()
def test_the_bottleneck_is_appended_to_each_stream(
    bottleneck: BottleneckFusion, streams: tuple[Tensor, Tensor, Tensor]
) -> None:
    for layers, stream in ((bottleneck.text_layers, streams[0]), (bottleneck.mixed_layers, streams[1])):
        steps = record_steps(layers[0])
        bottleneck(*streams)
        assert torch.equal(steps[0].inputs[0], torch.cat([stream, bottleneck.tokens.expand(2, 4, 32)], dim=1))


@torch.no_grad()
def test_no_layer_masks_the_bottleneck_tokens(
    bottleneck: BottleneckFusion, streams: tuple[Tensor, Tensor, Tensor]
) -> None:
    steps = [record_steps(layer) for layer in (*bottleneck.text_layers, *bottleneck.mixed_layers)]
    bottleneck(*streams)
    expected = [[True] * 5 + [True] * 4, [True] * 3 + [False] * 2 + [True] * 4]
    assert [step.inputs[1].tolist() for (step,) in steps] == [expected] * 3


@torch.no_grad()
def test_the_next_layer_gets_both_streams_and_the_averaged_bottleneck(
    mean_bottleneck: BottleneckFusion, streams: tuple[Tensor, Tensor, Tensor]
) -> None:
    text_steps, next_text_steps = (record_steps(layer) for layer in mean_bottleneck.text_layers)
    mixed_steps, next_mixed_steps = (record_steps(layer) for layer in mean_bottleneck.mixed_layers)
    mean_bottleneck(*streams)
    text, mixed = text_steps[0].output, mixed_steps[0].output
    averaged = (text[:, 5:] + mixed[:, 5:]) / 2
    torch.testing.assert_close(next_text_steps[0].inputs[0], torch.cat([text[:, :5], averaged], dim=1))
    torch.testing.assert_close(next_mixed_steps[0].inputs[0], torch.cat([mixed[:, :5], averaged], dim=1))


@torch.no_grad()
def test_with_fused_mean_the_output_is_the_normalised_mean_of_both_streams(
    mean_bottleneck: BottleneckFusion, streams: tuple[Tensor, Tensor, Tensor]
) -> None:
    text_steps, mixed_steps = (
        record_steps(mean_bottleneck.text_layers[-1]),
        record_steps(mean_bottleneck.mixed_layers[-1]),
    )
    fused = mean_bottleneck(*streams)
    mean = (text_steps[0].output[:, :5] + mixed_steps[0].output[:, :5]) / 2
    torch.testing.assert_close(fused, normalised(mean), atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_output_is_the_normalised_text_stream(
    bottleneck: BottleneckFusion, streams: tuple[Tensor, Tensor, Tensor]
) -> None:
    steps = record_steps(bottleneck.text_layers[-1])
    fused = bottleneck(*streams)
    torch.testing.assert_close(fused, normalised(steps[0].output[:, :5]), atol=1e-4, rtol=0)


@torch.no_grad()
def test_audio_changes_the_text_stream_through_the_bottleneck_and_only_through_it(
    fusion: RoundFusion, rounds: Rounds
) -> None:
    other = replace(rounds, audio=torch.randn_like(rounds.audio))
    assert changes(rounds.through(fusion), other.through(fusion))
    fusion.bottleneck.mixed_layers[0].register_forward_hook(  # a constant in the place of T_fsn''
        lambda _module, _inputs, output: output.index_fill(1, torch.arange(7, output.shape[1]), 0.5)
    )
    assert torch.equal(rounds.through(fusion), other.through(fusion))


@torch.no_grad()
def test_every_text_token_attends_to_the_bottleneck(
    bottleneck: BottleneckFusion, streams: tuple[Tensor, Tensor, Tensor]
) -> None:
    steps = record_steps(bottleneck.text_layers[0])
    bottleneck(*streams)
    bottleneck.tokens.add_(torch.randn(NUM_BOTTLENECK_TOKENS, 32))
    bottleneck(*streams)
    before, after = (step.output[:, :5] for step in steps)
    assert ((before - after).abs().amax(dim=-1) > 1e-4).all()


@pytest.mark.parametrize("index", range(NUM_BOTTLENECK_TOKENS))
@torch.no_grad()
def test_every_bottleneck_token_changes_the_rounds_vector(fusion: RoundFusion, rounds: Rounds, index: int) -> None:
    before = rounds.through(fusion)
    fusion.bottleneck.tokens[index] += torch.randn(32)
    assert changes(before, rounds.through(fusion))


@torch.no_grad()
def test_the_streams_exchange_information_through_the_bottleneck_one_layer_later(
    bottleneck: BottleneckFusion, streams: tuple[Tensor, Tensor, Tensor]
) -> None:
    text, mixed, mask = streams
    first, second = (record_steps(layer) for layer in bottleneck.text_layers)
    bottleneck(text, mixed, mask)
    bottleneck(text, mixed + torch.randn_like(mixed), mask)
    assert torch.equal(first[0].output, first[1].output)
    assert torch.equal(second[0].inputs[0][:, :5], second[1].inputs[0][:, :5])
    assert changes(second[0].output[:, :5], second[1].output[:, :5])


@pytest.mark.parametrize("fused", ["text", "mean"])
@torch.no_grad()
def test_every_bottleneck_layer_of_each_stream_changes_the_output(
    tiny_config: MakeConfig, streams: tuple[Tensor, Tensor, Tensor], fused: str
) -> None:
    bottleneck = make(BottleneckFusion, tiny_config(fused=fused))
    for layer in (*bottleneck.text_layers, *bottleneck.mixed_layers):
        before = bottleneck(*streams)
        for weight in layer.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        assert changes(before, bottleneck(*streams))


def test_there_are_four_bottleneck_tokens_and_a_last_mixed_layer_only_where_it_has_an_effect(
    bottleneck: BottleneckFusion, mean_bottleneck: BottleneckFusion
) -> None:
    assert bottleneck.tokens.shape == (4, 32)
    assert (len(bottleneck.text_layers), len(bottleneck.mixed_layers)) == (2, 1)
    assert (len(mean_bottleneck.text_layers), len(mean_bottleneck.mixed_layers)) == (2, 2)


@torch.no_grad()
def test_without_bottleneck_layers_the_streams_are_averaged_and_normalised(tiny_config: MakeConfig) -> None:
    bottleneck = make(BottleneckFusion, tiny_config(num_bottleneck_layers=0, hidden_size=2))
    text, mixed = torch.tensor([[[5.0, 1.0]]]), torch.tensor([[[1.0, 3.0]]])  # their mean is [3, 2]
    fused = bottleneck(text, mixed, torch.tensor([[True]]))
    torch.testing.assert_close(fused, torch.tensor([[[1.0, -1.0]]]), atol=1e-4, rtol=0)


def test_without_bottleneck_layers_there_are_no_bottleneck_tokens(tiny_config: MakeConfig) -> None:
    bottleneck = make(BottleneckFusion, tiny_config(num_bottleneck_layers=0))
    assert [name for name, _ in bottleneck.named_parameters()] == ["norm.weight", "norm.bias"]


def test_every_attention_layer_gets_both_dropout_probabilities(tiny_config: MakeConfig) -> None:
    fusion = make(RoundFusion, tiny_config(dropout=0.2, attention_dropout=0.1))
    parts = [part for part in fusion.modules() if isinstance(part, Attention)]
    assert {(part.dropout, part.attention_dropout) for part in parts} == {(0.2, 0.1)}
