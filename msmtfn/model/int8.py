"""Linear layers in 8-bit integers, for CPUs: twice as many products a second as in bf16, where there is VNNI.

A weight has a scale for each output, found once; an input has one for each row, found as it comes. Nothing has to be
calibrated on calls, and one large state makes the others of its own row coarse, not those of the batch.

The operators are those that torch.compile uses for such layers (torch/_inductor/fx_passes/quantization.py); the ones of
eager PyTorch know no scale for each row and are going away.

Shapes: N rows, K inputs, M outputs of a layer.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn

from msmtfn.errors import UsageError

LARGEST: Final = 127
ZERO: Final = 128
"""Inputs are unsigned, as the instructions have it, with zero in the middle; weights are signed."""

ROWS_AT_ONCE: Final = 256
"""Rows whose steps follow each other in a CPU's cache."""

SMALLEST_SCALE: Final = 1e-12
"""Of a row of zeros."""


class Int8Linear(nn.Module):
    """What a linear layer gives, to about one part in a hundred; for inference."""

    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        if not multiplies_rightly():
            raise UsageError(
                "this machine's CPU has no VNNI, without which products of int8 are wrong; choose another --precision"
            )
        super().__init__()
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(dim=1) / LARGEST).clamp(min=SMALLEST_SCALE)
        codes = (weight / scales[:, None]).round().to(torch.int8)
        self.out_features = linear.out_features
        self.register_buffer("bias", torch.zeros(len(scales)) if linear.bias is None else linear.bias.detach())
        self.scales = scales
        self.zeros = torch.zeros(len(scales), dtype=torch.int64)
        self.packed = torch.ops.onednn.qlinear_prepack(codes, None)

    def forward(self, states: Tensor) -> Tensor:
        """Map (..., K) to (..., M), both in the number format of the layer that this was."""
        rows = states.flatten(0, -2)
        outputs = rows.new_empty(len(rows), self.out_features)
        for some, place in zip(rows.split(ROWS_AT_ONCE), outputs.split(ROWS_AT_ONCE), strict=True):
            scales = (some.abs().amax(dim=1, keepdim=True).float() / LARGEST).clamp(min=SMALLEST_SCALE)
            codes = (some / scales).round_().add_(ZERO).to(torch.uint8)
            torch.addcmul(
                self.bias, _product(codes, self.packed, self.scales, self.zeros, states.dtype), scales, out=place
            )
        return outputs.view(*states.shape[:-1], self.out_features)


def _product(codes: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor, dtype: torch.dtype) -> Tensor:
    """Inputs' codes (N, K) times the packed ones of a weight (M, K), whose scales are its outputs'; (N, M)."""
    product: Tensor = torch.ops.onednn.qlinear_pointwise(
        codes, 1.0, ZERO, packed, scales, zeros, None, 1.0, 0, dtype, "none", [], ""
    )
    return product


@cache
def multiplies_rightly() -> bool:
    """Whether this CPU multiplies the largest numbers rightly; without VNNI, oneDNN cuts their sums off at 16 bits."""
    size = 64
    codes = torch.full((size, size), ZERO + LARGEST, dtype=torch.uint8)
    try:
        packed = torch.ops.onednn.qlinear_prepack(torch.full((size, size), LARGEST, dtype=torch.int8), None)
        product = _product(codes, packed, torch.ones(size), torch.zeros(size, dtype=torch.int64), torch.float32)
    except RuntimeError:  # this build of PyTorch has no such operators
        return False
    return bool((product == size * LARGEST**2).all())


def quantize_layers(module: nn.Module) -> None:
    """Replace all linear layers below a module, in place."""
    children: list[tuple[str, Any]] = list(module.named_children())
    for name, child in children:
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            quantize_layers(child)
