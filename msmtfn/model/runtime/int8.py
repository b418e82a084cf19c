"""Linear layers in 8-bit integers for CPUs with VNNI, where they run twice as many products a second as bf16.

Weights are quantised once with one scale per output, inputs at run time with one scale per row:

    x_nk ~ s_n a_nk  and  w_mk ~ t_m c_mk,  with integers a, c in [-127, 127], s_n = max_k |x_nk| / 127 and
    t_m = max_k |w_mk| / 127, hence  y_nm = sum_k x_nk w_mk + b_m ~ s_n t_m (sum_k a_nk c_mk) + b_m,

where the sum in brackets is an exact integer product. This dynamic quantisation needs no calibration data, and an
outlier costs precision in its own row only, not in the whole batch.

The operators come from `compat`: eager PyTorch's quantised layers take no scale per row and are being removed.

Shapes: N rows, K inputs, M outputs of a layer.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import torch
from torch import Tensor, nn

from msmtfn.compat import pytorch as compat
from msmtfn.errors import UsageError

MAX_CODE: Final = 127
ZERO_POINT: Final = 128
"""Code of zero in the inputs: VNNI multiplies unsigned inputs (a + 128) with signed weights."""

ROWS_PER_CHUNK: Final = 256
"""Rows that go through all steps together, so that their intermediate results stay in a CPU's cache."""

INTEGER_VIEW: Final = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
"""Integer type with the width of a floating-point type, to read its bits."""

ROUNDING_OFFSET: Final = 1.5 * 2**23
"""Adding this to a float32 x with |x| < 2^22 rounds x to an integer.

The sum lies in [2^23, 2^24), where a float32 has 24 significant bits and so a spacing of exactly 1: the addition
itself rounds to the nearest integer. Its bits are 0x4B400000 + round(x), so the lowest byte holds round(x) mod 256.
"""

MIN_SCALE: Final = 1e-12
"""Scale of a row of zeros, which must not be 0."""


class Int8Linear(nn.Module):
    """Linear layer in int8, accurate to about 1 %, for inference."""

    def __init__(self, linear: nn.Linear) -> None:
        if not int8_matmul_is_exact():
            raise UsageError(
                "this machine's CPU has no VNNI, without which int8 products overflow; choose another --precision"
            )
        super().__init__()
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(dim=1) / MAX_CODE).clamp(min=MIN_SCALE)
        codes = (weight / scales[:, None]).round().to(torch.int8)
        self.out_features = linear.out_features
        # Plain attributes, not buffers: these stay in fp32 when the rest of the network is cast to bf16.
        self.bias = torch.zeros(len(scales)) if linear.bias is None else linear.bias.detach().float()
        self.scales = scales
        self.zeros = torch.zeros(len(scales), dtype=torch.int64)
        self.packed = compat.qlinear_prepack(codes, None)

    def forward(self, states: Tensor) -> Tensor:
        """Map (..., K) to (..., M); the output has the dtype of the input."""
        rows = states.flatten(0, -2)
        outputs = rows.new_empty(len(rows), self.out_features)
        for chunk, output in zip(rows.split(ROWS_PER_CHUNK), outputs.split(ROWS_PER_CHUNK), strict=True):
            codes, scales = _quantize_rows(chunk)
            product = _int8_matmul(codes, self.packed, self.scales, self.zeros)
            output.copy_(product.mul_(scales).add_(self.bias))
        return outputs.view(*states.shape[:-1], self.out_features)


def _quantize_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise rows (N, K) to codes a + 128, (N, K) uint8, with scales s, (N, 1) float32.

    This takes a fifth of a layer's time, hence the tricks with the bits.
    """
    # With the sign bit cleared, IEEE 754 numbers are ordered as the integers with the same bits, so an integer maximum
    # finds the largest magnitude. Infinities and NaNs have the largest integers of all and so turn their whole row
    # into non-finite numbers.
    bits = INTEGER_VIEW[rows.dtype]
    largest = rows.view(bits).bitwise_and(torch.iinfo(bits).max).amax(dim=1, keepdim=True).view(rows.dtype)
    scales = largest.float().div_(MAX_CODE).clamp_(min=MIN_SCALE)
    # Rounds, and adds the zero point; the conversion to uint8 keeps the lowest byte (see `ROUNDING_OFFSET`).
    codes = (rows * scales.reciprocal()).add_(ROUNDING_OFFSET + ZERO_POINT).view(torch.int32).to(torch.uint8)
    return codes, scales


def _int8_matmul(codes: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor) -> Tensor:
    """Multiply the codes (N, K) of inputs with packed codes (M, K) of a weight and its scales t, giving (N, M) float32.

    The scales of the inputs are left to the caller: the operator takes one for all rows, here 1.
    """
    product: Tensor = compat.qlinear_pointwise(
        codes, 1.0, ZERO_POINT, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


@cache
def int8_matmul_is_exact() -> bool:
    """Return whether int8 products of the largest codes are exact on this CPU.

    Without VNNI, oneDNN's instructions add pairs of products in 16 bits, which saturate.
    """
    size = 64
    codes = torch.full((size, size), ZERO_POINT + MAX_CODE, dtype=torch.uint8)
    try:
        packed = compat.qlinear_prepack(torch.full((size, size), MAX_CODE, dtype=torch.int8), None)
        product = _int8_matmul(codes, packed, torch.ones(size), torch.zeros(size, dtype=torch.int64))
    except RuntimeError:  # this build of PyTorch lacks the operators
        return False
    return bool((product == size * MAX_CODE**2).all())
