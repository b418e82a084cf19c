from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msmtfn.model import attention as attention_module
from msmtfn.model.attention import (
    Attention,
    CrossLayer,
    FeedForward,
    TransformerLayer,
    length_mask,
    matmul_attention,
    to_attention_mask,
)

UP, DOWN = [30.0, 10.0], [10.0, 30.0]
"""States that layer normalisation maps to [1, -1] and [-1, 1]."""
SCORE = math.sqrt(2)
"""Score of the query [1, -1] for the key [1, -1]: the dot product 2 divided by sqrt(2), the root of the width. For the
key [-1, 1] it is the negative. With s for the score, the softmax gives (e^s - e^-s) / (e^s + e^-s) = tanh(s) times
[1, -1] where the values are the keys."""


def plain_attention(hidden_size: int = 2, num_heads: int = 1, *, is_cross: bool = False) -> Attention:
    """Make an attention layer whose four projections are the identity."""
    attention = Attention(hidden_size, num_heads, dropout=0.0, attention_dropout=0.0, is_cross=is_cross)
    with torch.no_grad():
        for projection in (attention.query, attention.key, attention.value, attention.out):
            projection.weight.copy_(torch.eye(hidden_size))
            if projection.bias is not None:
                projection.bias.zero_()
    return attention


def all_true(states: Tensor) -> Tensor:
    return torch.ones(states.shape[:2], dtype=torch.bool)


def random_states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# ---- equation 1, worked by hand


@torch.no_grad()
def test_cross_attention_adds_the_softmax_weighted_values() -> None:
    states, context = torch.tensor([[UP]]), torch.tensor([[UP, DOWN]])
    attended = plain_attention(is_cross=True)(states, all_true(context), context)
    answer = math.tanh(SCORE)
    assert attended[0, 0].tolist() == pytest.approx([30 + answer, 10 - answer], abs=1e-5)


@torch.no_grad()
def test_self_attention_attends_to_the_states_themselves() -> None:
    states = torch.tensor([[UP, DOWN]])
    attended = plain_attention()(states, all_true(states))
    answer = math.tanh(SCORE)
    expected = torch.tensor([[[30 + answer, 10 - answer], [10 - answer, 30 + answer]]])
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_heads_attend_independently_and_are_scaled_by_the_width_of_a_head() -> None:
    states = torch.tensor([[[*UP, *UP]]])
    context = torch.tensor([[[*UP, *DOWN], [*DOWN, *UP]]])  # summed over both heads, both keys would score the same
    attended = plain_attention(4, num_heads=2, is_cross=True)(states, all_true(context), context)
    answer = math.tanh(SCORE)
    assert attended[0, 0].tolist() == pytest.approx([30 + answer, 10 - answer] * 2, abs=1e-5)


@pytest.mark.parametrize("projection", ["query", "key"])
@torch.no_grad()
def test_the_scores_depend_on_the_query_and_key_projections(projection: str) -> None:
    attention = plain_attention(is_cross=True)
    getattr(attention, projection).weight.mul_(0.5)
    states, context = torch.tensor([[UP]]), torch.tensor([[UP, DOWN]])
    answer = math.tanh(SCORE / 2)
    attended = attention(states, all_true(context), context)
    assert attended[0, 0].tolist() == pytest.approx([30 + answer, 10 - answer], abs=1e-5)


@torch.no_grad()
def test_the_values_and_the_output_projection_are_applied() -> None:
    attention = plain_attention(is_cross=True)
    attention.value.weight.mul_(3.0)
    attention.out.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    attention.out.bias.copy_(torch.tensor([1.0, 2.0]))
    context = torch.tensor([[UP]])  # one key with the value [3, -3], which the output projection swaps to [-3, 3]
    attended = attention(torch.tensor([[UP]]), all_true(context), context)
    assert attended[0, 0].tolist() == pytest.approx([30 - 3 + 1, 10 + 3 + 2], abs=1e-5)


@torch.no_grad()
def test_a_masked_key_is_ignored() -> None:
    states, context = torch.tensor([[UP]]), torch.tensor([[UP, DOWN]])
    only_second = plain_attention(is_cross=True)(states, torch.tensor([[False, True]]), context)
    assert only_second[0, 0].tolist() == pytest.approx([30 - 1, 10 + 1], abs=1e-5)


@torch.no_grad()
def test_each_round_has_its_own_mask() -> None:
    states, context = torch.tensor([[UP], [UP]]), torch.tensor([[UP, DOWN]] * 2)
    attended = plain_attention(is_cross=True)(states, torch.tensor([[True, False], [False, True]]), context)
    torch.testing.assert_close(attended, torch.tensor([[[31.0, 9.0]], [[29.0, 11.0]]]), atol=1e-5, rtol=0)


# ---- properties


@torch.no_grad()
def test_the_states_at_masked_positions_change_nothing() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, dropout=0.0, attention_dropout=0.0, is_cross=True)
    context, mask = random_states(2, 5, 8), length_mask(torch.tensor([5, 3]), 5)
    before = attention(random_states(2, 4, 8), mask, context)
    context[1, 3:] = 1e4
    torch.testing.assert_close(attention(random_states(2, 4, 8), mask, context), before, atol=1e-6, rtol=0)


def test_cross_attention_without_a_context_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^context is None; "):
        Attention(8, 2, dropout=0.0, attention_dropout=0.0, is_cross=True)(
            torch.zeros(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)
        )


@torch.no_grad()
def test_dropout_is_applied_in_training_only() -> None:
    attention, states = Attention(8, 2, dropout=0.3, attention_dropout=0.3), random_states(1, 4, 8)
    assert not torch.equal(attention.train()(states, all_true(states)), attention(states, all_true(states)))
    attention.train(False)
    assert torch.equal(attention(states, all_true(states)), attention(states, all_true(states)))


@torch.no_grad()
def test_attention_dropout_drops_half_of_the_keys_and_doubles_the_others() -> None:
    attention = plain_attention(is_cross=True).train()
    attention.attention_dropout = 0.5
    torch.manual_seed(0)
    attended = attention(
        torch.tensor([[UP]] * 1000), torch.ones(1000, 1, dtype=torch.bool), torch.tensor([[UP]] * 1000)
    )
    added = attended[:, 0] - torch.tensor(UP)  # the only key's value is [1, -1]
    assert set(added[:, 0].round().tolist()) == {0.0, 2.0}
    assert added[:, 0].mean().item() == pytest.approx(1.0, abs=0.1)


@torch.no_grad()
def test_dropout_does_not_drop_attention_weights() -> None:
    attention = plain_attention(is_cross=True).train()
    attention.dropout = 0.5
    torch.manual_seed(0)
    states, context = torch.tensor([[UP]] * 1000), torch.tensor([[UP, UP]] * 1000)
    added = attention(states, all_true(context), context)[:, 0, 0] - 30
    assert set(added.round().tolist()) == {0.0, 2.0}  # with one of the two keys dropped it would be 1


# ---- feed-forward and layers


def hand_feed_forward(sign: float) -> FeedForward:
    """Make a layer whose one inner unit, 100 times the first normalised feature, is added with weights 1 and 0.5."""
    feed_forward = FeedForward(2, 1, dropout=0.0)
    inner, outer = (layer for layer in feed_forward.layers if isinstance(layer, nn.Linear))
    with torch.no_grad():
        inner.weight.copy_(torch.tensor([[sign * 100.0, 0.0]]))
        inner.bias.zero_()
        outer.weight.copy_(torch.tensor([[1.0], [0.5]]))
        outer.bias.zero_()
    return feed_forward


@torch.no_grad()
def test_feed_forward_adds_the_output_of_its_two_linear_maps() -> None:
    assert hand_feed_forward(1.0)(torch.tensor([[UP]]))[0, 0].tolist() == pytest.approx([130.0, 60.0], abs=1e-3)


@torch.no_grad()
def test_feed_forward_has_a_nonlinearity_between_its_linear_maps() -> None:
    assert hand_feed_forward(-1.0)(torch.tensor([[UP]]))[0, 0].tolist() == pytest.approx(UP, abs=1e-3)


@torch.no_grad()
def test_a_transformer_layer_applies_attention_and_then_feed_forward() -> None:
    layer = TransformerLayer(2, 1, 1, dropout=0.0, attention_dropout=0.0)
    layer.attention, layer.feed_forward = plain_attention(), hand_feed_forward(1.0)
    answer = math.tanh(SCORE)
    attended = layer(torch.tensor([[UP, DOWN]]), torch.tensor([[True, True]]))
    assert attended[0, 0].tolist() == pytest.approx([130 + answer, 60 - answer], abs=1e-3)
    assert attended[0, 1].tolist() == pytest.approx([10 - answer, 30 + answer], abs=1e-3)


@torch.no_grad()
def test_a_cross_layer_attends_to_the_audio_then_to_the_text_and_then_feeds_forward() -> None:
    layer = CrossLayer(2, 1, 1, dropout=0.0, attention_dropout=0.0)
    layer.cross_attention, layer.self_attention = plain_attention(is_cross=True), plain_attention()
    layer.feed_forward = hand_feed_forward(1.0)
    with torch.no_grad():
        layer.cross_attention.value.weight.mul_(15.0)  # one audio frame with the value [-15, 15], which reverses UP
        text, audio = torch.tensor([[UP]]), torch.tensor([[DOWN]])
    # Cross-attention adds [-15, 15] to [30, 10], giving [15, 25]; self-attention adds [-1, 1], giving [14, 26]; the
    # inner unit of the feed-forward is then -100, of which the GELU leaves nothing.
    mixed = layer(text, all_true(text), audio, all_true(audio))
    assert mixed[0, 0].tolist() == pytest.approx([14.0, 26.0], abs=1e-3)


@torch.no_grad()
def test_a_cross_layer_respects_both_masks() -> None:
    torch.manual_seed(0)
    layer = CrossLayer(8, 2, 16, dropout=0.0, attention_dropout=0.0)
    text, audio = random_states(1, 4, 8), random_states(1, 6, 8)
    masks = length_mask(torch.tensor([3]), 4), length_mask(torch.tensor([5]), 6)
    before = layer(text, masks[0], audio, masks[1])[:, :3]
    text[:, 3], audio[:, 5] = 100.0, -100.0
    torch.testing.assert_close(layer(text, masks[0], audio, masks[1])[:, :3], before, atol=1e-6, rtol=0)


def test_a_length_mask_is_true_for_real_tokens() -> None:
    assert length_mask(torch.tensor([0, 2, 3]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]


# ---- attention as plain matrix products


@pytest.mark.parametrize("scores_per_chunk", [1, 2**20])
@pytest.mark.parametrize("lengths", [[7, 7], [7, 3], [1, 7]])
@torch.inference_mode()
def test_matmul_attention_equals_pytorchs_attention_in_each_round(
    lengths: list[int], scores_per_chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_module, "SCORES_PER_CHUNK", scores_per_chunk)
    query, key, value = random_states(3, 2, 5, 7, 6)
    mask = length_mask(torch.tensor(lengths), 7)
    outputs, _ = matmul_attention(nn.Identity(), query, key, value, to_attention_mask(mask), scaling=0.3)
    expected = F.scaled_dot_product_attention(query, key, value, mask[:, None, None], scale=0.3).transpose(1, 2)
    torch.testing.assert_close(outputs[mask], expected[mask], atol=1e-5, rtol=0)
    assert not outputs[~mask].any()


@torch.inference_mode()
def test_matmul_attention_in_bf16_loses_no_precision_to_an_offset_common_to_all_keys() -> None:
    query, key, value = random_states(3, 1, 4, 60, 64)
    query, key, value = (states.bfloat16() for states in (query + 1, key + 3, value))
    exact = F.scaled_dot_product_attention(*(states.double() for states in (query, key, value)))
    by_pytorch = F.scaled_dot_product_attention(query, key, value)
    by_matmul = matmul_attention(nn.Identity(), query, key, value, None, scaling=64**-0.5)[0].transpose(1, 2)
    uncentred = torch.softmax((query * 64**-0.5) @ key.transpose(2, 3), dim=-1) @ value
    errors = [float((output - exact).norm() / exact.norm()) for output in (by_matmul, by_pytorch, uncentred)]
    assert errors[0] < 3 * errors[1] < 0.01
    assert errors[2] > 5 * errors[0]
