"""Fusion of MMML (Wu et al., 2023): text and audio ask each other in parallel, layer by layer.

Unlike the fusion of MSMT-FN, both streams are treated alike, and norms come after the sums, as in BERT.

Shapes: R rounds, A audio frames, T text tokens, Q queries, K keys, D width of the fusion.
A mask is True where a token is real.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msmtfn.model.attention import MultiHeadAttention
from msmtfn.model.config import MmmlConfig
from msmtfn.model.fusion import ClassToken, Fusion

NORM_EPS: Final = 1e-12


class PostNormAttention(MultiHeadAttention):
    """Multi-head attention with a residual connection around it and layer normalisation after the sum."""

    def __init__(self, hidden_size: int, num_heads: int, dropout: float, attention_dropout: float) -> None:
        super().__init__(hidden_size, num_heads, attention_dropout)
        self.dropout = dropout
        self.norm = nn.LayerNorm(hidden_size, NORM_EPS)

    def forward(self, states: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """Let states (R, Q, D) attend to a context (R, K, D) under its mask (R, K); returns (R, Q, D)."""
        attended = self.attend(states, context, mask)
        normed: Tensor = self.norm(states + F.dropout(attended, self.dropout, self.training))
        return normed


class PostNormFeedForward(nn.Module):
    """Pointwise feed-forward network with ReLU, a residual connection around it and normalisation after the sum."""

    def __init__(self, hidden_size: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(hidden_size, inner_size), nn.ReLU(), nn.Linear(inner_size, hidden_size), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(hidden_size, NORM_EPS)

    def forward(self, states: Tensor) -> Tensor:
        """Map (R, Q, D) to (R, Q, D)."""
        normed: Tensor = self.norm(states + self.layers(states))
        return normed


class StreamLayer(nn.Module):
    """One stream's part of a layer: cross-attention to the other stream, self-attention, feed-forward."""

    def __init__(self, config: MmmlConfig) -> None:
        super().__init__()
        sizes = config.hidden_size, config.num_attention_heads, config.dropout, config.attention_dropout
        self.cross_attention = PostNormAttention(*sizes)
        self.self_attention = PostNormAttention(*sizes)
        self.feed_forward = PostNormFeedForward(config.hidden_size, config.feed_forward_size, config.dropout)

    def forward(self, states: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
        """Map a stream (R, Q, D) with its mask (R, Q), given the other (R, K, D) with its mask (R, K), to (R, Q, D)."""
        states = self.cross_attention(states, other, other_mask)
        states = self.self_attention(states, states, mask)
        mapped: Tensor = self.feed_forward(states)
        return mapped


class CrossModalLayer(nn.Module):
    """Layer in which text asks audio and audio asks text, in parallel: both read the layer's inputs."""

    def __init__(self, config: MmmlConfig) -> None:
        super().__init__()
        self.text = StreamLayer(config)
        self.audio = StreamLayer(config)

    def forward(self, text: Tensor, text_mask: Tensor, audio: Tensor, audio_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map text (R, T, D) and audio (R, A, D), with their masks, to the same shapes."""
        return self.text(text, text_mask, audio, audio_mask), self.audio(audio, audio_mask, text, text_mask)


class TextPooler(nn.Module):
    """Pooler of BERT: a linear layer and tanh over the state of the first token."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(size, size)

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Map text states (R, T, D) with their mask (R, T) to (R, D): zeros for a round without text."""
        has_text = mask.any(dim=1, keepdim=True)
        first = text[:, 0] if text.shape[1] else text.new_zeros(len(text), text.shape[2])
        pooled: Tensor = torch.tanh(self.dense(first)).masked_fill(~has_text, 0.0)
        return pooled


class MmmlFusion(Fusion):
    """Fusion of a round, and what the heads of each modality alone read.

    The vector of a round has four parts, of the sizes `part_sizes`: the [CLS] states of the text and of the audio after
    the last layer; T, the text encoder's pooled output; A, the mean of the valid audio states.
    """

    def __init__(self, config: MmmlConfig) -> None:
        super().__init__()
        width, audio_size, text_size = config.hidden_size, config.audio.hidden_size, config.text.hidden_size
        self.part_sizes = width, width, text_size, audio_size
        self.text_token = ClassToken(text_size, width)
        self.audio_token = ClassToken(audio_size, width)
        self.layers = nn.ModuleList(CrossModalLayer(config) for _ in range(config.num_cross_layers))
        self.text_pooler = TextPooler(text_size)

    @property
    def dense_parts(self) -> tuple[nn.Module, ...]:
        """The layers and the text pooler."""
        return self.layers, self.text_pooler

    def forward(self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Fuse the encoders' states of each round into one vector.

        Args:
            audio: (R, A, width of the audio encoder).
            audio_mask: (R, A) bool; all False for a round without usable audio.
            text: (R, T, width of the text encoder).
            text_mask: (R, T) bool; all False for a round without text.

        Returns:
            (R, sum of `part_sizes`).
        """
        text_alone = self.text_pooler(text, text_mask)
        audio_alone = _masked_mean(audio, audio_mask)
        text, text_mask = self.text_token(text, text_mask)
        audio, audio_mask = self.audio_token(audio, audio_mask)
        for layer in self.layers:
            text, audio = layer(text, text_mask, audio, audio_mask)
        return torch.cat([text[:, 0], audio[:, 0], text_alone, audio_alone], dim=1)


def _masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean (R, D) of the states (R, A, D) that the mask (R, A) keeps; zeros where it keeps none."""
    total = states.masked_fill(~mask[..., None], 0.0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)
