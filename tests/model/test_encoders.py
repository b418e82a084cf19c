from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import HubertModel, Wav2Vec2FeatureExtractor, Wav2Vec2Model

from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.encoders import AudioEncoder, TextEncoder, normalize_waveforms

MakeConfig = Callable[..., MsmtFnConfig]
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
LIMIT = 16_000  # max_round_samples of the tiny configuration
NUM_SAMPLES = torch.tensor([9000, 5000, 16_000])
NUM_FRAMES = [27, 15, 49]  # (samples - 400) // 320 + 1

TINY: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
AUDIO_CONFIGS: dict[str, dict[str, Any]] = {
    f"{model_type}, {norm}{', stable' if stable else ''}": TINY
    | {
        "model_type": model_type,
        "feat_extract_norm": norm,
        "conv_bias": norm == "layer",
        "do_stable_layer_norm": stable,
    }
    for model_type in ("hubert", "wav2vec2")
    for norm, stable in (("group", False), ("layer", False), ("layer", True))
}
TEXT_CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"model_type": "bert"},
    "roberta": {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 32},
    "roformer": {"model_type": "roformer"},
}


@pytest.fixture(params=AUDIO_CONFIGS)
def config(request: pytest.FixtureRequest, tiny_config: MakeConfig) -> MsmtFnConfig:
    return tiny_config(audio_config=AUDIO_CONFIGS[request.param])


@pytest.fixture(params=TEXT_CONFIGS)
def text_encoder(request: pytest.FixtureRequest, tiny_config: MakeConfig) -> TextEncoder:
    sizes = {"hidden_size": 40, "vocab_size": 25, "num_hidden_layers": 2, "num_attention_heads": 2}
    encoder: TextEncoder = make(TextEncoder, tiny_config(text_config=TEXT_CONFIGS[request.param] | sizes).text)
    return encoder


@pytest.fixture
def waveforms() -> Tensor:
    """Make three rounds of noise with a standard deviation of 0.1, with more noise in the padding."""
    return 0.1 * torch.randn(3, LIMIT, generator=torch.Generator().manual_seed(1))


def make(kind: Callable[..., Any], *arguments: Any) -> Any:
    torch.manual_seed(0)
    return kind(*arguments).train(False)


def normalized_by_transformers(samples: Tensor) -> Tensor:
    """Normalise samples with transformers' own feature extractor for these encoders."""
    extractor = Wav2Vec2FeatureExtractor(sampling_rate=8000, do_normalize=True)
    values = extractor(samples.numpy(), sampling_rate=8000, return_tensors="np").input_values
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


# ---- normalisation


def test_a_round_has_zero_mean_and_unit_variance_over_its_own_samples(waveforms: Tensor) -> None:
    normalized = normalize_waveforms(3.0 + waveforms, NUM_SAMPLES)
    for row, count in zip(normalized, NUM_SAMPLES.tolist(), strict=True):
        assert row[:count].mean().item() == pytest.approx(0.0, abs=1e-4)
        assert row[:count].var(correction=0).item() == pytest.approx(1.0, abs=1e-4)


def test_normalisation_of_an_example_worked_by_hand() -> None:
    normalized = normalize_waveforms(torch.tensor([[5.0, 1.0, 5.0, 1.0, 77.0]]), torch.tensor([4]))
    assert normalized[0].tolist() == pytest.approx([1.0, -1.0, 1.0, -1.0, 0.0], abs=1e-6)


def test_normalisation_equals_that_of_transformers(waveforms: Tensor) -> None:
    expected = normalized_by_transformers(waveforms[0, :9000])
    torch.testing.assert_close(normalize_waveforms(waveforms, NUM_SAMPLES)[:1, :9000], expected, **TOLERANCE)


def test_samples_after_the_end_of_a_round_become_zero(waveforms: Tensor) -> None:
    waveforms[1, 5000:] = float("nan")
    assert normalize_waveforms(waveforms, NUM_SAMPLES)[1, 5000:].abs().max() == 0.0


@pytest.mark.parametrize("num_samples", [0, 1, 200, LIMIT])
def test_silence_stays_silence(num_samples: int) -> None:
    silence = torch.zeros(1, LIMIT)
    assert torch.equal(normalize_waveforms(silence, torch.tensor([num_samples])), silence)


@pytest.mark.parametrize("dtype", [torch.int16, torch.float32])
@torch.no_grad()
def test_the_scale_of_the_samples_does_not_matter(config: MsmtFnConfig, waveforms: Tensor, dtype: torch.dtype) -> None:
    encoder = make(AudioEncoder, config)
    as_integers = (waveforms * 32_768).round().to(dtype)
    states, _ = encoder(as_integers, NUM_SAMPLES)
    torch.testing.assert_close(states, encoder(as_integers / 32_768, NUM_SAMPLES)[0], atol=1e-3, rtol=0)


# ---- audio encoder


@torch.no_grad()
def test_audio_states_equal_those_of_transformers_own_model(config: MsmtFnConfig, waveforms: Tensor) -> None:
    encoder = make(AudioEncoder, config)
    model = {"hubert": HubertModel, "wav2vec2": Wav2Vec2Model}[config.audio.model_type](config.audio).train(False)
    model.load_state_dict(encoder.model.state_dict())
    states, mask = encoder(waveforms, NUM_SAMPLES)
    for index, (samples, frames) in enumerate(zip(NUM_SAMPLES.tolist(), NUM_FRAMES, strict=True)):
        padded, attention_mask = torch.zeros(1, LIMIT), torch.zeros(1, LIMIT, dtype=torch.long)
        padded[:, :samples], attention_mask[:, :samples] = normalized_by_transformers(waveforms[index, :samples]), 1
        expected = model(padded, attention_mask=attention_mask).last_hidden_state
        assert mask[index].tolist() == [True] * frames + [False] * (49 - frames)
        torch.testing.assert_close(states[index, :frames], expected[0, :frames], **TOLERANCE)


def test_the_number_of_frames_equals_that_of_transformers(config: MsmtFnConfig) -> None:
    model = make(AudioEncoder, config).model
    numbers = torch.tensor([400, 719, 720, 1039, 1040, 8000, 15_999, 16_000, 320_000])
    assert [config.num_frames(number) for number in numbers.tolist()] == (
        model._get_feat_extract_output_lengths(numbers).tolist()
    )


@torch.no_grad()
def test_the_mask_has_as_many_frames_as_the_configuration_computes(tiny_config: MakeConfig) -> None:
    encoder = make(AudioEncoder, tiny_config())
    numbers = [0, 1, 9, 10, 399, 400, 719, 720, 15_999, 16_000]
    _, mask = encoder(torch.randn(len(numbers), LIMIT), torch.tensor(numbers))
    assert mask.sum(dim=1).tolist() == [0, 0, 0, 0, 0, 1, 1, 2, 49, 49]
    assert not mask[:-2, 2:].any()  # real frames come first


@torch.no_grad()
def test_the_samples_in_the_padding_change_nothing(config: MsmtFnConfig, waveforms: Tensor) -> None:
    encoder = make(AudioEncoder, config)
    states, _ = encoder(waveforms, NUM_SAMPLES)
    for junk in (0.0, 1e6, float("nan"), float("inf")):
        filled = waveforms.clone()
        filled[0, 9000:], filled[1, 5000:] = junk, junk
        torch.testing.assert_close(encoder(filled, NUM_SAMPLES)[0], states, **TOLERANCE)
    assert states.isfinite().all()


@torch.no_grad()
def test_audio_states_do_not_depend_on_the_rest_of_the_batch(config: MsmtFnConfig, waveforms: Tensor) -> None:
    encoder = make(AudioEncoder, config)
    states, mask = encoder(waveforms, NUM_SAMPLES)
    alone, alone_mask = encoder(waveforms[1:2, :5000], NUM_SAMPLES[1:2])
    assert torch.equal(alone_mask, mask[1:2])
    torch.testing.assert_close(alone[alone_mask], states[1][mask[1]], **TOLERANCE)


@pytest.mark.parametrize("num_samples", [0, 1, 399])
@torch.no_grad()
def test_a_round_below_the_receptive_field_has_finite_states_and_no_frame(
    config: MsmtFnConfig, num_samples: int
) -> None:
    states, mask = make(AudioEncoder, config)(torch.randn(1, max(num_samples, 1)), torch.tensor([num_samples]))
    assert states.isfinite().all()
    assert not mask.any()


@torch.no_grad()
def test_a_silent_round_has_finite_states_and_keeps_its_frames(config: MsmtFnConfig) -> None:
    states, mask = make(AudioEncoder, config)(torch.zeros(1, LIMIT), torch.tensor([9000]))
    assert states.isfinite().all()
    assert mask.sum().item() == 27


def test_a_waveform_longer_than_the_longest_round_is_refused(tiny_config: MakeConfig) -> None:
    with pytest.raises(ValueError, match=r"^waveforms has 16001 samples; cut rounds to at most 16000$"):
        make(AudioEncoder, tiny_config())(torch.zeros(1, 16_001), torch.tensor([16_001]))


def test_the_encoders_use_pytorchs_own_attention(tiny_config: MakeConfig) -> None:
    config = tiny_config()
    for encoder in (make(AudioEncoder, config), make(TextEncoder, config.text)):
        assert encoder.model.config._attn_implementation == "sdpa"


# ---- wav2vec 2.0 convolutions before HuBERT's transformer


@pytest.mark.parametrize("norm", ["group", "layer"])
@torch.no_grad()
def test_only_the_convolutions_of_a_frontend_are_used(tiny_config: MakeConfig, waveforms: Tensor, norm: str) -> None:
    frontend = TINY | {"model_type": "wav2vec2", "feat_extract_norm": norm, "conv_bias": norm == "layer"}
    config = tiny_config(audio_frontend="wav2vec2", frontend_config=frontend)
    encoder, frontend_model = make(AudioEncoder, config), make(Wav2Vec2Model, config.frontend_config)
    for weight in frontend_model.parameters():  # the same seed gave both the same weights
        weight.mul_(1.5)
    encoder.use_frontend(frontend_model)
    hubert = make(HubertModel, config.audio)
    hubert.load_state_dict({k: v for k, v in encoder.model.state_dict().items() if "extractor" not in k}, strict=False)
    features = frontend_model.feature_extractor(normalized_by_transformers(waveforms[2])).transpose(1, 2)
    expected = hubert.encoder(hubert.feature_projection(features)).last_hidden_state
    states, mask = encoder(waveforms[2:], NUM_SAMPLES[2:])
    assert mask.all()
    torch.testing.assert_close(states, expected, **TOLERANCE)


def test_a_frontend_built_from_the_configuration_is_a_wav2vec2(tiny_config: MakeConfig) -> None:
    frontend = TINY | {"model_type": "wav2vec2", "feat_extract_norm": "layer", "conv_bias": True}
    encoder = make(AudioEncoder, tiny_config(audio_frontend="wav2vec2", frontend_config=frontend))
    first = encoder.model.feature_extractor.conv_layers[0]
    assert isinstance(first.layer_norm, nn.LayerNorm)
    assert first.conv.bias is not None


@pytest.mark.parametrize(
    ("field", "value"), [("conv_dim", [8] * 7), ("conv_kernel", [11, 3, 3, 3, 3, 2, 2]), ("conv_stride", [4] + [2] * 6)]
)
def test_a_frontend_with_other_sizes_is_refused(tiny_config: MakeConfig, field: str, value: list[int]) -> None:
    config = tiny_config(audio_frontend="wav2vec2", frontend_config=TINY | {"model_type": "wav2vec2", field: value})
    with pytest.raises(ValueError, match=rf"^frontend_config.{field} is \[.*\]; it must be the audio encoder's \["):
        make(AudioEncoder, config)


# ---- text encoder


@pytest.fixture
def input_ids(text_encoder: TextEncoder) -> Tensor:
    """Make three rounds of 7, 20 and 0 tokens, padded as the tokenizer pads."""
    ids = torch.randint(5, 25, (3, 20), generator=torch.Generator().manual_seed(1))
    ids[0, 7:] = ids[2] = text_encoder.model.config.pad_token_id
    return ids


NUM_TOKENS = torch.tensor([7, 20, 0])


@torch.no_grad()
def test_text_states_equal_those_of_each_round_alone(text_encoder: TextEncoder, input_ids: Tensor) -> None:
    states, mask = text_encoder(input_ids, NUM_TOKENS)
    for index, count in ((0, 7), (1, 20)):
        expected = text_encoder.model(input_ids[index : index + 1, :count]).last_hidden_state[0]
        torch.testing.assert_close(states[index, :count], expected, **TOLERANCE)
    assert mask.sum(dim=1).tolist() == [7, 20, 0]
    assert mask[0].tolist() == [True] * 7 + [False] * 13


@torch.no_grad()
def test_the_tokens_in_the_padding_change_nothing(text_encoder: TextEncoder, input_ids: Tensor) -> None:
    states, mask = text_encoder(input_ids, NUM_TOKENS)
    input_ids[0, 7:] = 12
    torch.testing.assert_close(text_encoder(input_ids, NUM_TOKENS)[0][mask], states[mask], **TOLERANCE)


@torch.no_grad()
def test_the_order_of_tokens_matters(text_encoder: TextEncoder, input_ids: Tensor) -> None:
    states, _ = text_encoder(input_ids, NUM_TOKENS)
    reversed_states, _ = text_encoder(input_ids[1:2].flip(1), NUM_TOKENS[1:2])
    assert (reversed_states[0].flip(0) - states[1]).abs().max() > 1e-4


@torch.no_grad()
def test_a_round_without_text_has_finite_states_and_no_token(text_encoder: TextEncoder, input_ids: Tensor) -> None:
    states, mask = text_encoder(input_ids[2:], NUM_TOKENS[2:])
    assert states.isfinite().all()
    assert not mask.any()


@torch.no_grad()
def test_marked_speakers_are_the_types_of_the_tokens_where_the_encoder_has_types(tiny_config: MakeConfig) -> None:
    sizes = {"hidden_size": 40, "vocab_size": 25, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids, num_tokens = torch.tensor([[2, 5, 3, 6, 7, 3], [2, 3, 6, 3, 0, 0], [0] * 6]), torch.tensor([6, 4, 0])
    types = [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1]]  # [CLS] agent [SEP] customer customer [SEP]; [CLS] [SEP] customer [SEP]
    for name, more in (("bert", {}), ("roformer", {}), ("roberta", {"type_vocab_size": 1})):
        config = tiny_config(text_config=TEXT_CONFIGS[name] | sizes | more).text
        encoder: TextEncoder = make(lambda config: TextEncoder(config, marks_speakers=True), config)
        states, _ = encoder(ids, num_tokens)
        assert states.isfinite().all()
        for row, row_types in enumerate(types):
            count = len(row_types)
            given = torch.tensor([row_types]) if name != "roberta" else None
            expected = encoder.model(ids[row : row + 1, :count], token_type_ids=given).last_hidden_state[0]
            torch.testing.assert_close(states[row, :count], expected, **TOLERANCE)


def test_a_text_encoder_has_no_pooler(text_encoder: TextEncoder) -> None:
    assert not [name for name, _ in text_encoder.named_parameters() if "pooler" in name]
