"""Attention blocks of the fusion (paper, section 3.4, equation 1).

Shapes: R rounds, Q queries, K keys, H heads, D width of the fusion.
Everywhere in this package a mask is True where a token is real and may be attended to, and False where it is padding.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

MATMUL_ATTENTION: Final = "matmul"
"""Name under which `matmul_attention` is registered with transformers."""

SCORES_PER_CHUNK: Final = 2**20
"""Maximum number of attention scores computed at a time: in bf16 they take 2 MB, which fits in a CPU's cache."""


class MultiHeadAttention(nn.Module):
    """Multi-head attention (equation 1), without a normalisation or a residual connection."""

    def __init__(self, hidden_size: int, num_heads: int, attention_dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.query = nn.Linear(hidden_size, hidden_size)
        # No bias on the keys: q.(k + b) = q.k + q.b adds the same number to all scores of a query, and the softmax
        # cancels it. The bias would never get a gradient.
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def attend(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Compute equation 1, softmax(Q K^T / sqrt(d_k)) V for each head, and join the heads.

        Args:
            queries: (R, Q, D), from which Q is computed.
            keys: (R, K, D), from which K and V are computed.
            mask: (R, K) bool, True for the real tokens among the keys, at least one in each round; or (R, Q, K) where
                not every query may attend to all of them.

        Returns:
            (R, Q, D).
        """
        heads = F.scaled_dot_product_attention(
            self._split_heads(self.query(queries)),
            self._split_heads(self.key(keys)),
            self._split_heads(self.value(keys)),
            attn_mask=mask[:, None] if mask.ndim == queries.ndim else mask[:, None, None, :],
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        joined: Tensor = self.out(heads.transpose(1, 2).flatten(2))
        return joined

    def _split_heads(self, states: Tensor) -> Tensor:
        rounds, tokens, _ = states.shape
        return states.view(rounds, tokens, self.num_heads, -1).transpose(1, 2)  # (R, H, Q or K, D / H)


class Attention(MultiHeadAttention):
    """Multi-head attention with layer normalisation before it and a residual connection around it.

    Pre-norm layers can be trained without a learning-rate warm-up.
    """

    def __init__(
        self, hidden_size: int, num_heads: int, dropout: float, attention_dropout: float, *, is_cross: bool = False
    ) -> None:
        super().__init__(hidden_size, num_heads, attention_dropout)
        self.dropout = dropout
        self.norm = nn.LayerNorm(hidden_size)
        self.context_norm = nn.LayerNorm(hidden_size) if is_cross else None

    def forward(self, states: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend from each state to the context, or to the states themselves in self-attention.

        Args:
            states: (R, Q, D).
            mask: (R, K) bool, True for the real tokens among the keys, at least one in each round; or (R, Q, K) where
                not every state may attend to all of them.
            context: (R, K, D), required for cross-attention and ignored for self-attention.

        Returns:
            (R, Q, D).
        """
        queries = self.norm(states)
        keys = queries
        if self.context_norm is not None:
            if context is None:
                raise ValueError("context is None; cross-attention needs the states to attend to")
            keys = self.context_norm(context)
        attended: Tensor = states + F.dropout(self.attend(queries, keys, mask), self.dropout, self.training)
        return attended


class FeedForward(nn.Module):
    """Pointwise feed-forward network with layer normalisation before it and a residual connection around it."""

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
    """Transformer layer: self-attention, then feed-forward."""

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
    """Layer of the complementary pathway: cross-attention, self-attention, then feed-forward."""

    def __init__(
        self, hidden_size: int, num_heads: int, inner_size: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.cross_attention = Attention(hidden_size, num_heads, dropout, attention_dropout, is_cross=True)
        self.self_attention = Attention(hidden_size, num_heads, dropout, attention_dropout)
        self.feed_forward = FeedForward(hidden_size, inner_size, dropout)

    def forward(self, states: Tensor, mask: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Let the text query the audio.

        Args:
            states: (R, Q, D), the text.
            mask: (R, Q) bool, True for real tokens.
            context: (R, K, D), the audio.
            context_mask: (R, K) bool, True for real frames.

        Returns:
            (R, Q, D).
        """
        states = self.cross_attention(states, context_mask, context)
        states = self.self_attention(states, mask)
        mapped: Tensor = self.feed_forward(states)
        return mapped


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Return a mask (R, size) that is True for the first `lengths[r]` positions of row r; `lengths` is (R,)."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def to_attention_mask(mask: Tensor) -> Tensor | None:
    """Broadcast a mask (R, K) to the (R, 1, 1, K) that `scaled_dot_product_attention` takes.

    Returns None, which lets PyTorch choose faster kernels, if all of the mask is True. This is checked on a CPU only:
    on a GPU the host would have to wait for all queued work to read the answer.
    """
    return None if not mask.is_cuda and bool(mask.all()) else mask[:, None, None, :]


def matmul_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    **_options: Any,
) -> tuple[Tensor, None]:
    """Compute self-attention as two plain matrix products and a softmax, one unpadded round at a time, for inference.

    In bf16 on a CPU it takes 0.6 times as long as PyTorch's kernel, which keeps the scores in fp32, tile by tile. Here
    the scores are rounded to bf16 before the softmax, with an error that grows with their size. To keep them small, the
    keys are centred, as in SageAttention (Zhang et al., ICLR 2025): with the mean key m of a round,

        q.(k - m) = q.k - q.m,

    and q.m is the same for all keys of a query, so the softmax cancels it. A component that all keys share then no
    longer uses up the 8 significant bits of a score.

    Args:
        query: (R, H, K, D / H).
        key: (R, H, K, D / H).
        value: (R, H, K, D / H).
        attention_mask: (R, 1, 1, K) bool, True for the first tokens of each round, at least one; None if all are real.
        scaling: factor applied to the scores, usually 1 / sqrt(D / H).

    Returns:
        (R, K, H, D / H), zero where the mask is False, and None in place of the attention weights.
    """
    num_rounds, num_heads, num_tokens, head_size = query.shape
    lengths = [num_tokens] * num_rounds if attention_mask is None else attention_mask.sum(dim=3).flatten().tolist()
    outputs = query.new_zeros(num_rounds, num_tokens, num_heads, head_size)
    for index, length in enumerate(lengths):
        queries, keys, values = (states[index, :, :length] for states in (query, key, value))
        keys_fp32 = keys.float()
        centred = ((keys_fp32 - keys_fp32.mean(dim=1, keepdim=True)) * scaling).to(keys.dtype).transpose(1, 2)
        chunk_size = max(1, SCORES_PER_CHUNK // length**2)
        for start in range(0, num_heads, chunk_size):
            heads = slice(start, start + chunk_size)
            scores = torch.bmm(queries[heads], centred[heads])
            weights = torch.softmax(scores, dim=-1, out=scores)
            outputs[index, :length, heads] = torch.bmm(weights, values[heads]).transpose(0, 1)
    return outputs, None


AttentionInterface.register(MATMUL_ATTENTION, matmul_attention)
