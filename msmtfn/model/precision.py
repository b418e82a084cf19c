"""Number formats of the matrix products: fp32, or bf16 where the hardware has it; norms and softmax stay in fp32."""

from __future__ import annotations

from typing import Literal

import torch

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
