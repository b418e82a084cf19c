from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn

from msmtfn.model.attention import Attention, length_mask
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.fusion import (
    BottleneckFusion,
    ClassToken,
    ComplementaryPathway,
    RoundFusion,
    RoundPooling,
    TextPathway,
)

MakeConfig = Callable[..., MsmtFnConfig]
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
NUM_BOTTLENECK_TOKENS = 4
Part = TypeVar("Part", bound=nn.Module)


@dataclass(frozen=True)
class Rounds:
    """Encoder states of two rounds, with 6 and 4 tokens and 9 and 5 frames."""

    audio: Tensor
    audio_mask: Tensor
    text: Tensor
    text_mask: Tensor

    def through(self, fusion: RoundFusion) -> Tensor:
        vectors: Tensor = fusion(self.audio, self.audio_mask, self.text, self.text_mask)
        return vectors


@dataclass(frozen=True)
class Step:
    """Inputs and output of one forward pass of a module."""

    inputs: tuple[Tensor, ...]
    output: Tensor


@pytest.fixture
def rounds() -> Rounds:
    generator = torch.Generator().manual_seed(1)
    return Rounds(
        audio=torch.randn(2, 9, 24, generator=generator),
        audio_mask=length_mask(torch.tensor([9, 5]), 9),
        text=torch.randn(2, 6, 40, generator=generator),
        text_mask=length_mask(torch.tensor([6, 4]), 6),
    )


@pytest.fixture
def fusion(tiny_config: MakeConfig) -> RoundFusion:
    return make(RoundFusion, tiny_config())


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


def make(kind: Callable[..., Part], *arguments: Any) -> Part:
    torch.manual_seed(0)
    part = kind(*arguments)
    part.train(False)
    return part


def record_steps(module: Any) -> list[Step]:
    """Return a list to which every later forward pass of the module is appended."""
    steps: list[Step] = []
    module.register_forward_hook(lambda _, inputs, output: steps.append(Step(inputs, output)))
    return steps


def normalised(states: Tensor) -> Tensor:
    centred = states - states.mean(dim=-1, keepdim=True)
    return centred / centred.square().mean(dim=-1, keepdim=True).sqrt()


def changes(before: Tensor, after: Tensor) -> bool:
    return (before - after).abs().max().item() > 1e-4


# ---- [CLS]


@torch.no_grad()
def test_a_learned_vector_is_prepended_to_the_states() -> None:
    part, states = make(ClassToken, 8, 8), torch.randn(2, 3, 8)
    tokens, mask = part(states, length_mask(torch.tensor([3, 0]), 3))
    assert torch.equal(tokens, torch.cat([part.token.expand(2, 1, 8), states], dim=1))
    assert mask.tolist() == [[True] * 4, [True, False, False, False]]


@torch.no_grad()
def test_states_of_another_width_are_projected() -> None:
    tokens, _ = make(ClassToken, 6, 8)(torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.bool))
    assert tokens.shape == (2, 4, 8)


@torch.no_grad()
def test_audio_and_text_have_different_learned_vectors(fusion: RoundFusion) -> None:
    assert not torch.equal(fusion.audio_token.token, fusion.text_token.token)


# ---- text pathway


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


# ---- complementary pathway


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


# ---- bottleneck fusion, equations 2 to 5


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


# ---- pooling, worked by hand


def pooling_by_hand(config: MsmtFnConfig) -> RoundPooling:
    """Make a pooling layer whose projection returns the first two features of the pooled vector."""
    pooling = make(RoundPooling, config)
    with torch.no_grad():
        pooling.projection.weight.zero_()
        pooling.projection.weight[0, 0] = 1.0
        pooling.projection.weight[1, 1] = 1.0
        pooling.projection.bias.zero_()
    return pooling


FUSED = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [50.0, 70.0]]])
"""One round of [CLS] and one token, followed by one token of padding."""
FUSED_MASK = torch.tensor([[True, True, False]])


@pytest.mark.parametrize(
    ("pooling", "expected"), [("cls", [1.0, 2.0]), ("mean", [2.0, 4.0]), ("max", [3.0, 6.0]), ("flatten", [1.0, 2.0])]
)
@torch.no_grad()
def test_pooling_returns_the_class_vector_the_mean_the_maximum_or_all_tokens(
    tiny_config: MakeConfig, pooling: str, expected: list[float]
) -> None:
    config = tiny_config(pooling=pooling, hidden_size=2, max_text_tokens=3)
    assert pooling_by_hand(config)(FUSED, FUSED_MASK)[0].tolist() == expected


@torch.no_grad()
def test_max_pooling_takes_each_features_maximum_over_the_real_tokens(tiny_config: MakeConfig) -> None:
    pooling = pooling_by_hand(tiny_config(pooling="max", hidden_size=2, max_text_tokens=3))
    fused = torch.tensor([[[-1.0, -6.0], [-3.0, -2.0], [0.0, 0.0]]])
    assert pooling(fused, FUSED_MASK)[0].tolist() == [-1.0, -2.0]


@torch.no_grad()
def test_flatten_concatenates_the_tokens_with_zeros_for_the_padding(tiny_config: MakeConfig) -> None:
    pooling = pooling_by_hand(tiny_config(pooling="flatten", hidden_size=2, max_text_tokens=3))
    # [CLS] and three tokens with two features each: every feature becomes a decimal digit.
    pooling.projection.weight[0] = torch.tensor([10.0**index for index in range(8)])
    assert pooling(FUSED, FUSED_MASK)[0, 0] == 6321
    assert pooling(FUSED[:, :2], FUSED_MASK[:, :2])[0, 0] == 6321


@pytest.mark.parametrize("pooling", ["flatten", "cls", "mean", "max"])
@torch.no_grad()
def test_pooling_does_not_depend_on_the_padding_of_the_text(tiny_config: MakeConfig, pooling: str) -> None:
    part = make(RoundPooling, tiny_config(pooling=pooling, hidden_size=2, max_text_tokens=9))
    wide = torch.cat([FUSED, torch.full((1, 6, 2), 99.0)], dim=1)
    wide_mask = torch.cat([FUSED_MASK, torch.zeros(1, 6, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(part(wide, wide_mask), part(FUSED, FUSED_MASK), atol=1e-6, rtol=0)


# ---- a whole round


@torch.no_grad()
def test_a_round_becomes_one_vector(fusion: RoundFusion, rounds: Rounds) -> None:
    assert rounds.through(fusion).shape == (2, 32)


@torch.no_grad()
def test_the_pathways_get_the_class_vectors_of_both_modalities(fusion: RoundFusion, rounds: Rounds) -> None:
    steps = record_steps(fusion.complementary_pathway)
    rounds.through(fusion)
    text, text_mask, audio, audio_mask = steps[0].inputs
    assert (text.shape, audio.shape) == ((2, 7, 32), (2, 10, 32))
    assert text_mask.sum(dim=1).tolist() == [7, 5]
    assert audio_mask.sum(dim=1).tolist() == [10, 6]


@torch.no_grad()
def test_both_pathways_start_from_the_encoders_text(fusion: RoundFusion, rounds: Rounds) -> None:
    text_steps, mixed_steps = record_steps(fusion.text_pathway), record_steps(fusion.complementary_pathway)
    rounds.through(fusion)
    assert torch.equal(text_steps[0].inputs[0], mixed_steps[0].inputs[0])


@torch.no_grad()
def test_audio_enters_through_the_complementary_pathway_only(fusion: RoundFusion, rounds: Rounds) -> None:
    text_steps, mixed_steps = record_steps(fusion.text_pathway), record_steps(fusion.complementary_pathway)
    before = rounds.through(fusion)
    after = replace(rounds, audio=torch.randn_like(rounds.audio)).through(fusion)
    assert torch.equal(text_steps[0].output, text_steps[1].output)
    assert changes(mixed_steps[0].output, mixed_steps[1].output)
    assert changes(before, after)


@torch.no_grad()
def test_without_the_output_of_cross_attention_the_audio_has_no_effect(fusion: RoundFusion, rounds: Rounds) -> None:
    for name, weight in fusion.named_parameters():
        if "cross_attention.out" in name:
            weight.zero_()
    before = rounds.through(fusion)
    assert torch.equal(replace(rounds, audio=torch.randn_like(rounds.audio)).through(fusion), before)


@pytest.mark.parametrize("pooling", ["flatten", "cls", "mean", "max"])
@torch.no_grad()
def test_masked_states_change_nothing(tiny_config: MakeConfig, rounds: Rounds, pooling: str) -> None:
    fusion = make(RoundFusion, tiny_config(pooling=pooling))
    padding = {
        "audio": rounds.audio.masked_fill(~rounds.audio_mask[..., None], 50.0),
        "text": rounds.text.masked_fill(~rounds.text_mask[..., None], -50.0),
    }
    torch.testing.assert_close(replace(rounds, **padding).through(fusion), rounds.through(fusion), **TOLERANCE)


@pytest.mark.parametrize("pooling", ["flatten", "cls", "mean", "max"])
@torch.no_grad()
def test_a_round_is_fused_the_same_alone_and_unpadded(tiny_config: MakeConfig, rounds: Rounds, pooling: str) -> None:
    fusion = make(RoundFusion, tiny_config(pooling=pooling))
    alone = fusion(rounds.audio[1:, :5], rounds.audio_mask[1:, :5], rounds.text[1:, :4], rounds.text_mask[1:, :4])
    torch.testing.assert_close(alone, rounds.through(fusion)[1:], **TOLERANCE)


@pytest.mark.parametrize("side", ["audio", "text"])
@torch.no_grad()
def test_the_class_vector_changes_the_rounds_vector(fusion: RoundFusion, rounds: Rounds, side: str) -> None:
    before = rounds.through(fusion)
    getattr(fusion, f"{side}_token").token.add_(torch.randn(32))
    assert changes(before, rounds.through(fusion))
