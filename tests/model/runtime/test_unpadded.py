from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from msmtfn.model.encoders import AudioEncoder
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime import unpadded
from msmtfn.model.runtime.packed import PackedConv1d
from msmtfn.model.runtime.precision import merge_weight_norm, pack_weights

MAX_SAMPLES = 16_000  # two seconds at 8 kHz, the longest round of the tiny network
AUDIO = {
    "hidden_size": 24,
    "conv_dim": [16] * 7,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
KINDS = {
    "hubert-group": {"model_type": "hubert", **AUDIO},
    "hubert-group-bias": {"model_type": "hubert", "conv_bias": True, **AUDIO},
    "hubert-group-wide": {
        "model_type": "hubert",
        **AUDIO,
        "conv_dim": [16] * 3,
        "conv_kernel": [160, 8, 8],
        "conv_stride": [40, 4, 5],
    },
    "hubert-odd": {"model_type": "hubert", **AUDIO, "num_conv_pos_embeddings": 15},
    "hubert-layer": {"model_type": "hubert", "feat_extract_norm": "layer", "do_stable_layer_norm": True, **AUDIO},
    "wav2vec2-group": {"model_type": "wav2vec2", **AUDIO},
    "wav2vec2-layer": {"model_type": "wav2vec2", "feat_extract_norm": "layer", "conv_bias": True, **AUDIO},
}


@pytest.fixture(scope="module", params=KINDS)
def network(request: pytest.FixtureRequest, tiny_network: Callable[..., MsmtFn]) -> MsmtFn:
    network = tiny_network(audio_config=KINDS[request.param])
    with torch.no_grad():  # an untrained norm has scale 1 and shift 0
        for parameter in network.audio_encoder.model.feature_extractor.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return network


@pytest.fixture(scope="module")
def encoder(network: MsmtFn) -> AudioEncoder:
    return network.audio_encoder


@pytest.fixture(scope="module", params=["training", "scoring"])
def fast(request: pytest.FixtureRequest, network: MsmtFn) -> AudioEncoder:
    """Return the encoder whose unpadded states must equal the padded ones of `encoder`."""
    if request.param == "training":
        return network.audio_encoder
    packed = copy.deepcopy(network)
    merge_weight_norm(packed)
    pack_weights(packed)
    assert any(isinstance(module, PackedConv1d) for module in packed.modules())
    return packed.audio_encoder


def rounds_of(lengths: list[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Make rounds of noise with an offset, with more noise in the padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(len(lengths), max(lengths), generator=generator) + 0.3, torch.tensor(lengths)


def assert_same_states(encoder: AudioEncoder, fast: AudioEncoder, lengths: list[int], seed: int = 0) -> None:
    waveforms, num_samples = rounds_of(lengths, seed)
    with torch.inference_mode():
        expected, expected_mask = encoder(waveforms, num_samples)
        states, mask = fast(waveforms, num_samples, padded=False)
    assert mask.sum(dim=1).tolist() == expected_mask.sum(dim=1).tolist()
    torch.testing.assert_close(states[mask], expected[expected_mask], atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(lengths=st.lists(st.integers(1, MAX_SAMPLES), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_unpadded_states_equal_padded_ones_in_all_real_frames(
    encoder: AudioEncoder, fast: AudioEncoder, lengths: list[int], seed: int
) -> None:
    assert_same_states(encoder, fast, lengths, seed)


@pytest.mark.parametrize(
    "lengths",
    [
        [MAX_SAMPLES],
        [MAX_SAMPLES, MAX_SAMPLES - 1, MAX_SAMPLES - 9, MAX_SAMPLES - 10],
        [400],
        [399, 400, 401],
        [1],
        [10, MAX_SAMPLES],
        [1559, 1560, 1561, MAX_SAMPLES - 159, MAX_SAMPLES - 160],
    ],
)
def test_unpadded_states_equal_padded_ones_at_edge_lengths(
    encoder: AudioEncoder, fast: AudioEncoder, lengths: list[int]
) -> None:
    assert_same_states(encoder, fast, lengths)


@pytest.mark.parametrize("windows", [1, 200, 1000])
def test_unpadded_states_equal_padded_ones_when_computed_in_chunks(
    encoder: AudioEncoder, fast: AudioEncoder, windows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpadded, "CHUNK_WINDOWS", windows)
    assert_same_states(encoder, fast, [9000, 7777, 399])


def test_a_batch_of_rounds_below_the_receptive_field_has_no_frame(encoder: AudioEncoder) -> None:
    _, mask = encoder(*rounds_of([399, 20]), padded=False)
    assert not mask.any()


def test_silence_has_the_same_states_unpadded(encoder: AudioEncoder) -> None:
    waveforms, num_samples = torch.zeros(2, 4000), torch.tensor([4000, 900])
    with torch.inference_mode():
        expected, expected_mask = encoder(waveforms, num_samples)
        states, mask = encoder(waveforms, num_samples, padded=False)
    torch.testing.assert_close(states[mask], expected[expected_mask], atol=1e-4, rtol=0)


def test_every_weight_has_the_same_gradient_unpadded(encoder: AudioEncoder) -> None:
    waveforms, num_samples = rounds_of([5000, 1200])
    gradients: list[dict[str, Tensor]] = []
    for padded in (True, False):
        encoder.zero_grad()
        states, mask = encoder(waveforms, num_samples, padded=padded)
        (states[mask] * torch.linspace(-1, 1, states.shape[2])).sum().backward()
        gradients.append({name: weight.grad for name, weight in encoder.named_parameters() if weight.grad is not None})
    cancelled = {"model.feature_extractor.conv_layers.0.conv.bias"} - gradients[1].keys()  # the norm cancels it
    assert gradients[0].keys() - cancelled == gradients[1].keys()
    for name, gradient in gradients[1].items():
        expected = gradients[0][name]
        torch.testing.assert_close(gradient, expected, atol=1e-4 * float(expected.abs().max()) + 1e-5, rtol=0)


def test_the_logits_are_the_same_unpadded(tiny_network: Callable[..., Any]) -> None:
    network = tiny_network()
    waveforms, num_samples = rounds_of([9000, 300, 16_000])
    tokens = torch.randint(5, 15, (3, 8)), torch.tensor([8, 3, 0])
    with torch.inference_mode():
        plain = network.classify_calls(network.encode_rounds(waveforms, num_samples, *tokens), [2, 1])
        fast = network.classify_calls(network.encode_rounds(waveforms, num_samples, *tokens, padded=False), [2, 1])
    for task in plain:
        torch.testing.assert_close(fast[task], plain[task], atol=1e-4, rtol=0)
