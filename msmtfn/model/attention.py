"""Attention blocks of the fusion (paper, section 3.4, equation 1).

Shapes: R rounds, Q queries, K keys, H heads, D width of the fusion.
A mask is True where a token is real and may be attended to, everywhere in this package.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

PRODUCTS: Final = "products"
"""Name by which transformers' models know `attend_by_products`."""

SCORES_AT_ONCE: Final = 2**20
"""Scores that are computed before they are used; 2 MB of them in bf16 stay in a CPU's cache."""


class Attention(nn.Module):
    """Multi-head attention with a norm before and a residual connection around it.

    The norm stands before the attention, so that a network of these trains without a warm-up.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, dropout: float, attention_dropout: float, *, crosses: bool = False
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.norm = nn.LayerNorm(hidden_size)
        self.context_norm = nn.LayerNorm(hidden_size) if crosses else None
        self.query = nn.Linear(hidden_size, hidden_size)
        # A bias on the keys adds the same to every score of a query, which the softmax takes away again: it
        # would be a weight that never learns.
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def forward(self, states: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Let each state ask the context, or the states themselves where there is none.

        Args:
            states: (R, Q, D).
            mask: (R, K) bool, True where a token of what is asked is real; at least one in each round.
            context: (R, K, D), what is asked in cross-attention.

        Returns:
            (R, Q, D).
        """
        queries = self.norm(states)
        asked = queries
        if self.context_norm is not None:
            if context is None:
                raise ValueError("context is None; cross-attention needs the states that are asked")
            asked = self.context_norm(context)
        answer = F.scaled_dot_product_attention(
            self._split_heads(self.query(queries)),
            self._split_heads(self.key(asked)),
            self._split_heads(self.value(asked)),
            attn_mask=mask[:, None, None, :],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        merged = self.out(answer.transpose(1, 2).flatten(2))
        attended: Tensor = states + F.dropout(merged, self.dropout, self.training)
        return attended

    def _split_heads(self, states: Tensor) -> Tensor:
        rounds, tokens, _ = states.shape
        return states.view(rounds, tokens, self.num_heads, -1).transpose(1, 2)  # (R, H, Q or K, D / H)


class FeedForward(nn.Module):
    """Pointwise feed-forward network with a norm before and a residual connection around it."""

    def __init__(self, hidden_size: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.Linear(hidden_size, inner_size),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(inner_size, hidden_size),
            nn.Dropout(dropout),
        )

    def forward(self, states: Tensor) -> Tensor:
        """Map (R, Q, D) to (R, Q, D)."""
        mapped: Tensor = self.layers(states)
        return states + mapped


class TransformerLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(
        self, hidden_size: int, num_heads: int, inner_size: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.attention = Attention(hidden_size, num_heads, dropout, attention_dropout)
        self.feed_forward = FeedForward(hidden_size, inner_size, dropout)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Map (R, Q, D) under a mask (R, Q) to (R, Q, D)."""
        states = self.attention(states, mask)
        mapped: Tensor = self.feed_forward(states)
        return mapped


class CrossLayer(nn.Module):
    """Cross-attention, self-attention, feed-forward: one layer of the complementary pathway."""

    def __init__(
        self, hidden_size: int, num_heads: int, inner_size: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.cross_attention = Attention(hidden_size, num_heads, dropout, attention_dropout, crosses=True)
        self.self_attention = Attention(hidden_size, num_heads, dropout, attention_dropout)
        self.feed_forward = FeedForward(hidden_size, inner_size, dropout)

    def forward(self, states: Tensor, mask: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Let the text ask the audio.

        Args:
            states: (R, Q, D), the text.
            mask: (R, Q) bool.
            context: (R, K, D), the audio.
            context_mask: (R, K) bool.

        Returns:
            (R, Q, D).
        """
        states = self.cross_attention(states, context_mask, context)
        states = self.self_attention(states, mask)
        mapped: Tensor = self.feed_forward(states)
        return mapped


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """True for the first `lengths` of `size` places: (R,) to (R, size) bool."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def attended(mask: Tensor) -> Tensor | None:
    """A mask (R, K) as PyTorch's attention takes it, (R, 1, 1, K) bool; None where all of it is seen to be True.

    A GPU is not asked: the host would wait for all that it has been given to do.
    """
    return None if not mask.is_cuda and bool(mask.all()) else mask[:, None, None, :]


def attend_by_products(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_options: Any,
) -> tuple[Tensor, None]:
    """Self-attention as two plain matrix products and a softmax, each round as long as it is, for inference.

    In bf16 on a CPU it takes 0.6 times as long as PyTorch's own, which keeps the scores in fp32, tile by tile. Here
    they are rounded to bf16 before the softmax. So that what is rounded is small, the keys' mean is taken from them: it
    adds the same to all scores of a query, and the softmax does not see it (Zhang et al. 2025, SageAttention).

    Args:
        query: (R, H, K, D / H).
        key: (R, H, K, D / H).
        value: (R, H, K, D / H).
        attention_mask: (R, 1, 1, K) bool, True for the first places of each round, at least one; None for all.
        scaling: of the scores.

    Returns:
        (R, K, H, D / H), zero where the mask is False, and None for the weights.
    """
    rounds, heads, places, size = query.shape
    lengths = [places] * rounds if attention_mask is None else attention_mask.sum(dim=3).flatten().tolist()
    answers = query.new_zeros(rounds, places, heads, size)
    for number, length in enumerate(lengths):
        asking, asked, told = (each[number, :, :length] for each in (query, key, value))
        wide = asked.float()
        centred = ((wide - wide.mean(dim=1, keepdim=True)) * scaling).to(asked.dtype).transpose(1, 2)
        at_once = max(1, SCORES_AT_ONCE // length**2)
        for start in range(0, heads, at_once):
            some = slice(start, start + at_once)
            scores = torch.bmm(asking[some], centred[some])
            weights = torch.softmax(scores, dim=-1, out=scores)
            answers[number, :length, some] = torch.bmm(weights, told[some]).transpose(0, 1)
    return answers, None


AttentionInterface.register(PRODUCTS, attend_by_products)
