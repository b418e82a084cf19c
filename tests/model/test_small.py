from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msmtfn.model.base import CallNetwork
from msmtfn.model.checkpoint import Model
from msmtfn.model.network import MsmtFn
from msmtfn.model.small import character_vocabulary, make_small_model, small_config

RATE = 8_000


@pytest.fixture(scope="module")
def model() -> Model:
    return make_small_model(0)


def logits(network: CallNetwork, samples: Tensor) -> Tensor:
    network.train(False)
    with torch.inference_mode():
        output = network(samples[None], torch.tensor([len(samples)]), torch.tensor([[2, 3]]), torch.tensor([2]), [1])
    five: Tensor = output.logits["five"]
    return five


def num_weights(part: nn.Module) -> int:
    return sum(weight.numel() for weight in part.parameters())


def test_each_encoder_has_fewer_than_3_million_weights(model: Model) -> None:
    assert num_weights(model.network.audio_encoder) < 3_000_000
    assert num_weights(model.network.text_encoder) < 3_000_000


def test_the_seed_determines_the_weights() -> None:
    first, again, other = (make_small_model(seed).network.state_dict() for seed in (7, 7, 8))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["heads.heads.five.1.weight"], other["heads.heads.five.1.weight"])


def test_building_a_network_leaves_the_global_random_state_unchanged() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    make_small_model(1)
    assert torch.equal(torch.rand(1), expected)


def test_options_override_the_fields_of_the_small_configuration() -> None:
    config = small_config(100, pooling="mean", max_text_tokens=50, multi_task=False)
    assert (config.pooling, config.max_text_tokens, config.multi_task) == ("mean", 50, False)
    network = make_small_model(0, context_size=8).network
    assert isinstance(network, MsmtFn)
    assert network.context.output_size == 16


def test_the_audio_encoder_gives_5_frames_a_second(model: Model) -> None:
    config = model.network.config
    assert config.num_frames(40 * RATE) - config.num_frames(20 * RATE) == 100


@pytest.mark.parametrize(
    ("text", "characters"), [("您好，请问", "您好，请问"), ("5000块 OK", "5000块ok"), ("张x医生?", "张x医生?")]
)
def test_every_character_is_one_token(model: Model, text: str, characters: str) -> None:
    tokens = model.tokenizer.tokenize(text)
    assert [token.removeprefix("##") for token in tokens] == list(characters)


def test_token_ids_are_positions_in_the_vocabulary(model: Model) -> None:
    vocabulary = character_vocabulary()
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert vocabulary["[PAD]"] == model.network.config.text.pad_token_id
    assert model.network.config.text.vocab_size == len(vocabulary)


def test_a_change_of_loudness_within_a_round_changes_the_logits(model: Model) -> None:
    even = torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, 4 * RATE)).float()
    rising, falling = even.clone(), even.clone()
    rising[2 * RATE :] *= 10
    falling[: 2 * RATE] *= 10
    scores = [logits(model.network, samples) for samples in (even, rising, falling)]
    assert float((scores[0] - scores[1]).abs().max()) > 1e-3
    assert float((scores[1] - scores[2]).abs().max()) > 1e-3


def test_the_loudness_of_the_whole_round_changes_nothing(model: Model) -> None:
    samples = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, 2 * RATE)).float()
    torch.testing.assert_close(logits(model.network, samples), logits(model.network, samples / 2), atol=1e-4, rtol=0)
