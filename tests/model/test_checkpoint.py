"""Models saved and loaded, packed and unpacked, and fetched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertTokenizer

from msmtfn.calls.activity import ActivityConfig
from msmtfn.errors import ModelError
from msmtfn.model.base import CallNetwork
from msmtfn.model.checkpoint import (
    PackedNetwork,
    fetch_model,
    is_trained,
    load_model,
    pack_network,
    save_model,
    unpack_network,
)
from msmtfn.model.network import MsmtFn

MakeNetwork = Callable[..., MsmtFn]

TINY_AUDIO: dict[str, Any] = {
    "model_type": "wav2vec2",
    "hidden_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


ROBERTA = {
    "model_type": "roberta",
    "hidden_size": 40,
    "vocab_size": 25,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
}


VARIANTS: dict[str, dict[str, Any]] = {
    "hubert and bert": {},
    "wav2vec2 and roberta": {"audio_config": TINY_AUDIO, "text_config": ROBERTA},
    "frontend": {"audio_frontend": "wav2vec2", "frontend_config": TINY_AUDIO},
    "options": {"pooling": "mean", "overlong_rounds": "split", "num_cross_layers": 2, "is_trained": True},
}


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest, tiny_network: MakeNetwork) -> MsmtFn:
    return tiny_network(seed=3, **VARIANTS[request.param])


def five_of(network: CallNetwork) -> Tensor:
    """Return the five-class logits of a call of two rounds."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        output = network(
            waveforms=torch.randn(2, 9000, generator=generator),
            num_samples=torch.tensor([9000, 5000]),
            input_ids=torch.randint(5, 25, (2, 7), generator=generator),
            num_tokens=torch.tensor([7, 4]),
            rounds_per_call=[2],
        )
    logits: Tensor = output.logits["five"]
    return logits


def test_a_loaded_network_has_the_weights_of_the_saved_one(
    tmp_path: Path, network: MsmtFn, tiny_tokenizer: BertTokenizer
) -> None:
    save_model(network, tiny_tokenizer, tmp_path, "# Card\n")
    loaded, saved = load_model(tmp_path).network.state_dict(), network.state_dict()
    assert list(loaded) == list(saved)
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_a_loaded_network_gives_the_logits_of_the_saved_one(
    tmp_path: Path, network: MsmtFn, tiny_tokenizer: BertTokenizer
) -> None:
    save_model(network.train(), tiny_tokenizer, tmp_path, "# Card\n")
    loaded = load_model(tmp_path).network
    assert not loaded.training
    # The weights are bitwise equal (tested above), but their memory layout affects the last bit of a matrix product.
    torch.testing.assert_close(five_of(loaded), five_of(network.train(False)), atol=1e-6, rtol=0)


def test_a_loaded_network_has_the_configuration_of_the_saved_one(
    tmp_path: Path, network: MsmtFn, tiny_tokenizer: BertTokenizer
) -> None:
    save_model(network, tiny_tokenizer, tmp_path, "# Card\n")
    loaded = load_model(tmp_path).network.config
    for field in ("pooling", "overlong_rounds", "num_cross_layers", "audio_frontend", "is_trained", "max_round_sec"):
        assert getattr(loaded, field) == getattr(network.config, field)
    for field in ("audio_config", "text_config", "frontend_config"):
        ours, theirs = getattr(loaded, field).to_dict(), getattr(network.config, field).to_dict()
        assert ours | {"dtype": None} == theirs | {"dtype": None}  # saving adds the dtype


def test_a_loaded_tokenizer_gives_the_tokens_of_the_saved_one(tiny_model: Path) -> None:
    # The ids are 2 for [CLS], 3 for [SEP] and 5 to 14 for a to j.
    assert load_model(tiny_model).tokenizer("a b j")["input_ids"] == [2, 5, 6, 14, 3]


def test_a_model_is_saved_and_loaded_with_its_processor(
    tmp_path: Path, network: MsmtFn, tiny_tokenizer: BertTokenizer
) -> None:
    activity = ActivityConfig(open_db=20.0)
    save_model(network, tiny_tokenizer, tmp_path, "# Card\n", activity)
    loaded = load_model(tmp_path)
    assert loaded.activity == loaded.processor.config.activity == activity
    assert loaded.processor.config.overlong_rounds == network.config.overlong_rounds


def test_a_model_folder_contains_no_pickle(tiny_model: Path) -> None:
    assert {path.suffix for path in tiny_model.iterdir()} <= {".json", ".safetensors", ".txt", ".md"}
    assert {"config.json", "model.safetensors", "README.md"} <= {path.name for path in tiny_model.iterdir()}


def test_the_model_card_is_the_given_text(tiny_model: Path) -> None:
    assert (tiny_model / "README.md").read_text() == "# Tiny\n"


@pytest.mark.parametrize("trained", [True, False])
def test_is_trained_reads_whether_the_model_was_trained(
    tmp_path: Path, tiny_network: MakeNetwork, tiny_tokenizer: BertTokenizer, trained: bool
) -> None:
    save_model(tiny_network(is_trained=trained), tiny_tokenizer, tmp_path, "# Card\n")
    assert is_trained(tmp_path) is trained


# transformers 5 loads weights in the dtype they were saved in, while the inputs are float32.
def test_a_network_saved_in_half_precision_can_be_run(
    tmp_path: Path, tiny_network: MakeNetwork, tiny_tokenizer: BertTokenizer
) -> None:
    save_model(tiny_network().bfloat16(), tiny_tokenizer, tmp_path, "# Card\n")
    assert five_of(load_model(tmp_path).network).isfinite().all()


def test_an_unpacked_network_equals_the_packed_one(network: MsmtFn) -> None:
    unpacked = unpack_network(pack_network(network.train()))
    weights = network.state_dict()
    assert list(unpacked.state_dict()) == list(weights)
    assert all(torch.equal(weight, weights[name]) for name, weight in unpacked.state_dict().items())
    assert not unpacked.training
    assert torch.equal(five_of(unpacked), five_of(network.train(False)))


def test_a_network_is_unpacked_from_read_only_memory(tiny_network: MakeNetwork) -> None:
    packed = pack_network(tiny_network())
    weights = {name: np.array(weight) for name, weight in packed.weights.items()}
    for weight in weights.values():
        weight.flags.writeable = False
    unpacked = unpack_network(PackedNetwork(packed.config, weights))
    with torch.no_grad():
        unpacked.get_parameter("fusion.bottleneck.tokens").zero_()
    assert weights["fusion.bottleneck.tokens"].any()


def test_a_packed_network_consists_of_json_and_arrays(tiny_network: MakeNetwork) -> None:
    packed = pack_network(tiny_network())
    assert json.loads(json.dumps(packed.config))["model_type"] == "msmtfn"
    assert {type(weight) for weight in packed.weights.values()} == {np.ndarray}


def test_a_local_folder_is_used_in_place(tiny_model: Path, tmp_path: Path) -> None:
    for name in (str(tiny_model), f"file://{tiny_model}"):
        assert fetch_model(name, tmp_path / "download") == tiny_model
    assert not (tmp_path / "download").exists()


def test_a_relative_folder_is_made_absolute(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_model.parent)
    assert fetch_model(tiny_model.name, tmp_path) == tiny_model


@pytest.mark.parametrize("name", ["no such model", "/no/such/folder", "a/b/c", "gs://bucket/model", "nobody?"])
def test_an_invalid_name_is_refused_with_the_cure(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        fetch_model(name, tmp_path)
    cure = "is no folder; give a model's folder, an s3:// address or a name on the hub"
    assert str(caught.value) == f"--model {name} {cure}"


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model", "x" * 200, "../x", "-/-"])
def test_a_name_unknown_to_the_hub_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        fetch_model(name, tmp_path / "download")
    assert str(caught.value).startswith(f"--model {name} is no folder, and the hub cannot give a model of that name: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None
