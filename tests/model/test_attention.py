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
    attend_by_products,
    attended,
    length_mask,
)

UP, DOWN = [30.0, 10.0], [10.0, 30.0]
"""What a norm makes [1, -1] and [-1, 1] of."""
SCORE = math.sqrt(2)
"""Of [1, -1] asking [1, -1]: the product 2 by the root of the width 2, and its negative asking [-1, 1]; the softmax of
the two, applied to the two, is tanh of it."""


def plain_attention(hidden_size: int = 2, num_heads: int = 1, *, crosses: bool = False) -> Attention:
    """Attention whose four projections change nothing."""
    attention = Attention(hidden_size, num_heads, dropout=0.0, attention_dropout=0.0, crosses=crosses)
    with torch.no_grad():
        for projection in (attention.query, attention.key, attention.value, attention.out):
            projection.weight.copy_(torch.eye(hidden_size))
            if projection.bias is not None:
                projection.bias.zero_()
    return attention


def everything(states: Tensor) -> Tensor:
    return torch.ones(states.shape[:2], dtype=torch.bool)


def random_states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


# ---- equation 1, worked by hand


@torch.no_grad()
def test_cross_attention_adds_the_softmax_weighted_values() -> None:
    states, context = torch.tensor([[UP]]), torch.tensor([[UP, DOWN]])
    attended = plain_attention(crosses=True)(states, everything(context), context)
    answer = math.tanh(SCORE)
    assert attended[0, 0].tolist() == pytest.approx([30 + answer, 10 - answer], abs=1e-5)


@torch.no_grad()
def test_self_attention_asks_the_states_themselves() -> None:
    states = torch.tensor([[UP, DOWN]])
    attended = plain_attention()(states, everything(states))
    answer = math.tanh(SCORE)
    expected = torch.tensor([[[30 + answer, 10 - answer], [10 - answer, 30 + answer]]])
    torch.testing.assert_close(attended, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_each_head_asks_for_itself_and_is_scaled_by_its_own_width() -> None:
    states = torch.tensor([[[*UP, *UP]]])
    context = torch.tensor([[[*UP, *DOWN], [*DOWN, *UP]]])  # over both heads, the query likes neither more
    attended = plain_attention(4, num_heads=2, crosses=True)(states, everything(context), context)
    answer = math.tanh(SCORE)
    assert attended[0, 0].tolist() == pytest.approx([30 + answer, 10 - answer] * 2, abs=1e-5)


@pytest.mark.parametrize("projection", ["query", "key"])
@torch.no_grad()
def test_queries_and_keys_make_the_scores(projection: str) -> None:
    attention = plain_attention(crosses=True)
    getattr(attention, projection).weight.mul_(0.5)
    states, context = torch.tensor([[UP]]), torch.tensor([[UP, DOWN]])
    answer = math.tanh(SCORE / 2)
    attended = attention(states, everything(context), context)
    assert attended[0, 0].tolist() == pytest.approx([30 + answer, 10 - answer], abs=1e-5)


@torch.no_grad()
def test_values_and_output_make_the_answer() -> None:
    attention = plain_attention(crosses=True)
    attention.value.weight.mul_(3.0)
    attention.out.weight.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    attention.out.bias.copy_(torch.tensor([1.0, 2.0]))
    context = torch.tensor([[UP]])  # one key: its value is [3, -3], turned round [-3, 3]
    attended = attention(torch.tensor([[UP]]), everything(context), context)
    assert attended[0, 0].tolist() == pytest.approx([30 - 3 + 1, 10 + 3 + 2], abs=1e-5)


@torch.no_grad()
def test_a_masked_key_is_not_asked() -> None:
    states, context = torch.tensor([[UP]]), torch.tensor([[UP, DOWN]])
    only_second = plain_attention(crosses=True)(states, torch.tensor([[False, True]]), context)
    assert only_second[0, 0].tolist() == pytest.approx([30 - 1, 10 + 1], abs=1e-5)


@torch.no_grad()
def test_each_round_has_its_own_mask() -> None:
    states, context = torch.tensor([[UP], [UP]]), torch.tensor([[UP, DOWN]] * 2)
    attended = plain_attention(crosses=True)(states, torch.tensor([[True, False], [False, True]]), context)
    torch.testing.assert_close(attended, torch.tensor([[[31.0, 9.0]], [[29.0, 11.0]]]), atol=1e-5, rtol=0)


# ---- properties


@torch.no_grad()
def test_what_a_masked_place_holds_is_not_looked_at() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, dropout=0.0, attention_dropout=0.0, crosses=True)
    context, mask = random_states(2, 5, 8), length_mask(torch.tensor([5, 3]), 5)
    before = attention(random_states(2, 4, 8), mask, context)
    context[1, 3:] = 1e4
    torch.testing.assert_close(attention(random_states(2, 4, 8), mask, context), before, atol=1e-6, rtol=0)


def test_cross_attention_needs_what_it_asks() -> None:
    with pytest.raises(ValueError, match=r"^context is None; "):
        Attention(8, 2, dropout=0.0, attention_dropout=0.0, crosses=True)(
            torch.zeros(1, 4, 8), torch.ones(1, 4, dtype=torch.bool)
        )


@torch.no_grad()
def test_attention_drops_out_in_training_only() -> None:
    attention, states = Attention(8, 2, dropout=0.3, attention_dropout=0.3), random_states(1, 4, 8)
    assert not torch.equal(attention.train()(states, everything(states)), attention(states, everything(states)))
    attention.train(False)
    assert torch.equal(attention(states, everything(states)), attention(states, everything(states)))


@torch.no_grad()
def test_attention_dropout_leaves_half_of_the_keys_out_and_doubles_the_others() -> None:
    attention = plain_attention(crosses=True).train()
    attention.attention_dropout = 0.5
    torch.manual_seed(0)
    attended = attention(
        torch.tensor([[UP]] * 1000), torch.ones(1000, 1, dtype=torch.bool), torch.tensor([[UP]] * 1000)
    )
    added = attended[:, 0] - torch.tensor(UP)  # the only key's value is [1, -1]
    assert set(added[:, 0].round().tolist()) == {0.0, 2.0}
    assert added[:, 0].mean().item() == pytest.approx(1.0, abs=0.1)


@torch.no_grad()
def test_dropout_alone_leaves_the_attention_weights_alone() -> None:
    attention = plain_attention(crosses=True).train()
    attention.dropout = 0.5
    torch.manual_seed(0)
    states, context = torch.tensor([[UP]] * 1000), torch.tensor([[UP, UP]] * 1000)
    added = attention(states, everything(context), context)[:, 0, 0] - 30
    assert set(added.round().tolist()) == {0.0, 2.0}  # with one of the two keys left out it would be 1


# ---- feed-forward and layers


def hand_feed_forward(sign: float) -> FeedForward:
    """One inner place, 100 times the first normed feature; it adds 1 and 0.5 times what comes out."""
    feed_forward = FeedForward(2, 1, dropout=0.0)
    inner, outer = (layer for layer in feed_forward.layers if isinstance(layer, nn.Linear))
    with torch.no_grad():
        inner.weight.copy_(torch.tensor([[sign * 100.0, 0.0]]))
        inner.bias.zero_()
        outer.weight.copy_(torch.tensor([[1.0], [0.5]]))
        outer.bias.zero_()
    return feed_forward


@torch.no_grad()
def test_feed_forward_adds_what_its_two_linear_maps_make() -> None:
    assert hand_feed_forward(1.0)(torch.tensor([[UP]]))[0, 0].tolist() == pytest.approx([130.0, 60.0], abs=1e-3)


@torch.no_grad()
def test_feed_forward_is_not_linear_between_its_maps() -> None:
    assert hand_feed_forward(-1.0)(torch.tensor([[UP]]))[0, 0].tolist() == pytest.approx(UP, abs=1e-3)


@torch.no_grad()
def test_a_transformer_layer_attends_and_then_feeds_forward() -> None:
    layer = TransformerLayer(2, 1, 1, dropout=0.0, attention_dropout=0.0)
    layer.attention, layer.feed_forward = plain_attention(), hand_feed_forward(1.0)
    answer = math.tanh(SCORE)
    attended = layer(torch.tensor([[UP, DOWN]]), torch.tensor([[True, True]]))
    assert attended[0, 0].tolist() == pytest.approx([130 + answer, 60 - answer], abs=1e-3)
    assert attended[0, 1].tolist() == pytest.approx([10 - answer, 30 + answer], abs=1e-3)


@torch.no_grad()
def test_a_cross_layer_asks_the_audio_then_the_text_then_feeds_forward() -> None:
    layer = CrossLayer(2, 1, 1, dropout=0.0, attention_dropout=0.0)
    layer.cross_attention, layer.self_attention = plain_attention(crosses=True), plain_attention()
    layer.feed_forward = hand_feed_forward(1.0)
    with torch.no_grad():
        layer.cross_attention.value.weight.mul_(15.0)  # one audio frame, [-15, 15]: it turns UP round
        text, audio = torch.tensor([[UP]]), torch.tensor([[DOWN]])
    # [30, 10] hears [-15, 15] and is [15, 25]; asks itself and is [14, 26]; the feed-forward finds -1 and adds nothing.
    mixed = layer(text, everything(text), audio, everything(audio))
    assert mixed[0, 0].tolist() == pytest.approx([14.0, 26.0], abs=1e-3)


@torch.no_grad()
def test_a_cross_layer_keeps_to_both_masks() -> None:
    torch.manual_seed(0)
    layer = CrossLayer(8, 2, 16, dropout=0.0, attention_dropout=0.0)
    text, audio = random_states(1, 4, 8), random_states(1, 6, 8)
    masks = length_mask(torch.tensor([3]), 4), length_mask(torch.tensor([5]), 6)
    before = layer(text, masks[0], audio, masks[1])[:, :3]
    text[:, 3], audio[:, 5] = 100.0, -100.0
    torch.testing.assert_close(layer(text, masks[0], audio, masks[1])[:, :3], before, atol=1e-6, rtol=0)


def test_a_length_mask_is_true_for_what_is_real() -> None:
    assert length_mask(torch.tensor([0, 2, 3]), 3).tolist() == [[False] * 3, [True, True, False], [True] * 3]


# ---- attention of plain products


@pytest.mark.parametrize("scores_at_once", [1, 2**20])
@pytest.mark.parametrize("lengths", [[7, 7], [7, 3], [1, 7]])
@torch.inference_mode()
def test_attention_by_products_is_that_of_pytorch_in_each_round(
    lengths: list[int], scores_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_module, "SCORES_AT_ONCE", scores_at_once)
    query, key, value = random_states(3, 2, 5, 7, 6)
    mask = length_mask(torch.tensor(lengths), 7)
    answers, _ = attend_by_products(nn.Identity(), query, key, value, attended(mask), scaling=0.3)
    expected = F.scaled_dot_product_attention(query, key, value, mask[:, None, None], scale=0.3).transpose(1, 2)
    torch.testing.assert_close(answers[mask], expected[mask], atol=1e-5, rtol=0)
    assert not answers[~mask].any()


@torch.inference_mode()
def test_attention_by_products_in_bf16_does_not_suffer_from_what_all_keys_share() -> None:
    query, key, value = random_states(3, 1, 4, 60, 64)
    query, key, value = (each.bfloat16() for each in (query + 1, key + 3, value))
    exact = F.scaled_dot_product_attention(*(each.double() for each in (query, key, value)))
    by_pytorch = F.scaled_dot_product_attention(query, key, value)
    by_products = attend_by_products(nn.Identity(), query, key, value, None, scaling=64**-0.5)[0].transpose(1, 2)
    uncentred = torch.softmax((query * 64**-0.5) @ key.transpose(2, 3), dim=-1) @ value
    errors = [float((each - exact).norm() / exact.norm()) for each in (by_products, by_pytorch, uncentred)]
    assert errors[0] < 3 * errors[1] < 0.01
    assert errors[2] > 5 * errors[0]
