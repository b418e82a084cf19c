from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from msmtfn.inference.scorer import CallRounds
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from msmtfn.model.small import small_config
from tests.benchmarks.flops import audio_flops, encoder_flops, matrix_rate, text_flops

SIZES = {"hidden_size": 96, "num_attention_heads": 4, "intermediate_size": 200, "num_hidden_layers": 2}
CONFIGS = {
    "small": small_config(500),
    "base-like": MsmtFnConfig(
        audio_config={"model_type": "hubert", **SIZES, "num_conv_pos_embeddings": 16},
        text_config={"model_type": "bert", **SIZES, "vocab_size": 500},
        hidden_size=96,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_formula_agrees_with_pytorchs_flop_counter(name: str) -> None:
    network = MsmtFn(CONFIGS[name]).train(False)
    for encoder in (network.audio_encoder, network.text_encoder):
        encoder.model.set_attn_implementation("eager")  # PyTorch does not count the CPU's fused attention
    with FlopCounterMode(display=False) as audio_counter, torch.no_grad():
        network.audio_encoder(torch.randn(1, 40_000), torch.tensor([40_000]), padded=False)
    with FlopCounterMode(display=False) as text_counter, torch.no_grad():
        network.text_encoder(torch.ones(1, 70, dtype=torch.int64), torch.tensor([70]))
    # The unpadded encoder computes a window or two beyond the round; PyTorch also counts its norm, a matrix product.
    assert audio_flops(network.config, 40_000) == pytest.approx(audio_counter.get_total_flops(), rel=0.06)
    assert text_flops(network.config, 70) == text_counter.get_total_flops()


def test_the_operations_of_calls_are_the_sum_over_their_rounds() -> None:
    config = CONFIGS["small"]
    call = CallRounds([np.zeros(9000, np.int16), np.zeros(0, np.int16)], [np.zeros(3, np.int32), np.zeros(9, np.int32)])
    assert encoder_flops(config, [call, call]) == 2 * (
        audio_flops(config, 9000) + text_flops(config, 3) + text_flops(config, 9)
    )


def test_the_rate_of_this_machine_is_plausible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.flops.MATRIX_SIZES", (256,))
    assert 0 < matrix_rate(torch.float32, torch.device("cpu")) < 1000
