"""Layers for inference on CPUs whose weights are packed (reordered for oneDNN) once.

PyTorch reorders the weights of a convolution at every call, which for a short round takes as long as the convolution,
and runs the GELU after it as a second pass. It hands linear layers to oneDNN in bf16 only, and with unpacked weights.

Shapes: R rounds, A frames in, A' frames out, C channels in, C' channels out; N rows, K inputs, M outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from msmtfn.compat import pytorch as compat


class PackedConv1d(nn.Module):
    """Convolution with packed weights, fused with the GELU after it if there is one."""

    def __init__(self, conv: nn.Conv1d, *, gelu: bool) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.groups = conv.kernel_size, conv.stride, conv.groups
        self.padding = conv.padding
        self.activation = "gelu" if gelu else "none"
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach())
        weight = conv.weight.detach().unsqueeze(2).contiguous(memory_format=torch.channels_last)
        self.packed = compat.reorder_convolution_weight(weight, (0, 0), (1, *self.stride), (1, 1), self.groups)

    def forward(self, states: Tensor) -> Tensor:
        """Map (R, A, C) to (R, A', C') without padding; the channels are last in memory too."""
        image = states.transpose(1, 2).unsqueeze(2).contiguous(memory_format=torch.channels_last)
        mapped: Tensor = compat.convolution_pointwise(
            image, self.packed, self.bias, (0, 0), (1, *self.stride), (1, 1), self.groups, self.activation, [], "none"
        )
        return mapped.squeeze(2).transpose(1, 2)


class PackedLinear(nn.Module):
    """Linear layer with packed weights."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self.packed = compat.reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, states: Tensor) -> Tensor:
        """Map (..., N, K) to (..., N, M)."""
        mapped: Tensor = compat.linear_pointwise(states, self.packed, self.bias, "none", [], "")
        return mapped


def can_pack(dtype: torch.dtype) -> bool:
    """Return whether this CPU and this build of PyTorch support packed weights of a dtype."""
    return torch.backends.mkldnn.is_available() and (
        dtype == torch.float32 or (dtype == torch.bfloat16 and compat.is_bf16_supported())
    )


def pack_convolution(layer: Any) -> None:
    """Pack the convolution `conv` of a layer in place, fused with its activation if that is a GELU right after it."""
    from transformers.activations import GELUActivation  # noqa: PLC0415 - late: it imports all that models need

    gelu = isinstance(layer.activation, GELUActivation) and not hasattr(layer, "layer_norm")
    layer.conv = PackedConv1d(layer.conv, gelu=gelu)
    if gelu:
        layer.activation = nn.Identity()
