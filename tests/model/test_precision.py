from __future__ import annotations

import torch

from msmtfn.model.precision import Precision, autocast, uses_bf16


def test_auto_takes_full_precision_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert [uses_bf16(precision, cpu) for precision in ("auto", "fp32", "bf16")] == [False, False, True]


def test_matrix_products_are_taken_in_the_precision_that_is_asked_for() -> None:
    left, right = torch.randn(4, 4), torch.randn(4, 4)
    expected: dict[Precision, torch.dtype] = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
    for precision, dtype in expected.items():
        with autocast(precision, torch.device("cpu")):
            assert (left @ right).dtype == dtype
