from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, HubertConfig, PreTrainedConfig, Wav2Vec2Config

from msmtfn.errors import UsageError
from msmtfn.model.config import CONFIGS, Architecture, MmmlConfig
from msmtfn.model.settings import (
    NOT_CHOSEN,
    SETTINGS,
    SETTINGS_OF,
    make_config,
    make_config_of_encoders,
    settings_of,
)
from msmtfn.model.small import small_fields


@pytest.fixture
def encoders(tmp_path: Path) -> dict[str, str]:
    """Write the configurations, and no weights, of the three encoders."""
    folders = {name: str(tmp_path / name) for name in ("hubert", "bert", "wav2vec2")}
    HubertConfig().save_pretrained(folders["hubert"])
    BertConfig(max_position_embeddings=128).save_pretrained(folders["bert"])
    Wav2Vec2Config().save_pretrained(folders["wav2vec2"])
    return folders


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_field_of_a_configuration_is_a_setting_unless_it_follows_from_something_else(
    architecture: Architecture,
) -> None:
    own = {each.name for each in fields(CONFIGS[architecture])} - {each.name for each in fields(PreTrainedConfig)}
    assert set(SETTINGS_OF[architecture]) == own - NOT_CHOSEN
    assert {"audio_frontend", "encoder_sample_rate", "overlong_rounds", "pooling", "dropout", "fused"} <= set(SETTINGS)


def test_a_setting_says_what_it_is_and_how_it_is_set() -> None:
    assert SETTINGS["max_round_sec"].kind is float
    assert SETTINGS["hidden_size"].kind is int
    assert (
        SETTINGS["num_context_layers"].meaning
        == "number of BiGRU layers; with 0 a call's vector is the mean of its rounds."
    )
    assert SETTINGS["num_context_layers"].option == "--network.num-context-layers"


def test_chosen_settings_replace_those_of_a_network() -> None:
    config = make_config(small_fields(100), {"pooling": "mean", "dropout": 0.1})
    assert (config.pooling, config.dropout, config.hidden_size) == ("mean", 0.1, 48)
    assert settings_of(config)["pooling"] == "mean"
    assert "audio_config" not in settings_of(config)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"dropout": 1.0},
            r"--network.dropout 1.0 cannot be used: dropout is 1.0; it must be at least 0 and less than 1",
        ),
        ({"num_bottleneck_layers": 1}, 'must be at least 2, or 0, with fused="text"'),
        ({"hidden_size": 50}, r"hidden_size is 50; it must be a multiple of num_attention_heads \(4\)"),
        ({"max_text_tokens": 5000}, "max_text_tokens is 5000; it must be at most"),
        ({"pooling": "sum"}, "'pooling'"),
        ({"dropuot": 0.1}, "MSMT-FN has no setting 'dropuot'; it has audio_frontend, "),
        ({"audio_config": {}}, "MSMT-FN has no setting 'audio_config'"),
        ({"first_head_size": 20}, "MSMT-FN has no setting 'first_head_size'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_a_usage_error(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config(small_fields(100), chosen)


def test_the_settings_of_another_network_are_its_own() -> None:
    config = make_config(small_fields(100, "mmml"), {"first_head_size": 20, "dropout": 0.1}, "mmml")
    assert isinstance(config, MmmlConfig)
    assert (config.first_head_size, config.dropout) == (20, 0.1)
    assert "pooling" not in settings_of(config)
    with pytest.raises(UsageError, match="MMML has no setting 'pooling'; it has audio_frontend, "):
        make_config(small_fields(100, "mmml"), {"pooling": "mean"}, "mmml")


def test_settings_are_checked_against_the_encoders_before_their_weights_are_read(encoders: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="max_text_tokens is 199; it must be at most the text encoder's 128"):
        make_config_of_encoders(encoders["hubert"], encoders["bert"], {"pooling": "cls"})
    chosen = {"max_text_tokens": 64, "audio_frontend": "wav2vec2", "frontend_encoder": encoders["wav2vec2"]}
    config = make_config_of_encoders(encoders["hubert"], encoders["bert"], chosen)
    assert config.convolutions.model_type == "wav2vec2"
    assert config.frontend_encoder == encoders["wav2vec2"]


@pytest.mark.parametrize("chosen", [{"audio_frontend": "wav2vec2"}, {"frontend_encoder": "wav2vec2"}])
def test_a_frontend_and_its_model_require_each_other(encoders: dict[str, str], chosen: dict[str, str]) -> None:
    with pytest.raises(UsageError, match=r"--network.audio-frontend wav2vec2 and --network.frontend-encoder require"):
        make_config_of_encoders(encoders["hubert"], encoders["bert"], chosen)
