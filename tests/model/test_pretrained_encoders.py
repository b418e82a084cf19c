"""Networks built from pretrained encoders."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    HubertConfig,
    HubertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    RoFormerConfig,
    RoFormerModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from tests.model.calls import (
    TINY_AUDIO,
    TINY_TEXT,
    WAV2VEC2,
    Batch,
    logits_of,
    make_batch,
    weights_without_a_gradient,
)


@pytest.fixture
def batch() -> Batch:
    return make_batch()


@pytest.fixture
def encoders(tmp_path: Path) -> dict[str, PreTrainedModel]:
    """Save tiny encoders with transformers, each in a folder named after it."""
    torch.manual_seed(5)
    unmasked: dict[str, Any] = {"mask_time_prob": 0.0}
    models = {
        "hubert": HubertModel(HubertConfig(**TINY_AUDIO, **unmasked)),
        "wav2vec2": Wav2Vec2Model(Wav2Vec2Config(**TINY_AUDIO, **unmasked, feat_extract_norm="layer", conv_bias=True)),
        "bert": BertModel(BertConfig(**TINY_TEXT)),
        "roberta": RobertaModel(RobertaConfig(**TINY_TEXT, max_position_embeddings=32)),
        "roformer": RoFormerModel(RoFormerConfig(**TINY_TEXT)),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
    return models


def from_encoders(tmp_path: Path, audio: str, text: str, **options: Any) -> MsmtFn:
    """Build a tiny network from the encoders in the folders of these names."""
    sizes: dict[str, Any] = {
        "max_round_sec": 2.0,
        "max_text_tokens": 20,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "feed_forward_size": 64,
        "context_size": 16,
    }
    names = {"audio_encoder": str(tmp_path / audio), "text_encoder": str(tmp_path / text)}
    return MsmtFn.from_encoders(**(sizes | names | options))


def has_the_weights_of(model: nn.Module, other: Any) -> bool:
    """Return whether all weights of `model` equal those of the same name in `other`."""
    others = other.state_dict()
    return all(torch.equal(weight, others[name]) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("audio", ["hubert", "wav2vec2"])
@pytest.mark.parametrize("text", ["bert", "roberta", "roformer"])
def test_a_network_has_the_weights_of_its_pretrained_encoders(
    tmp_path: Path, encoders: dict[str, PreTrainedModel], batch: Batch, audio: str, text: str
) -> None:
    network = from_encoders(tmp_path, audio, text)
    assert has_the_weights_of(network.audio_encoder.model, encoders[audio])
    assert has_the_weights_of(network.text_encoder.model, encoders[text])
    assert (network.config.audio.model_type, network.config.text.model_type) == (audio, text)
    assert logits_of(network.train(False), batch).isfinite().all()


@pytest.mark.usefixtures("encoders")
def test_the_configuration_records_where_the_encoders_came_from(tmp_path: Path) -> None:
    config = from_encoders(tmp_path, "hubert", "bert", pooling="mean").config
    assert config.audio_encoder == str(tmp_path / "hubert")
    assert config.text_encoder == str(tmp_path / "bert")
    assert config.pooling == "mean"


def test_a_network_has_the_convolutions_of_its_pretrained_frontend(
    tmp_path: Path, encoders: dict[str, PreTrainedModel], batch: Batch
) -> None:
    network = from_encoders(
        tmp_path, "hubert", "bert", audio_frontend="wav2vec2", frontend_encoder=str(tmp_path / "wav2vec2")
    )
    convolutions = network.audio_encoder.model.feature_extractor
    assert has_the_weights_of(convolutions, encoders["wav2vec2"].feature_extractor)
    assert has_the_weights_of(network.audio_encoder.model.encoder, encoders["hubert"].encoder)
    assert network.config.audio_frontend == "wav2vec2"
    assert logits_of(network.train(False), batch).isfinite().all()


# Otherwise the convolutions would be replaced while the configuration still said "encoder".
def test_naming_a_frontend_switches_it_on(tmp_path: Path, encoders: dict[str, PreTrainedModel]) -> None:
    network = from_encoders(tmp_path, "hubert", "bert", frontend_encoder=str(tmp_path / "wav2vec2"))
    assert network.config.audio_frontend == "wav2vec2"
    convolutions = network.audio_encoder.model.feature_extractor
    assert has_the_weights_of(convolutions, encoders["wav2vec2"].feature_extractor)


@pytest.mark.usefixtures("encoders")
def test_a_pretrained_encoder_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^audio_config.model_type is 'bert'; it must be one of hubert, wav2vec2$"):
        from_encoders(tmp_path, "bert", "bert")


# The published HuBERT and wav2vec 2.0 have mask_time_prob 0.05 and so a mask embedding, which would get no gradient.
@pytest.mark.parametrize("audio", ["hubert", "wav2vec2"])
@pytest.mark.usefixtures("encoders")
def test_the_mask_embedding_of_a_pretrained_encoder_is_dropped(tmp_path: Path, batch: Batch, audio: str) -> None:
    model_class, config_class = {"hubert": (HubertModel, HubertConfig), "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config)}[
        audio
    ]
    model_class(config_class(**TINY_AUDIO, mask_time_prob=0.05)).save_pretrained(tmp_path / "masked")
    network = from_encoders(tmp_path, "masked", "bert")
    assert weights_without_a_gradient(network, batch) == []


@pytest.mark.usefixtures("encoders")
def test_a_network_without_the_mask_embedding_matches_its_configuration(tmp_path: Path) -> None:
    HubertModel(HubertConfig(**TINY_AUDIO, mask_time_prob=0.05)).save_pretrained(tmp_path / "masked")
    network = from_encoders(tmp_path, "masked", "bert")
    rebuilt = MsmtFn(MsmtFnConfig.from_dict(network.config.to_dict()))
    assert sorted(network.state_dict()) == sorted(rebuilt.state_dict())


# transformers 5 loads weights in the dtype they were saved in.
@pytest.mark.parametrize("half", ["hubert", "bert"])
def test_encoders_saved_in_half_precision_are_loaded_in_fp32(
    tmp_path: Path, encoders: dict[str, PreTrainedModel], batch: Batch, half: str
) -> None:
    encoders[half].half().save_pretrained(tmp_path / half)
    network = from_encoders(tmp_path, "hubert", "bert")
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    assert logits_of(network.train(False), batch).isfinite().all()


@pytest.mark.usefixtures("encoders")
def test_a_frontend_needs_a_pretrained_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frontend_encoder"):
        from_encoders(tmp_path, "hubert", "bert", audio_frontend="wav2vec2", frontend_config=WAV2VEC2)


@pytest.mark.usefixtures("encoders")
def test_options_are_checked_against_the_named_encoders(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY_TEXT, max_position_embeddings=1024)).save_pretrained(tmp_path / "long")
    assert from_encoders(tmp_path, "hubert", "long", max_text_tokens=600).config.max_text_tokens == 600


# ---- encoders without safetensors


@pytest.mark.usefixtures("encoders")
def test_encoders_can_be_loaded_from_pickled_weights(tmp_path: Path, encoders: dict[str, PreTrainedModel]) -> None:
    (tmp_path / "hubert" / "model.safetensors").unlink()
    torch.save(encoders["hubert"].state_dict(), tmp_path / "hubert" / "pytorch_model.bin")
    network = from_encoders(tmp_path, "hubert", "bert")
    assert has_the_weights_of(network.audio_encoder.model, encoders["hubert"])


class MaliciousPickle:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("rogue",)


@pytest.mark.usefixtures("encoders")
def test_pickled_weights_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hubert" / "model.safetensors").unlink()
    torch.save({"weight": MaliciousPickle()}, tmp_path / "hubert" / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        from_encoders(tmp_path, "hubert", "bert")
    assert not (tmp_path / "rogue").exists()
