from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.precision import (
    Precision,
    autocast,
    cast_to_bf16_,
    merge_weight_norm,
    pack_weights,
    uses_bf16,
)


def test_auto_is_fp32_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert [uses_bf16(precision, cpu) for precision in ("auto", "fp32", "bf16")] == [False, False, True]


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"avx512_vnni": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_bf16": False, "amx_bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
    ],
)
def test_int8_uses_bf16_for_the_rest_if_the_cpu_supports_it(
    capabilities: dict[str, Any], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert uses_bf16("int8", torch.device("cpu")) is expected


def test_matrix_products_run_in_the_requested_precision() -> None:
    left, right = torch.randn(4, 4), torch.randn(4, 4)
    expected: dict[Precision, torch.dtype] = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
    for precision, dtype in expected.items():
        with autocast(precision, torch.device("cpu")):
            assert (left @ right).dtype == dtype


@pytest.fixture
def rounds() -> tuple[torch.Tensor, ...]:
    """Two rounds as arguments of `encode_rounds`."""
    return (
        torch.randn(2, 9000, generator=torch.Generator().manual_seed(0)),
        torch.tensor([9000, 5000]),
        torch.tensor([[2, 5, 3], [2, 3, 0]]),
        torch.tensor([3, 2]),
    )


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_a_network_cast_to_bf16_is_about_as_accurate_as_with_autocast(
    tiny_network: Callable[..., MsmtFn], rounds: tuple[torch.Tensor, ...], kind: str
) -> None:
    network = tiny_network(audio_config={**tiny_network().config.audio.to_dict(), "feat_extract_norm": kind})
    in_bf16 = copy.deepcopy(network)
    merge_weight_norm(in_bf16)
    cast_to_bf16_(in_bf16)
    with torch.inference_mode():
        exact = network.encode_rounds(*rounds, padded=False)
        vectors = in_bf16.encode_rounds(*rounds, padded=False)
        with autocast("bf16", torch.device("cpu")):
            autocasted = network.encode_rounds(*rounds, padded=False)
    assert vectors.dtype == torch.bfloat16
    errors = [float((found.float() - exact).norm() / exact.norm()) for found in (vectors, autocasted)]
    assert 0 < errors[0] < max(2 * errors[1], 0.01)


def test_merging_weight_norms_changes_nothing(
    tiny_network: Callable[..., MsmtFn], rounds: tuple[torch.Tensor, ...]
) -> None:
    network = tiny_network()
    merged = copy.deepcopy(network)
    merge_weight_norm(merged)
    assert len(list(merged.parameters())) == len(list(network.parameters())) - 1
    with torch.inference_mode():
        assert torch.equal(*(model.encode_rounds(*rounds, padded=False) for model in (network, merged)))


@torch.inference_mode()
def test_a_positional_convolution_with_few_channels_per_group_is_as_exact_in_bf16_on_every_cpu(
    tiny_network: Callable[..., MsmtFn],
) -> None:
    # 24 channels in two groups: oneDNN's bf16 kernels for AMX give unrelated numbers for 12 channels and 16 taps.
    network = tiny_network()
    rounds = (torch.randn(1, 9000), torch.tensor([9000]), torch.tensor([[2, 5, 3]]), torch.tensor([3]))
    exact = network.encode_rounds(*rounds, padded=False)
    merge_weight_norm(network)
    cast_to_bf16_(network)
    pack_weights(network)
    cast = network.encode_rounds(*rounds, padded=False).float()
    assert (cast - exact).norm() < 0.03 * exact.norm()
