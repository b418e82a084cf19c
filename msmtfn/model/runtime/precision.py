"""Precision of the matrix products, and weights cast and packed for the hardware that runs them.

Normalisation and softmax always compute in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrize import is_parametrized

from msmtfn.model.runtime.int8 import Int8Linear
from msmtfn.model.runtime.packed import PackedConv1d, PackedLinear, can_pack, pack_convolution

if TYPE_CHECKING:
    from msmtfn.model.base import CallNetwork

Precision = Literal["auto", "fp32", "bf16"]
ScoringPrecision = Literal["auto", "fp32", "bf16", "int8"]

BF16_INSTRUCTIONS: Final = ("amx_bf16", "avx512_bf16", "bf16")
"""Names of the instructions in `torch.cpu.get_capabilities`; the last is ARM's."""

LEAST_BF16_CHANNELS: Final = 16
"""Fewest channels in a group of the positional convolution for bf16 on a CPU.

With 4 to 14 channels and 16 taps or more, oneDNN's bf16 kernels for AMX return numbers that have nothing to do with the
inputs (3.10 in torch 2.11, 3.12 in torch 2.14); such a convolution is small, so fp32 costs nothing."""


def uses_bf16(precision: ScoringPrecision, device: torch.device) -> bool:
    """Return whether matrix products run in bf16.

    Args:
        precision: "auto" is bf16 on a GPU that supports it and fp32 on any CPU, so that leads do not depend on the CPU;
            with "int8" the products that are not quantised run in bf16 if the CPU has instructions for it.
        device: the device that computes.
    """
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16" or (precision == "int8" and cpu_has_bf16())


def cpu_has_bf16() -> bool:
    """Return whether this CPU has instructions for bf16 products; emulated, they take four times as long."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BF16_INSTRUCTIONS)


def autocast(precision: ScoringPrecision, device: torch.device) -> torch.autocast:
    """Return a context manager in which matrix products run in the given precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))


def cast_to_bf16_(network: CallNetwork) -> None:
    """Cast the encoders and the fusion to bf16 in place, for inference with the unpadded encoding.

    The states between the layers are then bf16, too. Autocast, which training needs, casts them to fp32 and back around
    each normalisation and casts every weight for every batch. Normalisation and softmax compute in fp32 internally
    either way. The first convolution stays in fp32, since the normalisation is folded into it in double precision.
    """
    from msmtfn.model.attention import MATMUL_ATTENTION  # noqa: PLC0415 - late

    audio = network.audio_encoder.model
    _, *convolutions = audio.feature_extractor.conv_layers
    for part in (*convolutions, audio.feature_projection, audio.encoder, network.text_encoder, network.fusion):
        part.to(torch.bfloat16)
    if network.device.type == "cpu":
        audio.set_attn_implementation(MATMUL_ATTENTION)
        positions = audio.encoder.pos_conv_embed
        if positions.conv.in_channels // positions.conv.groups < LEAST_BF16_CHANNELS:
            positions.float()


def quantize_encoders(network: CallNetwork) -> None:
    """Replace the linear layers of both encoders' transformers by int8 ones, in place."""
    for part in (network.audio_encoder.model.encoder.layers, network.text_encoder.model.encoder):
        _replace_linear_layers(part, Int8Linear)


@torch.no_grad()
def merge_weight_norm(network: CallNetwork) -> None:
    """Replace the weight-normalised positional convolution by a plain one with the same weights, in place.

    Weight normalisation (Salimans and Kingma, 2016) keeps a weight as a direction and a length, w = g v / |v|, which
    helps training and costs time in inference. PyTorch's `remove_parametrizations` would also remove it from deep
    copies of the network, which share the parametrised class.
    """
    embedding = network.audio_encoder.model.encoder.pos_conv_embed
    conv = embedding.conv
    if not is_parametrized(conv, "weight"):
        return
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size
    merged = skip_init(nn.Conv1d, *sizes, padding=conv.padding, groups=conv.groups, device=conv.weight.device)
    merged.weight.copy_(conv.weight)
    merged.bias.copy_(conv.bias)
    embedding.conv = merged


def pack_weights(network: CallNetwork) -> None:
    """Pack the weights of the encoders and the fusion in place, for inference with the unpadded encoding.

    Does nothing on a GPU or on a CPU that cannot pack them. The weights keep their dtype, and `merge_weight_norm` must
    come first. Two parts stay as they are: the first convolution, into which the normalisation of each round is folded,
    and the pooling, which uses a slice of its weight.

    Raises:
        ValueError: the weights are already packed.
    """
    audio, text, fusion = network.audio_encoder.model, network.text_encoder.model, network.fusion
    _, *layers = audio.feature_extractor.conv_layers
    if isinstance(layers[0].conv, PackedConv1d):
        raise ValueError("the network's weights are packed already; give each scorer its own copy of the network")
    if network.device.type != "cpu" or not can_pack(layers[0].conv.weight.dtype):
        return
    for layer in (*layers, audio.encoder.pos_conv_embed):
        pack_convolution(layer)
    for part in (audio.encoder, text, *fusion.dense_parts):
        _replace_linear_layers(part, PackedLinear)


def _replace_linear_layers(module: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replace each linear layer inside a module, at any depth, by `make(layer)`."""
    children: list[tuple[str, Any]] = list(module.named_children())
    for name, child in children:
        if isinstance(child, nn.Linear):
            setattr(module, name, make(child))
        else:
            _replace_linear_layers(child, make)
