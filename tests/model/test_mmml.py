"""MMML: what its outputs depend on, its three losses, and its weights."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer, HubertConfig, HubertModel

from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import load_model, pack_network, save_model, unpack_network
from msmtfn.model.mmml import Mmml
from msmtfn.model.network import MsmtFn
from msmtfn.model.settings import settings_of
from msmtfn.model.small import make_small_model
from tests.conftest import TINY_FIELDS, make_tiny_mmml, make_tiny_network
from tests.model.calls import Batch, logits_of, make_batch, weights_without_a_gradient


@pytest.fixture
def batch() -> Batch:
    return make_batch()


def changes_every_task(before: Tensor, after: Tensor) -> bool:
    tasks = zip(before.split([5, 4, 3, 2], dim=1), after.split([5, 4, 3, 2], dim=1), strict=True)
    return all((one - other).abs().amax(dim=1).min() > 1e-5 for one, other in tasks)


# ---- what the logits depend on


def test_a_call_has_the_logarithms_of_a_probability_for_every_class_of_every_task(batch: Batch) -> None:
    logits = logits_of(make_tiny_mmml(), batch)
    assert logits.shape == (2, 5 + 4 + 3 + 2)
    sums = torch.stack([part.exp().sum(dim=1) for part in logits.split([5, 4, 3, 2], dim=1)])
    torch.testing.assert_close(sums, torch.ones(4, 2))


def test_audio_changes_the_logits(batch: Batch) -> None:
    other = replace(batch, waveforms=torch.sin(torch.arange(16_000) / 7.0).expand(3, -1))
    network = make_tiny_mmml()
    assert changes_every_task(logits_of(network, batch), logits_of(network, other))


def test_text_changes_the_logits(batch: Batch) -> None:
    other = replace(batch, input_ids=(batch.input_ids - 5 + 7) % 20 + 5)
    network = make_tiny_mmml()
    assert changes_every_task(logits_of(network, batch), logits_of(network, other))


def test_the_probability_of_a_call_is_the_mean_over_its_rounds(batch: Batch) -> None:
    network = make_tiny_mmml()
    alone = [logits_of(network, batch.call(index)).exp() for index in range(3)]
    expected = torch.cat([(alone[0] + alone[1]) / 2, alone[2]])
    torch.testing.assert_close(logits_of(network, batch).exp(), expected, atol=1e-5, rtol=0)


def test_the_fused_output_reads_the_text_first(batch: Batch) -> None:
    network = make_tiny_mmml()
    with torch.no_grad():
        vectors = network.encode_rounds(**batch.rounds(0, 1, 2))
        fused = torch.cat([vectors[:, :32], vectors[:, 32:64]], dim=1)
        expected = torch.log_softmax(network.fused_heads.heads["five"](fused), dim=1)
        found = network.classify_calls(vectors, [1, 1, 1])["five"]
    torch.testing.assert_close(found, expected)


def test_the_unpadded_encoding_gives_the_same_vectors(batch: Batch) -> None:
    network, rounds = make_tiny_mmml(), batch.rounds(0, 1, 2)
    with torch.no_grad():
        padded, unpadded = (network.encode_rounds(**rounds, padded=padded) for padded in (True, False))
    torch.testing.assert_close(unpadded, padded, atol=1e-5, rtol=0)


def test_a_head_of_the_fused_output_has_the_sizes_of_the_description() -> None:
    heads = make_tiny_mmml(hidden_size=24, first_head_size=768, second_head_size=512).fused_heads.heads
    assert list(heads) == list(TASKS)
    layers = list(heads["five"].children())
    assert [type(each) for each in layers] == [nn.Dropout, nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]
    sizes = [(each.in_features, each.out_features) for each in layers if isinstance(each, nn.Linear)]
    assert sizes == [(48, 768), (768, 512), (512, 5)]


# ---- the loss


def with_constant_heads(fused: list[float], text: list[float], audio: list[float]) -> Mmml:
    """A network with these logits of two classes for every round, and equal ones in the other tasks."""
    network = make_tiny_mmml()
    parts: list[tuple[Any, list[float]]] = [
        (network.fused_heads, fused),
        (network.text_heads, text),
        (network.audio_heads, audio),
    ]
    with torch.no_grad():
        for heads, logits in parts:
            for task, head in heads.heads.items():
                last = head[-1]
                last.weight.zero_()
                last.bias.copy_(torch.tensor(logits) if task == "two" else torch.zeros(len(TASKS[task])))
    return network


def test_the_loss_is_the_sum_of_those_of_the_fused_output_the_text_and_the_audio() -> None:
    # Probabilities of the true class, DE: 3/4 by the fused output, 1/2 by the text, 1/5 by the audio.
    network = with_constant_heads([0.0, math.log(3)], [0.0, 0.0], [math.log(4), 0.0])
    vectors = torch.randn(1, 32 + 32 + 40 + 24, generator=torch.Generator().manual_seed(0))
    loss = network.compute_loss(vectors, [1], torch.tensor([4]))
    others = 3 * (math.log(5) + math.log(4) + math.log(3))
    assert loss.item() == pytest.approx(others + math.log(4 / 3) + math.log(2) + math.log(5), abs=1e-5)


def test_a_call_of_many_rounds_weighs_like_one_of_one_round() -> None:
    network = make_tiny_mmml()
    vectors = torch.randn(4, 128, generator=torch.Generator().manual_seed(0))
    intents = torch.tensor([0, 4])
    rounds = [network.compute_loss(vectors[[n]], [1], intents[[int(n == 3)]]).item() for n in range(4)]
    total = sum(rounds[:3]) / 3 + rounds[3]
    assert len({round(each, 4) for each in rounds}) == 4
    assert network.compute_loss(vectors, [3, 1], intents, reduction="sum").item() == pytest.approx(total, abs=1e-5)
    assert network.compute_loss(vectors, [3, 1], intents).item() == pytest.approx(total / 2, abs=1e-5)


def test_class_weights_multiply_all_three_losses() -> None:
    network = with_constant_heads([0.0, 0.0], [0.0, 0.0], [0.0, 0.0])
    weights = {"two": torch.tensor([1.0, 3.0])}
    loss = network.compute_loss(torch.zeros(2, 128), [2], torch.tensor([3]), class_weights=weights)
    assert loss.item() == pytest.approx(3 * (math.log(5) + math.log(4) + math.log(3) + 3 * math.log(2)), abs=1e-5)


def test_the_loss_of_a_batch_is_that_of_its_vectors(batch: Batch) -> None:
    network, intents = make_tiny_mmml(), torch.tensor([2, 3])
    with torch.no_grad():
        found = network(**vars(batch), intents=intents).loss
        vectors = network.encode_rounds(**batch.rounds(0, 1, 2))
        expected = network.compute_loss(vectors, batch.rounds_per_call, intents)
    torch.testing.assert_close(found, expected)


# ---- weights


def test_every_weight_gets_a_gradient(batch: Batch) -> None:
    assert weights_without_a_gradient(make_tiny_mmml(), batch) == []


@pytest.mark.parametrize("field", ["num_tokens", "num_samples"])
def test_every_weight_gets_a_gradient_when_a_whole_batch_lacks_one_modality(batch: Batch, field: str) -> None:
    getattr(batch, field)[:] = 0
    assert weights_without_a_gradient(make_tiny_mmml(), batch, may_be_zero=True) == []


def test_a_saved_model_gives_the_same_logits(batch: Batch, tmp_path: Path, tiny_tokenizer: BertTokenizer) -> None:
    network = make_tiny_mmml()
    save_model(network, tiny_tokenizer, tmp_path, "# MMML\n")
    loaded = load_model(tmp_path).network
    assert isinstance(loaded, Mmml)
    assert settings_of(loaded.config) == settings_of(network.config)
    assert all(torch.equal(weight, network.state_dict()[name]) for name, weight in loaded.state_dict().items())
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(network, batch), atol=1e-6, rtol=0)


def test_a_packed_network_is_unpacked_as_what_it_was(batch: Batch) -> None:
    network = make_tiny_mmml()
    unpacked = unpack_network(pack_network(network))
    assert isinstance(unpacked, Mmml)
    assert isinstance(unpack_network(pack_network(make_tiny_network())), MsmtFn)
    torch.testing.assert_close(logits_of(unpacked, batch), logits_of(network, batch), atol=1e-6, rtol=0)


def test_the_pooler_of_a_pretrained_encoder_becomes_that_of_the_network(tmp_path: Path) -> None:
    torch.manual_seed(3)
    text, audio = (dict(TINY_FIELDS[name]) for name in ("text_config", "audio_config"))
    bert = BertModel(BertConfig(**text))
    bert.save_pretrained(tmp_path / "text")
    HubertModel(HubertConfig(**audio)).save_pretrained(tmp_path / "audio")
    sizes = {name: value for name, value in TINY_FIELDS.items() if not name.endswith("_config")}
    folders = {"audio_encoder": str(tmp_path / "audio"), "text_encoder": str(tmp_path / "text")}
    network = Mmml.from_encoders(**folders, **sizes, num_cross_layers=1, first_head_size=8, second_head_size=8)
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        expected = bert.train(False)(ids).pooler_output
        states, mask = network.train(False).encode_text(ids, torch.tensor([4]))
        torch.testing.assert_close(network.fusion.text_pooler(states, mask), expected)
    assert not [name for name in network.state_dict() if "text_encoder.model.pooler" in name]


def test_one_modality_alone_is_refused() -> None:
    with pytest.raises(
        ValueError, match="modalities is 'text'; it must be 'both', since a loss is that of each modality"
    ):
        make_tiny_mmml(modalities="text")


def test_the_small_networks_have_the_same_encoders() -> None:
    ours, mmml = make_small_model(0).network, make_small_model(0, "mmml").network
    assert isinstance(mmml, Mmml)
    for name in ("audio_config", "text_config", "encoder_sample_rate", "max_round_sec", "max_text_tokens"):
        first, second = getattr(ours.config, name), getattr(mmml.config, name)
        assert (first.to_dict() if hasattr(first, "to_dict") else first) == (
            second.to_dict() if hasattr(second, "to_dict") else second
        )
    for part in ("audio_encoder", "text_encoder"):
        sizes = [sum(weight.numel() for weight in getattr(each, part).parameters()) for each in (ours, mmml)]
        assert sizes[0] == sizes[1]
