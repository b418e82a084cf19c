from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import GELUActivation

from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.packed import PackedConv1d, PackedLinear, can_pack, pack_convolution
from msmtfn.model.runtime.precision import cast_to_bf16_, merge_weight_norm, pack_weights

needs_packing = pytest.mark.skipif(not can_pack(torch.float32), reason="this build of PyTorch has no oneDNN")
CHANNELS, OUTPUTS = 12, 24
UNPACKED = (
    "audio_encoder.model.feature_projection",
    "fusion.audio_token",
    "fusion.text_token",
    "fusion.pooling",
    "context",
    "heads",
)


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "frames"), [(3, 2, 1, 50), (2, 2, 1, 3), (16, 1, 3, 40), (5, 1, 1, 5), (1, 3, 2, 7)]
)
@pytest.mark.parametrize("rounds", [1, 3])
@needs_packing
@torch.inference_mode()
def test_a_packed_convolution_equals_the_plain_one(
    kernel: int, stride: int, groups: int, frames: int, rounds: int, *, bias: bool, gelu: bool
) -> None:
    torch.manual_seed(0)
    conv = nn.Conv1d(CHANNELS, OUTPUTS, kernel, stride, groups=groups, bias=bias)
    states = torch.randn(rounds, frames, CHANNELS)
    expected = conv(states.transpose(1, 2)).transpose(1, 2)
    found = PackedConv1d(conv, gelu=gelu)(states)
    torch.testing.assert_close(found, F.gelu(expected) if gelu else expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("rounds", [1, 3])
@needs_packing
@torch.inference_mode()
def test_states_of_any_memory_layout_are_accepted(rounds: int) -> None:
    conv = PackedConv1d(nn.Conv1d(CHANNELS, OUTPUTS, 3), gelu=True)
    states = torch.randn(rounds, CHANNELS, 30).transpose(1, 2)
    torch.testing.assert_close(conv(states), conv(states.contiguous()))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, CHANNELS), (50, CHANNELS), (3, 7, CHANNELS), (1, 1, CHANNELS)])
@needs_packing
@torch.inference_mode()
def test_a_packed_linear_layer_equals_the_plain_one(shape: tuple[int, ...], *, bias: bool) -> None:
    torch.manual_seed(0)
    linear, states = nn.Linear(CHANNELS, OUTPUTS, bias=bias), torch.randn(*shape)
    packed = PackedLinear(linear)
    torch.testing.assert_close(packed(states), linear(states), atol=1e-5, rtol=0)
    strided = states.transpose(0, -1).contiguous().transpose(0, -1)
    torch.testing.assert_close(packed(strided), linear(states), atol=1e-5, rtol=0)
    view = torch.cat([states, states], dim=-1)[..., :CHANNELS]
    torch.testing.assert_close(packed(view), linear(states), atol=1e-5, rtol=0)


@needs_packing
def test_only_a_gelu_right_after_the_convolution_is_fused() -> None:
    class Layer(nn.Module):
        def __init__(self, activation: nn.Module, *, normed: bool = False) -> None:
            super().__init__()
            self.conv, self.activation = nn.Conv1d(CHANNELS, OUTPUTS, 3), activation
            if normed:
                self.layer_norm = nn.LayerNorm(OUTPUTS)

    relu, normed = Layer(nn.ReLU()), Layer(GELUActivation(), normed=True)
    for layer in (relu, normed):
        before = layer.activation
        pack_convolution(layer)
        assert layer.activation is before
        assert layer.conv.activation == "none"
    fused = Layer(GELUActivation())
    pack_convolution(fused)
    assert isinstance(fused.activation, nn.Identity)
    assert fused.conv.activation == "gelu"


@needs_packing
@torch.inference_mode()
def test_a_packed_network_gives_the_same_vectors(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    packed = copy.deepcopy(network)
    merge_weight_norm(packed)
    pack_weights(packed)
    torch.manual_seed(0)
    rounds = torch.randn(3, 9000), torch.tensor([9000, 5000, 20]), torch.tensor([[2, 5, 3], [2, 3, 0], [0, 0, 0]])
    lengths = torch.tensor([3, 2, 0])
    expected = network.encode_rounds(*rounds, lengths)
    torch.testing.assert_close(packed.encode_rounds(*rounds, lengths, padded=False), expected, atol=1e-4, rtol=0)
    plain = {name for name, module in packed.named_modules() if type(module) is nn.Linear}
    assert plain == {
        name for name, module in network.named_modules() if type(module) is nn.Linear and name.startswith(UNPACKED)
    }


@needs_packing
def test_packing_a_network_twice_is_refused(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    merge_weight_norm(network)
    pack_weights(network)
    with pytest.raises(ValueError, match="packed already"):
        pack_weights(network)


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="this CPU or this build of PyTorch cannot pack bf16")
@torch.inference_mode()
def test_packing_a_bf16_network_loses_no_precision(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    in_bf16 = copy.deepcopy(network)
    merge_weight_norm(in_bf16)
    cast_to_bf16_(in_bf16)
    packed = copy.deepcopy(in_bf16)
    pack_weights(packed)
    assert any(isinstance(module, PackedConv1d) for module in packed.modules())
    rounds = (
        torch.randn(2, 9000),
        torch.tensor([9000, 5000]),
        torch.tensor([[2, 5, 3], [2, 3, 0]]),
        torch.tensor([3, 2]),
    )
    exact, plain, found = (model.encode_rounds(*rounds, padded=False).float() for model in (network, in_bf16, packed))
    assert 0 < float((found - exact).norm()) < 1.5 * float((plain - exact).norm())
