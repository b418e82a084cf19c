"""Floating-point operations: what the encoders take, by formula, and what this machine gives in a second.

A product and a sum are two operations. Of a convolution of T outputs from C to C' channels with kernel k they are
2 T k C C' (divided by its groups), of a linear layer 2 T D D', and of a transformer's layer over T states of width D
with inner width I

    8 T D^2 (queries, keys, values, output) + 4 T^2 D (scores and their use) + 4 T D I (feed-forward).

Norms, activations, softmax, and the fusion and what follows it, less than a tenth, are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch.utils.benchmark import Timer
from transformers import PreTrainedConfig

from msmtfn.inference.scorer import CallRounds
from msmtfn.model.config import MsmtFnConfig

MATRIX_SIZES: Final = (512, 4096)
SLOW_SEC: Final = 0.05


def encoder_flops(config: MsmtFnConfig, calls: Sequence[CallRounds]) -> int:
    """Operations of both encoders over the rounds of some calls, as long as they are."""
    return sum(
        audio_flops(config, len(samples)) + text_flops(config, len(tokens))
        for call in calls
        for samples, tokens in zip(call.samples, call.tokens, strict=True)
    )


def audio_flops(config: MsmtFnConfig, num_samples: int) -> int:
    """Operations of HuBERT or wav2vec 2.0 over a round of so many samples."""
    convolutions, audio = config.convolutions, config.audio
    flops, states, channels = 0, num_samples, 1
    for width, kernel, stride in zip(
        convolutions.conv_dim, convolutions.conv_kernel, convolutions.conv_stride, strict=True
    ):
        states = max((states - kernel) // stride + 1, 0)
        flops += 2 * states * kernel * channels * width
        channels = width
    size = audio.hidden_size
    flops += 2 * states * channels * size
    flops += 2 * states * audio.num_conv_pos_embeddings * size * size // audio.num_conv_pos_embedding_groups
    return int(flops + audio.num_hidden_layers * _layer_flops(audio, states))


def text_flops(config: MsmtFnConfig, num_tokens: int) -> int:
    """Operations of BERT, RoBERTa or RoFormer over so many tokens."""
    return int(config.text.num_hidden_layers * _layer_flops(config.text, num_tokens))


def _layer_flops(config: PreTrainedConfig, states: int) -> int:
    size, inner = int(config.hidden_size), int(config.intermediate_size)
    return 8 * states * size**2 + 4 * states**2 * size + 4 * states * size * inner


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """TFLOP/s of the product of two square matrices on a device; of small ones where the format is emulated."""
    rate = 0.0
    for size in MATRIX_SIZES:
        left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        timer = Timer("left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads())
        seconds = min(timer.timeit(1).mean for _ in range(3))
        rate = 2 * size**3 / seconds / 1e12
        if seconds > SLOW_SEC:
            break
    return rate
