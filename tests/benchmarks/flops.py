"""Floating-point operations: the number that the encoders need, by formula, and the rate of this machine.

A multiplication and an addition count as two operations. A convolution with T outputs, C input channels, C' output
channels and kernel size k takes 2 T k C C' operations, divided by its number of groups. A linear layer from D to D'
features over T states takes 2 T D D'. A transformer layer of width D and feed-forward width I over T states takes

    8 T D^2 (queries, keys, values and output: four linear layers)
    + 4 T^2 D (attention scores and weighted sums: two products of T x T by D)
    + 4 T D I (feed-forward: two linear layers).

Norms, activations, softmax, the fusion and the layers after it are not counted; they are less than a tenth of the
total.
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
    """Count the operations of both encoders over the rounds of the calls, without padding."""
    return sum(
        audio_flops(config, len(samples)) + text_flops(config, len(tokens))
        for call in calls
        for samples, tokens in zip(call.samples, call.tokens, strict=True)
    )


def audio_flops(config: MsmtFnConfig, num_samples: int) -> int:
    """Count the operations of HuBERT or wav2vec 2.0 over a round."""
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
    """Count the operations of BERT, RoBERTa or RoFormer over a round."""
    return int(config.text.num_hidden_layers * _layer_flops(config.text, num_tokens))


def _layer_flops(config: PreTrainedConfig, states: int) -> int:
    size, inner = int(config.hidden_size), int(config.intermediate_size)
    return 8 * states * size**2 + 4 * states**2 * size + 4 * states * size * inner


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Measure the rate of square matrix products on a device in TFLOP/s; slow, emulated formats use small matrices."""
    rate = 0.0
    for size in MATRIX_SIZES:
        left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        timer = Timer("left @ right", globals={"left": left, "right": right}, num_threads=torch.get_num_threads())
        seconds = min(timer.timeit(1).mean for _ in range(3))
        rate = 2 * size**3 / seconds / 1e12
        if seconds > SLOW_SEC:
            break
    return rate
