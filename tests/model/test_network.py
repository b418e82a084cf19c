from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
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

MakeNetwork = Callable[..., MsmtFn]
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
POOLINGS = ["flatten", "cls", "mean", "max"]
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
ROBERTA = {"model_type": "roberta", "pad_token_id": 1, "max_position_embeddings": 32} | TINY_TEXT
VARIANTS: dict[str, dict[str, Any]] = {
    **{pooling: {"pooling": pooling} for pooling in POOLINGS},
    "hubert with layer norms": {"audio_config": {"model_type": "hubert"} | TINY_AUDIO | STABLE},
    "wav2vec2": {"audio_config": WAV2VEC2},
    "wav2vec2 with layer norms": {"audio_config": WAV2VEC2 | STABLE},
    "roberta": {"text_config": ROBERTA},
    "roformer": {"text_config": {"model_type": "roformer"} | TINY_TEXT},
    "frontend": {"audio_frontend": "wav2vec2", "frontend_config": WAV2VEC2 | STABLE},
    "no bottleneck": {"num_bottleneck_layers": 0},
}


REDUCED: dict[str, dict[str, Any]] = {
    "text": {"modalities": "text"},
    "audio": {"modalities": "audio"},
    "no context": {"num_context_layers": 0},
    "one head": {"multi_task": False},
    "all at once": {
        "modalities": "text",
        "multi_task": False,
        "pooling": "max",
        "num_bottleneck_layers": 0,
        "num_context_layers": 0,
    },
}
"""Networks in which audio, text or the order of rounds does not change the logits of every task."""


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


@pytest.fixture
def batch() -> Batch:
    """Make two calls, of two rounds and of one, all with audio and text."""
    generator = torch.Generator().manual_seed(1)
    return Batch(
        waveforms=0.1 * torch.randn(3, 16_000, generator=generator),
        num_samples=torch.tensor([9000, 5000, 16_000]),
        input_ids=torch.randint(5, 25, (3, 20), generator=generator),
        num_tokens=torch.tensor([7, 20, 3]),
        rounds_per_call=[2, 1],
    )


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest, tiny_network: MakeNetwork) -> MsmtFn:
    """Make a network of each variant."""
    return tiny_network(**VARIANTS[request.param])


def logits_of(network: MsmtFn, batch: Batch) -> Tensor:
    """Return the logits of the four tasks side by side, (C, 5 + 4 + 3 + 2)."""
    with torch.no_grad():
        logits = network(**vars(batch)).logits
    return torch.cat([logits[task] for task in TASKS], dim=1)


def every_task_changes(before: Tensor, after: Tensor) -> bool:
    """Return whether the logits of every call change in every task."""
    return all(
        (one - other).abs().amax(dim=1).min() > 1e-4
        for one, other in zip(before.split([5, 4, 3, 2], dim=1), after.split([5, 4, 3, 2], dim=1), strict=True)
    )


# ---- what the logits depend on


def test_there_is_a_logit_for_every_class_of_every_task_and_call(network: MsmtFn, batch: Batch) -> None:
    with torch.no_grad():
        output = network(**vars(batch))
    assert output.loss is None
    assert {task: tuple(logits.shape) for task, logits in output.logits.items()} == {
        "five": (2, 5),
        "four": (2, 4),
        "three": (2, 3),
        "two": (2, 2),
    }


def test_audio_changes_the_logits(network: MsmtFn, batch: Batch) -> None:
    other = replace(batch, waveforms=torch.sin(torch.arange(16_000) / 7.0).expand(3, -1))
    assert every_task_changes(logits_of(network, batch), logits_of(network, other))


def test_text_changes_the_logits(network: MsmtFn, batch: Batch) -> None:
    other = replace(batch, input_ids=(batch.input_ids - 5 + 7) % 20 + 5)
    assert every_task_changes(logits_of(network, batch), logits_of(network, other))


def test_one_token_changes_the_logits(network: MsmtFn, batch: Batch) -> None:
    ids = batch.input_ids.clone()
    ids[0, 6] = ids[2, 2] = 11
    assert every_task_changes(logits_of(network, batch), logits_of(network, replace(batch, input_ids=ids)))


def test_the_order_of_rounds_changes_the_logits(network: MsmtFn, batch: Batch) -> None:
    assert every_task_changes(logits_of(network, batch.call(0, 1, 2)), logits_of(network, batch.call(2, 1, 0)))


def test_the_samples_in_the_padding_change_nothing(network: MsmtFn, batch: Batch) -> None:
    noisy, silent = batch.waveforms.clone(), batch.waveforms.clone()
    noisy[0, 9000:], noisy[1, 5000:] = 30_000.0, float("nan")
    silent[0, 9000:], silent[1, 5000:] = 0.0, 0.0
    noisy_logits = logits_of(network, replace(batch, waveforms=noisy))
    torch.testing.assert_close(noisy_logits, logits_of(network, replace(batch, waveforms=silent)), **TOLERANCE)


def test_the_amount_of_padding_of_the_samples_changes_nothing(network: MsmtFn, batch: Batch) -> None:
    call = batch.call(0, 1)
    narrow = replace(call, waveforms=call.waveforms[:, :9000])
    torch.testing.assert_close(logits_of(network, call), logits_of(network, narrow), **TOLERANCE)


def test_the_tokens_in_the_padding_change_nothing(network: MsmtFn, batch: Batch) -> None:
    padded = batch.input_ids.clone()
    padded[0, 7:] = padded[2, 3:] = network.config.text.pad_token_id
    expected = logits_of(network, replace(batch, input_ids=padded))
    torch.testing.assert_close(logits_of(network, batch), expected, **TOLERANCE)


def test_the_amount_of_padding_of_the_tokens_changes_nothing(network: MsmtFn, batch: Batch) -> None:
    call = batch.call(0, 2)
    narrow = replace(call, input_ids=call.input_ids[:, :7])
    torch.testing.assert_close(logits_of(network, call), logits_of(network, narrow), **TOLERANCE)


def test_a_call_scores_the_same_alone_and_in_a_batch(network: MsmtFn, batch: Batch) -> None:
    alone = torch.cat([logits_of(network, batch.call(0, 1)), logits_of(network, batch.call(2))])
    torch.testing.assert_close(logits_of(network, batch), alone, **TOLERANCE)


def test_a_call_scores_the_same_beside_a_longer_one(network: MsmtFn, batch: Batch) -> None:
    longer = replace(batch.call(1, 0, 2, 2, 1, 0, 1), rounds_per_call=[1, 6])
    torch.testing.assert_close(logits_of(network, longer)[:1], logits_of(network, batch.call(1)), **TOLERANCE)


def test_a_round_is_encoded_the_same_in_any_order_and_grouping(network: MsmtFn, batch: Batch) -> None:
    with torch.no_grad():
        together = network.encode_rounds(**batch.rounds(0, 1, 2))
        reordered = network.encode_rounds(**batch.rounds(2, 0, 1))
        alone = torch.cat([network.encode_rounds(**batch.rounds(index)) for index in range(3)])
    assert together.shape == (3, 32)
    torch.testing.assert_close(reordered, together[[2, 0, 1]], **TOLERANCE)
    torch.testing.assert_close(alone, together, **TOLERANCE)


def test_the_order_of_the_vectors_changes_the_classification(tiny_network: MakeNetwork) -> None:
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = tiny_network().classify_calls(vectors, [3])
        after = tiny_network().classify_calls(vectors.flip(0), [3])
    assert all((before[task] - after[task]).abs().max() > 1e-3 for task in TASKS)


def test_encoding_then_classifying_equals_the_whole_network(tiny_network: MakeNetwork, batch: Batch) -> None:
    network = tiny_network()
    with torch.no_grad():
        logits = network.classify_calls(network.encode_rounds(**batch.rounds(0, 1, 2)), batch.rounds_per_call)
    assert torch.equal(torch.cat([logits[task] for task in TASKS], dim=1), logits_of(network, batch))


def test_evaluation_is_deterministic(network: MsmtFn, batch: Batch) -> None:
    assert torch.equal(logits_of(network, batch), logits_of(network, batch))


def test_dropout_is_applied_in_training(tiny_network: MakeNetwork, batch: Batch) -> None:
    network = tiny_network().train()
    assert every_task_changes(logits_of(network, batch), logits_of(network, batch))


# ---- one modality alone, no context


@pytest.mark.parametrize(("modality", "missing"), [("text", "num_samples"), ("audio", "num_tokens")])
@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_a_network_of_one_modality_equals_one_of_both_without_input_for_the_other(
    tiny_network: MakeNetwork, batch: Batch, modality: str, missing: str, padded: bool
) -> None:
    rounds = batch.rounds(0, 1, 2)
    vectors = tiny_network(modalities=modality).encode_rounds(**rounds, padded=padded)
    expected = tiny_network().encode_rounds(**(rounds | {missing: torch.zeros(3, dtype=torch.long)}), padded=padded)
    torch.testing.assert_close(vectors, expected, **TOLERANCE)


@torch.no_grad()
def test_an_unused_modality_has_a_single_masked_state(tiny_network: MakeNetwork, batch: Batch) -> None:
    rounds = batch.rounds(0, 1, 2)
    audio, audio_mask, _, text_mask = tiny_network(modalities="text").embed_rounds(**rounds)
    assert (audio.shape, audio_mask.any().item(), text_mask.sum().item()) == ((3, 1, 24), False, 30)
    _, audio_mask, text, text_mask = tiny_network(modalities="audio").embed_rounds(**rounds)
    assert (text.shape, text_mask.any().item()) == ((3, 1, 40), False)
    assert audio_mask.sum(dim=1).tolist() == [27, 15, 49]  # (samples - 400) // 320 + 1


@torch.no_grad()
def test_a_rounds_vector_is_the_fusion_of_its_encoder_states(network: MsmtFn, batch: Batch) -> None:
    rounds = batch.rounds(0, 1, 2)
    vectors = network.fusion(*network.embed_rounds(**rounds, padded=False))
    assert torch.equal(vectors, network.encode_rounds(**rounds, padded=False))


def test_without_context_layers_the_order_of_rounds_changes_nothing(tiny_network: MakeNetwork, batch: Batch) -> None:
    network = tiny_network(num_context_layers=0)
    reordered = logits_of(network, batch.call(2, 1, 0))
    torch.testing.assert_close(logits_of(network, batch.call(0, 1, 2)), reordered, **TOLERANCE)


@pytest.mark.parametrize("variant", REDUCED)
def test_a_reduced_network_gives_the_same_logits_after_saving_and_loading(
    tiny_network: MakeNetwork, batch: Batch, tmp_path: Path, variant: str
) -> None:
    network = tiny_network(**REDUCED[variant])
    network.save_pretrained(tmp_path)
    loaded = MsmtFn.from_pretrained(tmp_path).train(False)
    assert torch.equal(logits_of(loaded, batch), logits_of(network, batch))


# ---- rounds without text, without audio, without both


def fuse_first_round(network: MsmtFn, batch: Batch, *, num_frames: int, num_tokens: int) -> Tensor:
    """Fuse the first frames and tokens of the first round, with the [CLS] vector of each modality."""
    audio, audio_mask = network.audio_encoder(batch.waveforms[:1], batch.num_samples[:1])
    text, text_mask = network.text_encoder(batch.input_ids[:1], batch.num_tokens[:1])
    vectors: Tensor = network.fusion(
        audio[:, :num_frames], audio_mask[:, :num_frames], text[:, :num_tokens], text_mask[:, :num_tokens]
    )
    return vectors


@torch.no_grad()
def test_a_round_without_text_is_fused_from_its_audio_and_the_class_vector(network: MsmtFn, batch: Batch) -> None:
    expected = fuse_first_round(network, batch, num_frames=27, num_tokens=0)
    batch.num_tokens[0] = 0
    vectors = network.encode_rounds(**batch.rounds(0, 1))
    assert vectors.isfinite().all()
    torch.testing.assert_close(vectors[:1], expected, **TOLERANCE)
    batch.input_ids[0] = network.config.text.pad_token_id
    torch.testing.assert_close(network.encode_rounds(**batch.rounds(0, 1)), vectors, **TOLERANCE)


@pytest.mark.parametrize("num_samples", [0, 1, 399])
@torch.no_grad()
def test_a_round_without_a_frame_is_fused_from_its_text_and_the_class_vector(
    network: MsmtFn, batch: Batch, num_samples: int
) -> None:
    expected = fuse_first_round(network, batch, num_frames=0, num_tokens=7)
    batch.num_samples[0] = num_samples
    vectors = network.encode_rounds(**batch.rounds(0, 1))
    assert vectors.isfinite().all()
    torch.testing.assert_close(vectors[:1], expected, **TOLERANCE)


@torch.no_grad()
def test_a_silent_round_has_a_finite_vector_that_ignores_the_padding(network: MsmtFn, batch: Batch) -> None:
    batch.waveforms[0, :9000] = 0.0
    vectors = network.encode_rounds(**batch.rounds(0))
    assert vectors.isfinite().all()
    batch.waveforms[0] = 0.0
    torch.testing.assert_close(network.encode_rounds(**batch.rounds(0)), vectors, **TOLERANCE)


@torch.no_grad()
def test_an_empty_round_is_fused_from_the_two_class_vectors(network: MsmtFn, batch: Batch) -> None:
    expected = fuse_first_round(network, batch, num_frames=0, num_tokens=0)
    batch.num_samples[:], batch.num_tokens[:] = 0, 0
    vectors = network.encode_rounds(**batch.rounds(0, 1, 2))
    torch.testing.assert_close(vectors, expected.expand(3, -1), **TOLERANCE)


@torch.no_grad()
def test_a_batch_without_samples_may_have_width_zero(tiny_network: MakeNetwork, batch: Batch) -> None:
    batch.num_samples[:] = 0
    rounds = batch.rounds(0, 1, 2)
    vectors = tiny_network().encode_rounds(**(rounds | {"waveforms": torch.zeros(3, 0)}))
    torch.testing.assert_close(vectors, tiny_network().encode_rounds(**rounds), **TOLERANCE)


@torch.no_grad()
def test_a_batch_without_tokens_may_have_width_zero(tiny_network: MakeNetwork, batch: Batch) -> None:
    batch.num_tokens[:] = 0
    rounds = batch.rounds(0, 1, 2)
    vectors = tiny_network().encode_rounds(**(rounds | {"input_ids": torch.zeros(3, 0, dtype=torch.long)}))
    torch.testing.assert_close(vectors, tiny_network().encode_rounds(**rounds), **TOLERANCE)


# ---- training


def is_key_bias_of_an_encoder(name: str) -> bool:
    """Return whether a weight is a bias of keys: softmax cancels it, so its gradient is zero up to rounding."""
    return name.endswith(("k_proj.bias", "attention.self.key.bias"))


def weights_without_a_gradient(network: MsmtFn, batch: Batch, *, may_be_zero: bool = False) -> list[str]:
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


def test_every_weight_is_trainable_and_gets_a_gradient(network: MsmtFn, batch: Batch) -> None:
    assert {name for name, weight in network.named_parameters() if not weight.requires_grad} <= {ROFORMER_SINUSOIDS}
    assert weights_without_a_gradient(network, batch) == []


@pytest.mark.parametrize("field", ["num_tokens", "num_samples"])
def test_every_weight_gets_a_gradient_when_a_whole_batch_lacks_one_modality(
    network: MsmtFn, batch: Batch, field: str
) -> None:
    getattr(batch, field)[:] = 0
    assert weights_without_a_gradient(network, batch, may_be_zero=True) == []


@pytest.mark.parametrize("variant", REDUCED)
def test_every_weight_of_a_reduced_network_gets_a_gradient(
    tiny_network: MakeNetwork, batch: Batch, variant: str
) -> None:
    is_unimodal = "modalities" in REDUCED[variant]
    assert weights_without_a_gradient(tiny_network(**REDUCED[variant]), batch, may_be_zero=is_unimodal) == []


def test_the_loss_is_the_sum_of_the_four_cross_entropies(tiny_network: MakeNetwork, batch: Batch) -> None:
    network = tiny_network()
    output = network(**vars(batch), intents=torch.tensor([2, 3]))  # C and D
    targets = {"five": [2, 3], "four": [2, 3], "three": [1, 2], "two": [0, 1]}
    expected = 0.0
    for task, classes in targets.items():
        for logits, index in zip(output.logits[task].tolist(), classes, strict=True):
            expected += (math.log(sum(math.exp(logit) for logit in logits)) - logits[index]) / 2
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)


def test_with_one_head_the_loss_is_the_cross_entropy_of_the_five_classes(
    tiny_network: MakeNetwork, batch: Batch
) -> None:
    output = tiny_network(multi_task=False)(**vars(batch), intents=torch.tensor([2, 3]))
    probabilities = output.logits["five"].softmax(dim=1)
    expected = -(math.log(probabilities[0, 2].item()) + math.log(probabilities[1, 3].item())) / 2
    assert output.loss.item() == pytest.approx(expected, abs=1e-5)


def test_new_weights_have_the_default_initialisation_of_pytorch_and_of_the_encoders(tiny_network: MakeNetwork) -> None:
    network = tiny_network(text_config={"model_type": "bert"} | TINY_TEXT | {"vocab_size": 2000})
    bound = 1 / math.sqrt(network.fusion.pooling.projection.in_features)
    weight = network.fusion.pooling.projection.weight
    assert weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert network.text_encoder.model.embeddings.word_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.02)
    for token in (network.fusion.audio_token.token, network.fusion.bottleneck.tokens):
        assert token.std().item() == pytest.approx(0.02, rel=0.5)


# ---- from pretrained encoders


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


# ---- the paper's sizes

D, F = 768, 3072  # width of all layers, inner width of all feed-forward layers
ENCODER_LAYER = 4 * (D * D + D) + (D * F + F) + (F * D + D) + 2 * 2 * D  # four projections, two linear maps, two norms
ATTENTION = 4 * D * D + 3 * D + 2 * D  # no bias on the keys; one norm
FEED_FORWARD = (D * F + F) + (F * D + D) + 2 * D
FLATTEN_PROJECTION = 200 * D * D + D


@dataclass(frozen=True)
class PaperRun:
    """Network of the paper's sizes, with the intermediate states of a round of 40 s and 199 tokens."""

    network: MsmtFn
    audio_states: Tensor
    audio_mask: Tensor
    fusion_inputs: dict[str, Tensor]
    vectors: Tensor


@pytest.fixture(scope="module")
def paper() -> Iterator[PaperRun]:
    """Build and run the network once; this takes some seconds and 1.5 GB."""
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MsmtFn(MsmtFnConfig()).train(False)
        recorded: list[tuple[Tensor, ...]] = []
        handles = [
            network.audio_encoder.register_forward_hook(lambda _, __, output: recorded.append(output)),
            network.fusion.complementary_pathway.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs)),
        ]
        vectors = network.encode_rounds(
            torch.randn(1, 320_000), torch.tensor([320_000]), torch.randint(5, 21_128, (1, 199)), torch.tensor([199])
        )
        for handle in handles:
            handle.remove()
        inputs = dict(zip(("text", "text_mask", "audio", "audio_mask"), recorded[1], strict=True))
        yield PaperRun(network, recorded[0][0], recorded[0][1], inputs, vectors)


def size_of(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def test_forty_seconds_give_999_frames(paper: PaperRun) -> None:
    assert paper.audio_states.shape == (1, 999, 768)
    assert paper.audio_mask.all()


def test_199_tokens_are_200_with_the_class_vector(paper: PaperRun) -> None:
    assert paper.fusion_inputs["text"].shape == (1, 200, 768)
    assert paper.fusion_inputs["text_mask"].all()


def test_999_frames_are_1000_with_the_class_vector(paper: PaperRun) -> None:
    assert paper.fusion_inputs["audio"].shape == (1, 1000, 768)
    assert paper.fusion_inputs["audio_mask"].all()


def test_a_round_of_the_papers_size_is_one_vector(paper: PaperRun) -> None:
    assert paper.vectors.shape == (1, 768)
    assert paper.vectors.isfinite().all()


def test_the_audio_encoder_is_a_hubert_base(paper: PaperRun) -> None:
    convolutions = 512 * 10 + 4 * (512 * 512 * 3) + 2 * (512 * 512 * 2) + 2 * 512  # and the norm of the first one
    projection = 2 * 512 + 512 * D + D
    positions = D * (D // 16) * 128 + 128 + D  # 16 groups; 128 lengths of the weight normalisation; the bias
    expected = convolutions + projection + positions + 2 * D + 12 * ENCODER_LAYER
    assert size_of(paper.network.audio_encoder) == expected == 94_370_944


def test_the_text_encoder_is_a_bert_base_with_a_chinese_vocabulary(paper: PaperRun) -> None:
    embeddings = (21_128 + 512 + 2) * D + 2 * D
    assert size_of(paper.network.text_encoder) == embeddings + 12 * ENCODER_LAYER == 101_677_056


def test_the_projection_of_the_flattened_text_is_most_of_the_fusion(paper: PaperRun) -> None:
    assert size_of(paper.network.fusion.pooling) == FLATTEN_PROJECTION == 117_965_568


def test_the_fusion_has_one_four_and_two_layers(paper: PaperRun) -> None:
    class_vectors = 2 * D
    text_pathway = 1 * ATTENTION
    complementary = 4 * (ATTENTION + 2 * D + ATTENTION + FEED_FORWARD)  # cross-attention normalises the audio as well
    bottleneck = 4 * D + 2 * 2 * (ATTENTION + FEED_FORWARD) + 2 * D
    expected = class_vectors + text_pathway + complementary + bottleneck + FLATTEN_PROJECTION
    assert size_of(paper.network.fusion) == expected == 186_490_368


def test_the_context_is_a_bigru_of_two_layers_of_128(paper: PaperRun) -> None:
    first, second = (3 * 128 * (width + 128) + 2 * 3 * 128 for width in (D, 2 * 128))
    assert size_of(paper.network.context) == 2 * first + 2 * second == 986_112


def test_the_heads_have_fourteen_outputs(paper: PaperRun) -> None:
    assert size_of(paper.network.heads) == (2 * 128 + 1) * (5 + 4 + 3 + 2) == 3_598


def test_there_are_no_other_weights(paper: PaperRun) -> None:
    parts = 94_370_944 + 101_677_056 + 186_490_368 + 986_112 + 3_598
    assert size_of(paper.network) == parts == 383_528_078


@torch.inference_mode()
def test_the_whole_network_scores_a_short_call(paper: PaperRun) -> None:
    output = paper.network(
        torch.randn(1, 8000), torch.tensor([8000]), torch.randint(5, 21_128, (1, 5)), torch.tensor([5]), [1]
    )
    assert [tuple(output.logits[task].shape) for task in TASKS] == [(1, 5), (1, 4), (1, 3), (1, 2)]
    assert all(output.logits[task].isfinite().all() for task in TASKS)


# ---- pretrained encoders without safetensors


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
