"""Calls for the tests of the network, the logits of a network for them, and its weights without a gradient."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from msmtfn.model.base import CallNetwork

ROFORMER_SINUSOIDS = "text_encoder.model.encoder.embed_positions.weight"
"""Fixed table of sinusoids that transformers stores as a weight."""
TASKS = ["five", "four", "three", "two"]

TINY_TEXT: dict[str, Any] = {
    "hidden_size": 40,
    "vocab_size": 25,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}
TINY_AUDIO: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
WAV2VEC2 = {"model_type": "wav2vec2"} | TINY_AUDIO


@dataclass(frozen=True)
class Batch:
    """Inputs of the network."""

    waveforms: Tensor
    num_samples: Tensor
    input_ids: Tensor
    num_tokens: Tensor
    rounds_per_call: list[int]

    def rounds(self, *indices: int) -> dict[str, Any]:
        """Return the rounds at these positions as arguments of `encode_rounds`."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)[:-1]}
        return {name: tensor[list(indices)] for name, tensor in tensors.items()}

    def call(self, *indices: int) -> Batch:
        """Return a batch of one call that consists of the rounds at these positions."""
        return Batch(**self.rounds(*indices), rounds_per_call=[len(indices)])


def make_batch() -> Batch:
    """Make two calls, of two rounds and of one, all with audio and text."""
    generator = torch.Generator().manual_seed(1)
    return Batch(
        waveforms=0.1 * torch.randn(3, 16_000, generator=generator),
        num_samples=torch.tensor([9000, 5000, 16_000]),
        input_ids=torch.randint(5, 25, (3, 20), generator=generator),
        num_tokens=torch.tensor([7, 20, 3]),
        rounds_per_call=[2, 1],
    )


def logits_of(network: CallNetwork, batch: Batch) -> Tensor:
    """Return the logits of the four tasks side by side, (C, 5 + 4 + 3 + 2)."""
    with torch.no_grad():
        logits = network(**vars(batch)).logits
    return torch.cat([logits[task] for task in TASKS], dim=1)


def is_key_bias_of_an_encoder(name: str) -> bool:
    """Return whether a weight is a bias of keys: softmax cancels it, so its gradient is zero up to rounding."""
    return name.endswith(("k_proj.bias", "attention.self.key.bias"))


def weights_without_a_gradient(network: CallNetwork, batch: Batch, *, may_be_zero: bool = False) -> list[str]:
    torch.manual_seed(0)
    network.train()(**vars(batch), intents=torch.tensor([0, 4])).loss.backward()
    names = []
    for name, weight in network.named_parameters():
        if name == ROFORMER_SINUSOIDS:
            continue
        is_missing = weight.grad is None or not weight.grad.isfinite().all()
        is_zero = not is_missing and weight.grad is not None and not weight.grad.any()
        if is_missing or (is_zero and not may_be_zero and not is_key_bias_of_an_encoder(name)):
            names.append(name)
    return names
