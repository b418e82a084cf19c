"""Fusion of the two encoders' states into one vector per round (paper, sections 3.4 and 3.5, equations 1 to 5).

Shapes: R rounds, A audio frames, T text tokens, S tokens of a stream, B bottleneck tokens, D width of the fusion.
A mask is True where a token is real.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import zip_longest

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from msmtfn.model.attention import Attention, CrossLayer, TransformerLayer
from msmtfn.model.config import MsmtFnConfig

EMBEDDING_STD = 0.02
"""Standard deviation of newly initialised learned vectors, as in BERT."""

NUM_SIDES = 2
"""Groups of tokens in `RoundFusion.forward_sides`: the whole round, and its audio alone."""


class ClassToken(nn.Module):
    """Projection of an encoder's states to the width of the fusion, with a learned [CLS] vector prepended."""

    def __init__(self, encoder_size: int, hidden_size: int) -> None:
        super().__init__()
        self.projection = nn.Identity() if encoder_size == hidden_size else nn.Linear(encoder_size, hidden_size)
        self.token = nn.Parameter(torch.empty(hidden_size).normal_(std=EMBEDDING_STD))

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map states (R, T, width of the encoder) and their mask (R, T) to (R, 1 + T, D) and (R, 1 + T)."""
        states = self.projection(states)
        token = self.token.to(states.dtype).expand(len(states), 1, -1)
        return torch.cat([token, states], dim=1), F.pad(mask, (1, 0), value=True)


class TextPathway(nn.Module):
    """Self-attention over the text, the backbone of the fusion."""

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Attention(config.hidden_size, config.num_attention_heads, config.dropout, config.attention_dropout)
            for _ in range(config.num_text_layers)
        )

    def forward(self, text: Tensor, mask: Tensor) -> Tensor:
        """Map (R, T, D) with its mask (R, T) or (R, T, T) to (R, T, D)."""
        for layer in self.layers:
            text = layer(text, mask)
        return text


class ComplementaryPathway(nn.Module):
    """Chain of layers in which the text queries the audio by cross-attention (equation 1)."""

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(CrossLayer(*_layer_sizes(config)) for _ in range(config.num_cross_layers))

    def forward(self, text: Tensor, text_mask: Tensor, audio: Tensor, audio_mask: Tensor) -> Tensor:
        """Map text (R, T, D) and audio (R, A, D), with their masks, to (R, T, D)."""
        for layer in self.layers:
            text = layer(text, text_mask, audio, audio_mask)
        return text


class BottleneckFusion(nn.Module):
    """Two streams that exchange information through a few learned bottleneck tokens only (equations 2 to 5).

    The output is the text stream T (`config.fused` is "text", as in the paper), or the mean of T and T_m ("mean", as in
    the original attention bottlenecks, Nagrani et al., 2021). The averaged bottleneck of equation 5 is read by the next
    layer, so T depends on T_m from two layers on. Where T alone is handed on, equations 4 and 5 of the last layer would
    have no effect, and that layer has no T_m part. With no layers there are no bottleneck tokens, and the output is the
    mean of the inputs, since nothing else would join them.
    """

    tokens: nn.Parameter

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        sizes, num_layers = _layer_sizes(config), config.num_bottleneck_layers
        self.hands_on_text = config.fused == "text" and num_layers > 0
        if num_layers:
            self.tokens = nn.Parameter(
                torch.empty(config.num_bottleneck_tokens, config.hidden_size).normal_(std=EMBEDDING_STD)
            )
        num_mixed_layers = num_layers - 1 if self.hands_on_text else num_layers
        self.text_layers = nn.ModuleList(TransformerLayer(*sizes) for _ in range(num_layers))
        self.mixed_layers = nn.ModuleList(TransformerLayer(*sizes) for _ in range(num_mixed_layers))
        self.norm = nn.LayerNorm(config.hidden_size)

    def forward(self, text: Tensor, mixed: Tensor, mask: Tensor, groups: Tensor | None = None) -> Tensor:
        """Fuse the text with the output of the complementary pathway.

        Args:
            text: (R, S, D), the text stream T.
            mixed: (R, S, D), the text-audio stream T_m.
            mask: (R, S) bool, the mask of both streams.
            groups: (S,) int, 0 or 1: tokens of different groups do not see each other, and each group has bottleneck
                tokens of its own; None for a single group.

        Returns:
            The fused text, (R, S, D).
        """
        if self.text_layers:
            text, mixed = self._exchange(text, mixed, mask, groups)
        fused: Tensor = self.norm(text if self.hands_on_text else (text + mixed) / 2)
        return fused

    def _exchange(self, text: Tensor, mixed: Tensor, mask: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor]:
        num_tokens = text.shape[1]
        bottleneck = self.tokens.to(text.dtype).expand(len(text), -1, -1)
        if groups is not None:
            of_bottleneck = torch.arange(NUM_SIDES, device=groups.device).repeat_interleave(bottleneck.shape[1])
            groups, bottleneck = torch.cat([groups, of_bottleneck]), bottleneck.repeat(1, NUM_SIDES, 1)
        mask = F.pad(mask, (0, bottleneck.shape[1]), value=True)  # every token may attend to the bottleneck
        mask = mask if groups is None else _within_groups(mask, groups)
        # Layer l of both streams, with T_z = [T || T_fsn || T_m] (equation 2) kept as its three parts:
        #   [T^(l+1)   || T_fsn'^(l+1)]  = Transformer([T^l   || T_fsn^l])     (equation 3)
        #   [T_m^(l+1) || T_fsn''^(l+1)] = Transformer([T_m^l || T_fsn^l])     (equation 4)
        #   T_fsn^(l+1) = (T_fsn'^(l+1) + T_fsn''^(l+1)) / 2                   (equation 5)
        for text_layer, mixed_layer in zip_longest(self.text_layers, self.mixed_layers):
            text_out = text_layer(torch.cat([text, bottleneck], dim=1), mask)
            text = text_out[:, :num_tokens]
            if mixed_layer is not None:
                mixed_out = mixed_layer(torch.cat([mixed, bottleneck], dim=1), mask)
                mixed = mixed_out[:, :num_tokens]
                bottleneck = (text_out[:, num_tokens:] + mixed_out[:, num_tokens:]) / 2
        return text, mixed


class RoundPooling(nn.Module):
    """Pooling of a round's fused text into one vector."""

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.pooling = config.pooling
        self.max_tokens = config.max_text_tokens + 1  # with the [CLS] vector
        width = config.hidden_size * (self.max_tokens if config.pooling == "flatten" else 1)
        self.projection = nn.Linear(width, config.hidden_size)

    def forward(self, fused: Tensor, mask: Tensor) -> Tensor:
        """Map (R, T, D) with its mask (R, T) to (R, D)."""
        if fused.shape[1] > self.max_tokens:
            raise ValueError(
                f"the text has {fused.shape[1] - 1} tokens; truncate it to max_text_tokens, {self.max_tokens - 1}"
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
        # The paper flattens text that is padded with zeros to the maximum length. Zeros contribute nothing to the
        # projection, so the columns of the weight that belong to them can be left out.
        weight = self.projection.weight[:, : pooled.shape[1]]
        return F.linear(pooled, weight, self.projection.bias)


class Fusion(nn.Module):
    """Fusion of the encoders' states of each round into one vector, as a network has it.

    `forward` takes audio states (R, A, width of the audio encoder) with their mask (R, A) and text states (R, T, width
    of the text encoder) with their mask (R, T), and returns one vector per round.
    """

    @property
    @abstractmethod
    def dense_parts(self) -> tuple[nn.Module, ...]:
        """Parts whose linear layers are used as a whole, so that their weights can be packed."""


class RoundFusion(Fusion):
    """Fusion of MSMT-FN: both pathways, the bottleneck and the pooling."""

    def __init__(self, config: MsmtFnConfig) -> None:
        super().__init__()
        self.audio_token = ClassToken(config.audio.hidden_size, config.hidden_size)
        self.text_token = ClassToken(config.text.hidden_size, config.hidden_size)
        self.text_pathway = TextPathway(config)
        self.complementary_pathway = ComplementaryPathway(config)
        self.bottleneck = BottleneckFusion(config)
        self.pooling = RoundPooling(config)

    @property
    def dense_parts(self) -> tuple[nn.Module, ...]:
        """All parts but the pooling, which uses a slice of its weight."""
        return self.text_pathway, self.complementary_pathway, self.bottleneck

    def forward(self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Fuse the encoders' states of each round into one vector.

        Args:
            audio: (R, A, width of the audio encoder).
            audio_mask: (R, A) bool; all False for a round without usable audio.
            text: (R, T, width of the text encoder).
            text_mask: (R, T) bool; all False for a round without text.

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

    def forward_sides(self, audio: Tensor, audio_mask: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        """Fuse each round as `forward` does, and its audio alone, in one pass; the arguments are those of `forward`.

        Without text a round has the text's [CLS] vector alone. Here that vector stands in the same sequence as the
        text, and masks keep the two apart: every layer treats tokens one by one but for its attention, and attention
        under such a mask is that of two sequences. So the audio's keys and values, which do not depend on the text, are
        computed once, and a round costs a token and a bottleneck more instead of another pass.

        Returns:
            (R, 2, D): the vectors of the whole rounds, and those of the same rounds without text.
        """
        audio, audio_mask = self.audio_token(audio, audio_mask)
        text, text_mask = self.text_token(text, text_mask)
        num_tokens = text.shape[1]
        text, keys = torch.cat([text, text[:, :1]], dim=1), F.pad(text_mask, (0, 1), value=True)
        groups = (torch.arange(num_tokens + 1, device=text.device) == num_tokens).long()
        mask = _within_groups(keys, groups)
        backbone = self.text_pathway(text, mask)
        mixed = self.complementary_pathway(text, mask, audio, audio_mask)
        fused = self.bottleneck(backbone, mixed, keys, groups)
        whole = self.pooling(fused[:, :num_tokens], text_mask)
        return torch.stack([whole, self.pooling(fused[:, num_tokens:], keys[:, num_tokens:])], dim=1)


def _within_groups(mask: Tensor, groups: Tensor) -> Tensor:
    """Return a mask (R, S, S) of the real keys (R, S) that are of the query's group (S,)."""
    return mask[:, None, :] & (groups[:, None] == groups)


def _layer_sizes(config: MsmtFnConfig) -> tuple[int, int, int, float, float]:
    """Return the constructor arguments of `CrossLayer` and `TransformerLayer`."""
    return (
        config.hidden_size,
        config.num_attention_heads,
        config.feed_forward_size,
        config.dropout,
        config.attention_dropout,
    )
