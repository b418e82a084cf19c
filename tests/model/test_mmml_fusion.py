"""The fusion of MMML, against the same formulas written out in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msmtfn.model.config import MmmlConfig
from msmtfn.model.mmml_fusion import CrossModalLayer, MmmlFusion, PostNormAttention, StreamLayer, TextPooler
from tests.conftest import make_tiny_mmml
from tests.model.fusions import Rounds, changes

WIDTH, TEXT_SIZE, AUDIO_SIZE = 32, 40, 24
NUM_HEADS = 2


@pytest.fixture
def config() -> MmmlConfig:
    return make_tiny_mmml().config


@pytest.fixture
def fusion(config: MmmlConfig) -> MmmlFusion:
    torch.manual_seed(0)
    fusion = MmmlFusion(config)
    fusion.train(False)
    return fusion


# ---- the formulas


def linear(states: Tensor, layer: nn.Module) -> Tensor:
    weights = dict(layer.named_parameters())
    product = states @ weights["weight"].double().T
    return product + weights["bias"].double() if "bias" in weights else product


def normed(states: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = states - states.mean(dim=-1, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(dim=-1, keepdim=True) + 1e-12)
    return scaled * norm.weight.double() + norm.bias.double()


def attended(attention: PostNormAttention, states: Tensor, context: Tensor, mask: Tensor) -> Tensor:
    """Equation 1, head by head, then the sum with the states, then the norm."""
    query, key, value = (linear(each, layer) for each, layer in (
        (states, attention.query), (context, attention.key), (context, attention.value)
    ))  # fmt: skip
    size = WIDTH // NUM_HEADS
    heads = []
    for head in range(NUM_HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
        weights = scores.masked_fill(~mask[:, None, :], -torch.inf).softmax(dim=-1)
        heads.append(weights @ value[..., part])
    return normed(states + linear(torch.cat(heads, dim=-1), attention.out), attention.norm)


def one_stream(layer: StreamLayer, states: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
    asked = attended(layer.cross_attention, states, other, other_mask)
    own = attended(layer.self_attention, asked, asked, mask)
    first, _, second, _ = layer.feed_forward.layers
    return normed(own + linear(linear(own, first).clamp(min=0), second), layer.feed_forward.norm)


def streams_of(rounds: Rounds) -> tuple[Tensor, Tensor]:
    """Text and audio of the width of the fusion."""
    return rounds.text[..., :WIDTH].contiguous(), rounds.audio.repeat(1, 1, 2)[..., :WIDTH].contiguous()


# ---- a layer


@torch.no_grad()
def test_text_and_audio_ask_each_other_in_parallel_from_the_inputs_of_the_layer(
    config: MmmlConfig, rounds: Rounds
) -> None:
    torch.manual_seed(0)
    layer = CrossModalLayer(config).train(False)
    text, audio = streams_of(rounds)
    found_text, found_audio = layer(text, rounds.text_mask, audio, rounds.audio_mask)
    inputs = text.double(), audio.double()
    expected_text = one_stream(layer.text, inputs[0], rounds.text_mask, inputs[1], rounds.audio_mask)
    expected_audio = one_stream(layer.audio, inputs[1], rounds.audio_mask, inputs[0], rounds.text_mask)
    torch.testing.assert_close(found_text.double(), expected_text, atol=1e-5, rtol=0)
    torch.testing.assert_close(found_audio.double(), expected_audio, atol=1e-5, rtol=0)
    # Asked one after the other, the audio would read the text that has read it.
    in_turn = one_stream(layer.audio, inputs[1], rounds.audio_mask, expected_text, rounds.text_mask)
    assert changes(found_audio.double(), in_turn)


def test_a_layer_has_the_inner_width_and_the_epsilon_of_the_description() -> None:
    config = MmmlConfig()
    assert (config.hidden_size, config.feed_forward_size, config.num_cross_layers) == (768, 4 * 768, 5)
    assert (config.num_attention_heads, config.dropout, config.attention_dropout) == (12, 0.3, 0.3)
    assert (config.encoder_sample_rate, config.max_round_sec, config.max_text_tokens) == (16_000, 6.0, 64)
    layer = StreamLayer(config)
    norms = [module for module in layer.modules() if isinstance(module, nn.LayerNorm)]
    assert [norm.eps for norm in norms] == [1e-12] * 3
    linear_layers = [each for each in layer.feed_forward.layers if isinstance(each, nn.Linear)]
    linear_sizes = [(each.in_features, each.out_features) for each in linear_layers]
    assert linear_sizes == [(768, 3072), (3072, 768)]


# ---- the vector of a round


@torch.no_grad()
def test_a_vector_is_both_class_states_and_then_the_text_and_the_audio_alone(
    fusion: MmmlFusion, rounds: Rounds
) -> None:
    text, text_mask = fusion.text_token(rounds.text, rounds.text_mask)
    audio, audio_mask = fusion.audio_token(rounds.audio, rounds.audio_mask)
    for layer in fusion.layers:
        text, audio = layer(text, text_mask, audio, audio_mask)
    pooled = torch.tanh(fusion.text_pooler.dense(rounds.text[:, 0]))
    means = torch.stack([rounds.audio[0].mean(dim=0), rounds.audio[1, :5].mean(dim=0)])
    vectors = rounds.through(fusion)
    assert vectors.shape == (2, 2 * WIDTH + TEXT_SIZE + AUDIO_SIZE)
    torch.testing.assert_close(vectors, torch.cat([text[:, 0], audio[:, 0], pooled, means], dim=1))


Change = Callable[[Rounds], Tensor]


@pytest.mark.parametrize(
    ("side", "unchanged"), [("text", slice(2 * WIDTH + TEXT_SIZE, None)), ("audio", slice(2 * WIDTH, -AUDIO_SIZE))]
)
@torch.no_grad()
def test_each_side_changes_both_class_states_and_only_its_own_part(
    fusion: MmmlFusion, rounds: Rounds, side: str, unchanged: slice
) -> None:
    other = Rounds(**{**vars(rounds), side: getattr(rounds, side).flip(-1)})
    before, after = rounds.through(fusion), other.through(fusion)
    assert changes(before[:, :WIDTH], after[:, :WIDTH])
    assert changes(before[:, WIDTH : 2 * WIDTH], after[:, WIDTH : 2 * WIDTH])
    assert changes(before[:, 2 * WIDTH :], after[:, 2 * WIDTH :])
    assert torch.equal(before[:, unchanged], after[:, unchanged])


@torch.no_grad()
def test_states_under_the_mask_change_nothing(fusion: MmmlFusion, rounds: Rounds) -> None:
    text, audio = rounds.text.clone(), rounds.audio.clone()
    text[1, 4:], audio[1, 5:] = 9.0, -9.0
    noisy = Rounds(audio, rounds.audio_mask, text, rounds.text_mask)
    torch.testing.assert_close(noisy.through(fusion), rounds.through(fusion))


@pytest.mark.parametrize("cut", [{"text": 0}, {"audio": 0}, {"text": 0, "audio": 0}])
@torch.no_grad()
def test_a_missing_side_is_its_class_vector_and_zeros(fusion: MmmlFusion, rounds: Rounds, cut: dict[str, int]) -> None:
    fields: dict[str, Any] = dict(vars(rounds))
    for side in cut:
        fields |= {side: fields[side][:, :0], f"{side}_mask": fields[f"{side}_mask"][:, :0]}
    vectors = Rounds(**fields).through(fusion)
    assert vectors.isfinite().all()
    assert bool(vectors[:, 2 * WIDTH : -AUDIO_SIZE].any()) == ("text" not in cut)
    assert bool(vectors[:, -AUDIO_SIZE:].any()) == ("audio" not in cut)
    for side in cut:
        fields[f"{side}_mask"] = torch.zeros_like(getattr(rounds, f"{side}_mask"))
        fields[side] = getattr(rounds, side)
    torch.testing.assert_close(Rounds(**fields).through(fusion), vectors)


def test_the_pooler_of_a_round_without_text_learns_nothing_from_it() -> None:
    pooler = TextPooler(4)
    pooler(torch.ones(1, 1, 4), torch.zeros(1, 1, dtype=torch.bool)).sum().backward()
    assert not pooler.dense.weight.grad.any()  # type: ignore[union-attr]
