"""Number formats of the matrix products: fp32, or bf16 where the hardware has it; norms and softmax stay in fp32."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from msmtfn.model.network import MsmtFn

Precision = Literal["auto", "fp32", "bf16"]


def uses_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether the matrix products are taken in bf16.

    Args:
        precision: `auto` takes bf16 on a GPU that has it, and fp32 on a CPU: few have instructions for bf16, and on the
            others it is slower.
        device: that computes.
    """
    return precision == "bf16" or (precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """A context in which the matrix products are taken in that precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=uses_bf16(precision, device))


def narrow_weights(network: MsmtFn) -> None:
    """Keep in bf16 the weights whose products are taken in it, in place; under `autocast` no result changes.

    Autocast makes such a copy of every weight for each batch, on two cores a fifth of the time. Left as they are: the
    first convolution, into which a round's norm may be folded in double precision, and what has a weight norm.
    """
    first, *_ = network.audio_encoder.model.feature_extractor.conv_layers
    for part in (network.audio_encoder, network.text_encoder, network.fusion):
        for module in part.modules():
            if isinstance(module, nn.Linear | nn.Conv1d) and module is not first.conv and not is_parametrized(module):
                module.to(torch.bfloat16)
