"""Linear layers in 8-bit integers, for CPUs: twice as many products a second as in bf16, where there is VNNI.

A weight has a scale for each output, found once; an input has one for each row, found as it comes. Nothing has to be
calibrated on calls, and one large state makes the others of its own row coarse, not those of the batch.

The operators are those of `compat`: eager PyTorch's own know no scale for each row and are going away.

Shapes: N rows, K inputs, M outputs of a layer.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from torch import Tensor, nn

from msmtfn.compat import pytorch as compat
from msmtfn.errors import UsageError

LARGEST: Final = 127
ZERO: Final = 128
"""Inputs are unsigned, as the instructions have it, with zero in the middle; weights are signed."""

ROWS_AT_ONCE: Final = 256
"""Rows whose steps follow each other in a CPU's cache."""

BITS: Final = {torch.bfloat16: torch.int16, torch.float32: torch.int32}

ROUNDER: Final = 1.5 * 2**23
"""A float32 of this size has ones for its last digit."""

SMALLEST_SCALE: Final = 1e-12
"""Of a row of zeros."""


class Int8Linear(nn.Module):
    """What a linear layer gives, to about one part in a hundred; for inference."""

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
        # No buffers, which would be narrowed with the rest of the network.
        self.bias = torch.zeros(len(scales)) if linear.bias is None else linear.bias.detach().float()
        self.scales = scales
        self.zeros = torch.zeros(len(scales), dtype=torch.int64)
        self.packed = compat.qlinear_prepack(codes, None)

    def forward(self, states: Tensor) -> Tensor:
        """Map (..., K) to (..., M), both in the number format of the layer that this was."""
        rows = states.flatten(0, -2)
        outputs = rows.new_empty(len(rows), self.out_features)
        for some, place in zip(rows.split(ROWS_AT_ONCE), outputs.split(ROWS_AT_ONCE), strict=True):
            codes, scales = _encode(some)
            product = _product(codes, self.packed, self.scales, self.zeros)
            place.copy_(product.mul_(scales).add_(self.bias))
        return outputs.view(*states.shape[:-1], self.out_features)


def _encode(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (N, K) uint8 of rows, and the scales (N, 1) float32 that they were divided by.

    In few and fast steps: they are a fifth of a layer's time.
    """
    # Without their signs, numbers are in the order of their bits; what is no number comes last.
    bits = BITS[rows.dtype]
    largest = rows.view(bits).bitwise_and(torch.iinfo(bits).max).amax(dim=1, keepdim=True).view(rows.dtype)
    scales = largest.float().div_(LARGEST).clamp_(min=SMALLEST_SCALE)
    # So large a number leaves its last bits to the codes, to which what is added is rounded.
    codes = (rows * scales.reciprocal()).add_(ROUNDER + ZERO).view(torch.int32).to(torch.uint8)
    return codes, scales


def _product(codes: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Inputs' codes (N, K) times the packed ones of a weight (M, K), whose scales are its outputs'; (N, M) float32."""
    product: Tensor = compat.qlinear_pointwise(
        codes, 1.0, ZERO, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


@cache
def multiplies_rightly() -> bool:
    """Whether this CPU multiplies the largest numbers rightly; without VNNI, oneDNN cuts their sums off at 16 bits."""
    size = 64
    codes = torch.full((size, size), ZERO + LARGEST, dtype=torch.uint8)
    try:
        packed = compat.qlinear_prepack(torch.full((size, size), LARGEST, dtype=torch.int8), None)
        product = _product(codes, packed, torch.ones(size), torch.zeros(size, dtype=torch.int64))
    except RuntimeError:  # this build of PyTorch has no such operators
        return False
    return bool((product == size * LARGEST**2).all())
