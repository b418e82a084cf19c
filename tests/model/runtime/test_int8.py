from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.int8 import ROWS_PER_CHUNK, Int8Linear, int8_matmul_is_exact
from msmtfn.model.runtime.precision import cast_to_bf16_, merge_weight_norm, quantize_encoders

needs_vnni = pytest.mark.skipif(not int8_matmul_is_exact(), reason="the CPU has no VNNI")


def random_states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def linear() -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(64, 48)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(5, 64), (2, 3, 64), (1, ROWS_PER_CHUNK + 3, 64)])
@needs_vnni
@torch.inference_mode()
def test_an_int8_layer_is_accurate_to_about_one_percent(
    linear: nn.Linear, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    states = random_states(*shape).to(dtype)
    found = Int8Linear(copy.deepcopy(linear).to(dtype))(states)
    assert found.dtype == dtype
    assert found.shape == (*shape[:-1], 48)
    assert 1e-3 < relative_error(found, linear(states.float())) < 0.015


@needs_vnni
@torch.inference_mode()
def test_integers_that_need_no_rounding_are_multiplied_exactly() -> None:
    linear = nn.Linear(3, 2)
    linear.weight.copy_(torch.tensor([[127.0, -1.0, 2.0], [-127.0, 5.0, 0.0]]))
    linear.bias.copy_(torch.tensor([1000.0, -1000.0]))
    states = torch.tensor([[127.0, -127.0, 3.0], [0.0, 0.0, 0.0], [-127.0, 1.0, 0.0]])
    assert Int8Linear(linear)(states).tolist() == [
        [127 * 127 + 127 + 6 + 1000, -127 * 127 - 635 - 1000],
        [1000, -1000],
        [-127 * 127 - 1 + 1000, 127 * 127 + 5 - 1000],
    ]


@needs_vnni
@torch.inference_mode()
def test_a_layer_without_bias_and_an_output_with_zero_weights_are_supported() -> None:
    linear = nn.Linear(64, 48, bias=False)
    linear.weight[3] = 0.0
    states = random_states(4, 64)
    found = Int8Linear(linear)(states)
    assert relative_error(found, linear(states)) < 0.015
    assert not found[:, 3].any()


@needs_vnni
@torch.inference_mode()
def test_an_outlier_affects_its_own_row_only(linear: nn.Linear) -> None:
    layer, states = Int8Linear(linear), random_states(4, 64)
    before = layer(states)
    states[1, 0] = 1000.0
    after = layer(states)
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])
    assert relative_error(after[1], linear(states[1])) < 0.015


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@needs_vnni
@torch.inference_mode()
def test_a_non_finite_state_makes_its_whole_row_non_finite(linear: nn.Linear, value: float, dtype: torch.dtype) -> None:
    layer, states = Int8Linear(linear), random_states(4, 64).to(dtype)
    before = layer(states)
    states[1, 5] = value
    after = layer(states)
    assert torch.equal(after[[0, 2, 3]], before[[0, 2, 3]])
    assert not after[1].isfinite().any()


@needs_vnni
@torch.inference_mode()
def test_only_the_linear_layers_of_the_encoders_are_quantised(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    layers = [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(("audio_encoder.model.encoder.layers.", "text_encoder.model.encoder."))
    ]
    rounds = (
        random_states(2, 9000),
        torch.tensor([9000, 5000]),
        torch.tensor([[2, 5, 3], [2, 3, 0]]),
        torch.tensor([3, 2]),
    )
    exact = network.encode_rounds(*rounds, padded=False)
    merge_weight_norm(network)
    quantize_encoders(network)
    cast_to_bf16_(network)
    found = {name: module for name, module in network.named_modules() if isinstance(module, Int8Linear)}
    assert list(found) == layers
    assert {layer.bias.dtype for layer in found.values()} == {torch.float32}
    config = network.config
    assert len(layers) == 6 * (config.audio.num_hidden_layers + config.text.num_hidden_layers)
    assert 0 < relative_error(network.encode_rounds(*rounds, padded=False), exact) < 0.02


@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_int8_is_refused_on_a_cpu_without_vnni(instructions: str) -> None:
    code = "from torch import nn; from msmtfn.model.runtime.int8 import Int8Linear; Int8Linear(nn.Linear(64, 48))"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "UsageError: this machine's CPU has no VNNI" in run.stderr
