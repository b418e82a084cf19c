from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from msmtfn.model.network import MsmtFn
from msmtfn.model.precision import Precision, autocast, narrow_weights, uses_bf16


def test_auto_takes_full_precision_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert [uses_bf16(precision, cpu) for precision in ("auto", "fp32", "bf16")] == [False, False, True]


def test_matrix_products_are_taken_in_the_precision_that_is_asked_for() -> None:
    left, right = torch.randn(4, 4), torch.randn(4, 4)
    expected: dict[Precision, torch.dtype] = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
    for precision, dtype in expected.items():
        with autocast(precision, torch.device("cpu")):
            assert (left @ right).dtype == dtype


@pytest.mark.parametrize("padded", [False, True])
def test_narrowed_weights_give_what_autocast_gives_of_full_ones(
    tiny_network: Callable[..., MsmtFn], padded: bool
) -> None:
    network = tiny_network().train(False)
    narrowed = copy.deepcopy(network)
    narrow_weights(narrowed)
    assert sum(weight.dtype == torch.bfloat16 for weight in narrowed.parameters()) > 20
    rounds = (
        torch.randn(2, 9000),
        torch.tensor([9000, 5000]),
        torch.tensor([[2, 5, 3], [2, 3, 0]]),
        torch.tensor([3, 2]),
    )
    with torch.inference_mode(), autocast("bf16", torch.device("cpu")):
        vectors = [each.encode_rounds(*rounds, padded=padded) for each in (network, narrowed)]
    assert vectors[0].dtype == vectors[1].dtype
    assert torch.equal(*vectors)
