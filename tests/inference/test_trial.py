from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from msmtfn.errors import ModelError
from msmtfn.inference.scorer import Scorer, ScorerConfig
from msmtfn.inference.trial import try_model
from msmtfn.model.network import MsmtFn


@pytest.mark.parametrize("modalities", ["both", "audio", "text"])
def test_a_sound_model_passes(tiny_network: Callable[..., MsmtFn], modalities: str) -> None:
    try_model(Scorer(tiny_network(modalities=modalities), ScorerConfig(device="cpu")))


@pytest.mark.parametrize("part", ["audio_encoder", "text_encoder", "context"])
def test_a_model_with_a_weight_that_is_no_number_is_refused(tiny_network: Callable[..., MsmtFn], part: str) -> None:
    network = tiny_network()
    with torch.no_grad():
        next(network.get_submodule(part).parameters()).fill_(torch.nan)
    with pytest.raises(ModelError, match=r"built-in call of noise \(the network's result is not a number\)"):
        try_model(Scorer(network, ScorerConfig(device="cpu")))


def test_a_model_whose_layers_do_not_fit_is_refused(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    network.heads = tiny_network(context_size=24).heads
    with pytest.raises(ModelError, match="RuntimeError in the network"):
        try_model(Scorer(network, ScorerConfig(device="cpu")))
