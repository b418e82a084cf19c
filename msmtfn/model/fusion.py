"""From the two encoders' states to one vector a round (paper, sections 3.4 and 3.5).

Shapes: R rounds, A audio frames, T text tokens, B bottleneck tokens, D width of the fusion.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msmtfn.model.attention import Attention, CrossLayer, TransformerLayer
from msmtfn.model.config import MsmtFnConfig

EMBEDDING_STD = 0.02
"""Standard deviation of a new learned vector, as in BERT."""


class ClassToken(nn.Module):
    """Brings an encoder's states to the fusion's width and puts a learned [CLS] vector before them."""

    def __init__(self, encoder_size: int, hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Identity() if encoder_size == hidden_size else nn.Linear(encoder_size, hidden_size)
        self.token = nn.Parameter(torch.empty(hidden_size).normal_(std=EMBEDDING_STD))

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, T, encoder's width) and its mask (R, T) to (R, 1 + T, D) and (R, 1 + T)."""
        states = self.projection(states)
        token = self.token.to(states.dtype).expand(len(states), 1, -1)
        return torch.cat([token, states], dim=1), F.pad(mask, (1, 0), value=True)


class TextPathway(nn.Module):
    """Self-attention over the text: the backbone."""

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Attention(config.hidden_size, config.num_attention_heads, config.dropout, config.attention_dropout)
            for _ in range(config.num_text_layers)
        )

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Map (R, T, D) under its mask (R, T) to (R, T, D)."""
        for layer in self.layers:
            text = layer(text, mask)
        return text


class ComplementaryPathway(nn.Module):
    """The text asks the audio, in chained layers: each goes on from the answer of the one before."""

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(*_layer_sizes(config)) for _ in range(config.num_cross_layers))

    def forward(self, text: Tensor, text_mask: Tensor, audio: Tensor, audio_mask: Tensor) -> Tensor:
        """Map text (R, T, D) and audio (R, A, D), with their masks, to (R, T, D)."""
        for layer in self.layers:
            text = layer(text, text_mask, audio, audio_mask)
        return text


class BottleneckFusion(nn.Module):
    """Two streams that speak through a few learned tokens (equations 2 to 5).

    In each layer each stream attends to itself and to the bottleneck tokens, both streams are carried on, and the two
    versions of the bottleneck are averaged. What is handed on is the mean of the streams, as the two are averaged at
    the end of the attention bottlenecks of Nagrani et al. (2021), so that no weight of the last layer is without use.
    Without a layer there are no bottleneck tokens, and the mean is all.
    """

    tokens: nn.Parameter

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        sizes, num_layers = _layer_sizes(config), config.num_bottleneck_layers
        if num_layers:
            self.tokens = nn.Parameter(
                torch.empty(config.num_bottleneck_tokens, config.hidden_size).normal_(std=EMBEDDING_STD)
            )
        self.text_layers = nn.ModuleList(TransformerLayer(*sizes) for _ in range(num_layers))
        self.mixed_layers = nn.ModuleList(TransformerLayer(*sizes) for _ in range(num_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, text: Tensor, mixed: Tensor, mask: Tensor) -> Tensor:
        """Fuse the text with what the complementary pathway made of it.

        Args:
            text: (R, T, D).
            mixed: (R, T, D).
            mask: (R, T) bool, of both.

        Returns:
            The fused text, (R, T, D).
        """
        if self.text_layers:
            text, mixed = self._exchange(text, mixed, mask)
        fused: Tensor = self.norm((text + mixed) / 2)
        return fused

    def _exchange(self, text: Tensor, mixed: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        num_tokens = text.shape[1]
        bottleneck = self.tokens.to(text.dtype).expand(len(text), -1, -1)
        mask = F.pad(mask, (0, bottleneck.shape[1]), value=True)  # every token may look at the bottleneck
        for text_layer, mixed_layer in zip(self.text_layers, self.mixed_layers, strict=True):
            text_out = text_layer(torch.cat([text, bottleneck], dim=1), mask)
            mixed_out = mixed_layer(torch.cat([mixed, bottleneck], dim=1), mask)
            text, mixed = text_out[:, :num_tokens], mixed_out[:, :num_tokens]
            bottleneck = (text_out[:, num_tokens:] + mixed_out[:, num_tokens:]) / 2
        return text, mixed


class RoundPooling(nn.Module):
    """One vector a round out of its fused text."""

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.max_tokens = config.max_text_tokens + 1  # the [CLS] vector before them
        width = config.hidden_size * (self.max_tokens if config.pooling == "flatten" else 1)
        self.projection = nn.Linear(width, config.hidden_size)

    def forward(self, fused: Tensor, mask: Tensor) -> Tensor:
        """Map (R, T, D) under its mask (R, T) to (R, D)."""
        if fused.shape[1] > self.max_tokens:
            raise ValueError(
                f"the text has {fused.shape[1] - 1} tokens; cut it to max_text_tokens, {self.max_tokens - 1}"
            )
        fused = fused.masked_fill(~mask[..., None], 0.0)
        if self.pooling == "cls":
            pooled = fused[:, 0]
        elif self.pooling == "mean":
            pooled = fused.sum(dim=1) / mask.sum(dim=1, keepdim=True)
        elif self.pooling == "max":
            pooled = fused.masked_fill(~mask[..., None], -math.inf).amax(dim=1)
        else:
            pooled = fused.flatten(1)
        # As published, zeros follow the text up to the most tokens that it may have: their weights are left out.
        weight = self.projection.weight[:, : pooled.shape[1]]
        return F.linear(pooled, weight, self.projection.bias)


class RoundFusion(nn.Module):
    """Both pathways, the bottleneck and the pooling: a round's states become its vector."""

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.audio_token = ClassToken(config.audio.hidden_size, config.hidden_size)
        self.text_token = ClassToken(config.text.hidden_size, config.hidden_size)
        self.text_pathway = TextPathway(config)
        self.complementary_pathway = ComplementaryPathway(config)
        self.bottleneck = BottleneckFusion(config)
        self.pooling = RoundPooling(config)

    def forward(self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Fuse rounds.

        Args:
            audio: (R, A, width of the audio encoder).
            audio_mask: (R, A) bool; a round without usable audio has no True.
            text: (R, T, width of the text encoder).
            text_mask: (R, T) bool; a round without text has no True.

        Returns:
            (R, D).
        """
        audio, audio_mask = self.audio_token(audio, audio_mask)
        text, text_mask = self.text_token(text, text_mask)
        backbone = self.text_pathway(text, text_mask)
        mixed = self.complementary_pathway(text, text_mask, audio, audio_mask)
        fused = self.bottleneck(backbone, mixed, text_mask)
        vectors: Tensor = self.pooling(fused, text_mask)
        return vectors


def _layer_sizes(config: MsmtFnConfig) -> tuple[int, int, int, float, float]:
    """The arguments of `CrossLayer` and of `TransformerLayer`."""
    return (
        config.hidden_size,
        config.num_attention_heads,
        config.feed_forward_size,
        config.dropout,
        config.attention_dropout,
    )
