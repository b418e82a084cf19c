from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, HubertConfig, RobertaConfig, Wav2Vec2Config

from msmtfn.model.config import MsmtFnConfig

MakeConfig = Callable[..., MsmtFnConfig]

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "wav2vec2 and roberta": {"audio_config": {"model_type": "wav2vec2"}, "text_config": {"model_type": "roberta"}},
    "frontend": {"audio_frontend": "wav2vec2", "frontend_config": {"model_type": "wav2vec2", "conv_bias": True}},
    "options": {
        "encoder_sample_rate": 16000,
        "max_round_sec": 12.5,
        "overlong_rounds": "split",
        "round_unit": "turn",
        "pooling": "max",
        "dropout": 0,
        "attention_dropout": 0.1,
        "modalities": "audio",
        "multi_task": False,
        "silence": "remove",
        "outer_silence": "drop",
        "speakers": "mark",
        "num_bottleneck_layers": 0,
        "num_context_layers": 0,
        "is_trained": True,
        "audio_encoder": "some/hubert",
    },
}


@pytest.fixture(scope="module")
def paper() -> MsmtFnConfig:
    return MsmtFnConfig()


# ---- the paper's sizes


def test_the_defaults_are_the_papers(paper: MsmtFnConfig) -> None:
    sizes = {
        "encoder_sample_rate": 8000,
        "max_round_sec": 40,
        "max_text_tokens": 199,
        "hidden_size": 768,
        "num_cross_layers": 4,
        "num_bottleneck_layers": 2,
        "num_bottleneck_tokens": 4,
        "fused": "text",
        "num_context_layers": 2,
        "context_size": 128,
        "dropout": 0.3,
        "attention_dropout": 0.3,
        "modalities": "both",
        "multi_task": True,
        "silence": "keep",
        "outer_silence": "keep",
        "speakers": "ignore",
        "overlong_rounds": "truncate",
        "round_unit": "exchange",
        "pooling": "flatten",
        "is_trained": False,
    }
    assert {name: getattr(paper, name) for name in sizes} == sizes


def test_the_default_encoders_are_those_of_the_published_code(paper: MsmtFnConfig) -> None:
    assert paper.audio_encoder == "TencentGameMate/chinese-hubert-base"
    assert paper.text_encoder == "hfl/chinese-roberta-wwm-ext"
    assert isinstance(paper.audio, HubertConfig)
    assert isinstance(paper.text, BertConfig)
    assert paper.text.vocab_size == 21128


def test_forty_seconds_at_8_khz_are_320000_samples(paper: MsmtFnConfig) -> None:
    assert paper.max_round_samples == 320_000


def test_the_maximum_number_of_samples_depends_on_the_sample_rate(tiny_config: MakeConfig) -> None:
    assert tiny_config(max_round_sec=2.5, encoder_sample_rate=16000).max_round_samples == 40_000


def test_a_frame_is_computed_from_400_samples(paper: MsmtFnConfig) -> None:
    # From the last layer to the first, n -> (n - 1) * stride + kernel: 1, 2, 4, 9, 19, 39, 79, 78 * 5 + 10.
    assert paper.receptive_field == 400


@pytest.mark.parametrize(
    ("num_samples", "num_frames"),
    [(0, 0), (1, 0), (9, 0), (10, 0), (399, 0), (400, 1), (719, 1), (720, 2), (8000, 24), (320_000, 999)],
)
def test_only_frames_entirely_within_the_round_count(paper: MsmtFnConfig, num_samples: int, num_frames: int) -> None:
    assert paper.num_frames(num_samples) == num_frames


@given(num_samples=st.integers(0, 400_000))
def test_every_320_samples_add_a_frame(paper: MsmtFnConfig, num_samples: int) -> None:
    assert paper.num_frames(num_samples) == max(0, (num_samples - 400) // 320 + 1)


def test_other_convolutions_have_another_receptive_field(tiny_config: MakeConfig) -> None:
    audio = {"model_type": "hubert", "conv_dim": [8, 8], "conv_kernel": [4, 2], "conv_stride": [2, 2]}
    config = tiny_config(audio_config=audio)
    assert config.receptive_field == 6  # two windows of the first layer, 4 samples long and 2 samples apart
    assert [config.num_frames(number) for number in (5, 6, 9, 10)] == [0, 1, 1, 2]


def test_a_frontend_determines_the_frames(tiny_config: MakeConfig) -> None:
    frontend = {"model_type": "wav2vec2", "conv_dim": [8], "conv_kernel": [6], "conv_stride": [3]}
    config = tiny_config(audio_frontend="wav2vec2", frontend_config=frontend)
    assert config.receptive_field == 6
    assert config.num_frames(12) == 3


# ---- checks


@pytest.mark.parametrize(
    "field",
    [
        "encoder_sample_rate",
        "max_round_sec",
        "max_text_tokens",
        "hidden_size",
        "num_attention_heads",
        "feed_forward_size",
        "num_text_layers",
        "num_cross_layers",
        "num_bottleneck_tokens",
        "context_size",
    ],
)
@pytest.mark.parametrize("value", [0, -2])
def test_a_size_that_is_not_positive_is_refused(tiny_config: MakeConfig, field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{field} is {value}; it must be more than 0"):
        tiny_config(**{field: value})


@pytest.mark.parametrize("field", ["num_bottleneck_layers", "num_context_layers"])
def test_zero_layers_are_allowed_but_not_fewer(tiny_config: MakeConfig, field: str) -> None:
    assert getattr(tiny_config(**{field: 0}), field) == 0
    with pytest.raises(ValueError, match=f"^{field} is -1; it must be at least 0$"):
        tiny_config(**{field: -1})


@pytest.mark.parametrize("field", ["dropout", "attention_dropout"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 1, 30, float("nan")])
def test_a_dropout_outside_zero_to_one_is_refused(tiny_config: MakeConfig, field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{field} is {value}; it must be at least 0 and less than 1$"):
        tiny_config(**{field: value})


def test_a_width_that_is_no_multiple_of_the_heads_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"^hidden_size is 33; it must be a multiple of num_attention_heads \(2\)$"):
        tiny_config(hidden_size=33)


def test_a_batch_norm_before_the_positional_convolution_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"^audio_config.conv_pos_batch_norm is True; it must be False, "):
        tiny_config(audio_config={"model_type": "hubert", "conv_pos_batch_norm": True})


def test_a_maximum_round_shorter_than_one_frame_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"^max_round_sec is 0.04; it must be at least .* 400 samples$"):
        tiny_config(max_round_sec=0.04)
    assert tiny_config(max_round_sec=0.05).max_round_samples == 400


def test_an_infinite_maximum_round_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"^max_round_sec is inf; it must be "):
        tiny_config(max_round_sec=float("inf"))


def test_a_bert_takes_no_more_tokens_than_it_has_positions(tiny_config: MakeConfig) -> None:
    text = {"model_type": "bert", "max_position_embeddings": 30}
    assert tiny_config(text_config=text, max_text_tokens=30).max_text_tokens == 30
    with pytest.raises(ValueError, match=r"^max_text_tokens is 31; it must be at most the text encoder's 30$"):
        tiny_config(text_config=text, max_text_tokens=31)


def test_a_roberta_never_uses_its_first_positions(tiny_config: MakeConfig) -> None:
    text = {"model_type": "roberta", "max_position_embeddings": 32, "pad_token_id": 1}
    assert tiny_config(text_config=text, max_text_tokens=30).max_text_tokens == 30
    with pytest.raises(ValueError, match=r"^max_text_tokens is 31; it must be at most the text encoder's 30$"):
        tiny_config(text_config=text, max_text_tokens=31)


@pytest.mark.parametrize(
    ("field", "model_type", "cure"),
    [
        ("audio_config", "bert", "hubert, wav2vec2"),
        ("text_config", "hubert", "bert, roberta, roformer"),
        ("frontend_config", "hubert", "wav2vec2"),
    ],
)
def test_an_encoder_of_an_unsupported_type_is_refused(
    tiny_config: MakeConfig, field: str, model_type: str, cure: str
) -> None:
    with pytest.raises(ValueError, match=f"^{field}.model_type is '{model_type}'; it must be one of {cure}$"):
        tiny_config(**{field: {"model_type": model_type}})


@pytest.mark.parametrize(
    ("field", "value", "cure"),
    [
        ("audio_frontend", "hubert", "'encoder', 'wav2vec2'"),
        ("overlong_rounds", "drop", "'truncate', 'split'"),
        ("round_unit", "word", "'exchange', 'turn'"),
        ("pooling", "sum", "'flatten', 'cls', 'mean', 'max'"),
        ("modalities", "video", "'both', 'text', 'audio'"),
        ("silence", "drop", "'keep', 'remove'"),
        ("outer_silence", "remove", "'keep', 'drop'"),
        ("speakers", "both", "'ignore', 'mark'"),
        ("multi_task", "yes", "bool"),
        ("hidden_size", "768", "int"),
        ("max_text_tokens", 199.5, "int"),
        ("max_round_sec", "40", "int"),
        ("dropout", "0.3", "int"),
        ("attention_dropout", "0.3", "int"),
        ("is_trained", "yes", "bool"),
        ("audio_encoder", 7, "str"),
        ("text_encoder", None, "str"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_the_cure(
    tiny_config: MakeConfig, field: str, value: object, cure: str
) -> None:
    with pytest.raises(StrictDataclassFieldValidationError, match=f"(?s)'{field}'.*{cure}.*{value}"):
        tiny_config(**{field: value})


# ---- encoders' configurations


@pytest.mark.parametrize("field", ["audio_config", "frontend_config"])
def test_masking_and_layerdrop_are_disabled(tiny_config: MakeConfig, field: str) -> None:
    tricks = {"mask_time_prob": 0.05, "mask_feature_prob": 0.1, "layerdrop": 0.1, "apply_spec_augment": True}
    encoder = getattr(tiny_config(**{field: {"model_type": "wav2vec2"} | tricks}), field)
    assert {name: getattr(encoder, name) for name in tricks} == dict.fromkeys(tricks, 0)


@pytest.mark.parametrize(
    ("field", "config_class"),
    [("audio_config", HubertConfig), ("text_config", BertConfig), ("frontend_config", Wav2Vec2Config)],
)
def test_an_encoder_without_a_model_type_is_the_papers(field: str, config_class: type) -> None:
    config = MsmtFnConfig.from_dict({field: {"num_hidden_layers": 2}})
    assert isinstance(getattr(config, field), config_class)


def test_an_encoders_configuration_may_be_an_object(tiny_config: MakeConfig) -> None:
    config = tiny_config(audio_config=Wav2Vec2Config(hidden_size=24), text_config=RobertaConfig(hidden_size=40))
    assert (config.audio.model_type, config.audio.hidden_size) == ("wav2vec2", 24)
    assert (config.text.model_type, config.text.hidden_size) == ("roberta", 40)


# ---- config.json


def test_a_config_json_without_the_field_was_fused_as_the_mean() -> None:
    fields = MsmtFnConfig().to_dict()
    del fields["fused"]
    assert MsmtFnConfig.from_dict(fields).fused == "mean"


def test_one_bottleneck_layer_is_refused_where_the_text_stream_alone_is_handed_on() -> None:
    with pytest.raises(
        ValueError, match=r"num_bottleneck_layers is 1; it must be at least 2, or 0, with fused=\"text\""
    ):
        MsmtFnConfig(num_bottleneck_layers=1)
    MsmtFnConfig(num_bottleneck_layers=1, fused="mean")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_configuration_is_unchanged_by_saving_and_loading(tmp_path: Path, variant: str) -> None:
    config = MsmtFnConfig(**VARIANTS[variant])
    config.save_pretrained(tmp_path)
    loaded = MsmtFnConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert {name: getattr(loaded, name) for name in VARIANTS["options"]} == {
        name: getattr(config, name) for name in VARIANTS["options"]
    }
    for name in ("audio_config", "text_config", "frontend_config"):
        assert type(getattr(loaded, name)) is type(getattr(config, name))


def test_a_configuration_is_unchanged_by_conversion_to_a_dictionary_and_back(tiny_config: MakeConfig) -> None:
    config = tiny_config(pooling="cls", audio_frontend="wav2vec2")
    assert MsmtFnConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()


def test_a_saved_configuration_is_checked_when_loaded(tmp_path: Path, tiny_config: MakeConfig) -> None:
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"context_size": 16', '"context_size": -16'))
    with pytest.raises(ValueError, match=r"^context_size is -16; it must be more than 0"):
        MsmtFnConfig.from_pretrained(tmp_path)
