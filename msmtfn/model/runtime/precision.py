"""Number formats of the matrix products, and weights laid out, as the hardware has them.

Norms and softmax compute in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import torch
from torch import nn
from torch.nn.utils import skip_init
from torch.nn.utils.parametrize import is_parametrized

from msmtfn.model.attention import PRODUCTS
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.int8 import Int8Linear
from msmtfn.model.runtime.packed import PackedConv1d, PackedLinear, pack_convolution, packs

Precision = Literal["auto", "fp32", "bf16"]
ScoringPrecision = Literal["auto", "fp32", "bf16", "int8"]

BF16_INSTRUCTIONS: Final = ("amx_bf16", "avx512_bf16", "bf16")
"""As `torch.cpu.get_capabilities` names them; the last is ARM's."""

LEAST_BF16_CHANNELS: Final = 16
"""Fewest channels in a group of the positional convolution for bf16 on a CPU.

With 4 to 14 channels and 16 taps or more, oneDNN's bf16 kernels for AMX return numbers that have nothing to do with the
inputs (3.10 in torch 2.11, 3.12 in torch 2.14); such a convolution is small, so fp32 costs nothing."""


def uses_bf16(precision: ScoringPrecision, device: torch.device) -> bool:
    """Whether the matrix products are taken in bf16.

    Args:
        precision: `auto` takes bf16 on a GPU that has it, and fp32 on a CPU, so that leads do not depend on which; with
            `int8`, the products that are not taken in it are taken in bf16 where the CPU has instructions for it.
        device: that computes.
    """
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16" or (precision == "int8" and cpu_has_bf16())


def cpu_has_bf16() -> bool:
    """Whether this machine's CPU has instructions for products in bf16; without them they take four times as long."""
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in BF16_INSTRUCTIONS)


def autocast(precision: ScoringPrecision, device: torch.device) -> torch.autocast:
    """A context in which the matrix products are taken in that precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))


def narrow_weights(network: MsmtFn) -> None:
    """Take encoders and fusion to bf16 in place, states between the layers included, for rounds that are not padded.

    Autocast, which training needs, turns states to fp32 for each norm and back after it, and copies every weight for
    each batch. Norms and softmax compute in fp32 within themselves either way. Left as it is: the first convolution,
    into which a round's norm is folded in double precision.
    """
    audio = network.audio_encoder.model
    _, *convolutions = audio.feature_extractor.conv_layers
    for part in (*convolutions, audio.feature_projection, audio.encoder, network.text_encoder, network.fusion):
        part.to(torch.bfloat16)
    if network.device.type == "cpu":
        audio.set_attn_implementation(PRODUCTS)
        positions = audio.encoder.pos_conv_embed
        if positions.conv.in_channels // positions.conv.groups < LEAST_BF16_CHANNELS:
            positions.float()


def quantize_encoders(network: MsmtFn) -> None:
    """Take the linear layers of both encoders' transformers to int8 in place; everything else stays as it is."""
    for part in (network.audio_encoder.model.encoder.layers, network.text_encoder.model.encoder):
        _replace_linear_layers(part, Int8Linear)


@torch.no_grad()
def merge_weight_norm(network: MsmtFn) -> None:
    """Multiply out, in place, the weights that are kept as a direction and a length to train well.

    Not by PyTorch's `remove_parametrizations`, which takes them from every copy of the network too.
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


def pack_weights(network: MsmtFn) -> None:
    """Pack the weights of encoders and fusion in place for a CPU that can, for rounds that are not padded.

    They stay in the number format that they have, and their norms must be multiplied out. Left as they are: the first
    convolution, into which each round's norm is folded, and the pooling, of whose weight a part is used.

    Raises:
        ValueError: they are packed already.
    """
    audio, text, fusion = network.audio_encoder.model, network.text_encoder.model, network.fusion
    _, *layers = audio.feature_extractor.conv_layers
    if isinstance(layers[0].conv, PackedConv1d):
        raise ValueError("the network's weights are packed already: a second scorer needs a copy from before the first")
    if network.device.type != "cpu" or not packs(layers[0].conv.weight.dtype):
        return
    for layer in (*layers, audio.encoder.pos_conv_embed):
        pack_convolution(layer)
    for part in (audio.encoder, text, fusion.text_pathway, fusion.complementary_pathway, fusion.bottleneck):
        _replace_linear_layers(part, PackedLinear)


def _replace_linear_layers(module: nn.Module, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Put what is made of them in the place of all linear layers below a module."""
    children: list[tuple[str, Any]] = list(module.named_children())
    for name, child in children:
        if isinstance(child, nn.Linear):
            setattr(module, name, make(child))
        else:
            _replace_linear_layers(child, make)
