from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from msmtfn.model.network import MsmtFn
from tests.model.calls import (
    ROFORMER_SINUSOIDS,
    STABLE,
    TASKS,
    TINY_AUDIO,
    TINY_TEXT,
    WAV2VEC2,
    Batch,
    logits_of,
    make_batch,
    weights_without_a_gradient,
)

MakeNetwork = Callable[..., MsmtFn]
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
POOLINGS = ["flatten", "cls", "mean", "max"]
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


@pytest.fixture
def batch() -> Batch:
    return make_batch()


@pytest.fixture(params=VARIANTS)
def network(request: pytest.FixtureRequest, tiny_network: MakeNetwork) -> MsmtFn:
    """Make a network of each variant."""
    return tiny_network(**VARIANTS[request.param])


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


@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_the_sides_of_rounds_are_the_rounds_and_the_same_without_their_text(
    network: MsmtFn, batch: Batch, padded: bool
) -> None:
    rounds = batch.rounds(0, 1, 2)
    sides = network.encode_sides(**rounds, padded=padded)
    no_text = rounds | {"num_tokens": torch.zeros(3, dtype=torch.long)}
    torch.testing.assert_close(sides[:, 0], network.encode_rounds(**rounds, padded=padded), **TOLERANCE)
    torch.testing.assert_close(sides[:, 1], network.encode_rounds(**no_text, padded=padded), **TOLERANCE)


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
    # The weights are equal; sums may differ in the last bit, since they depend on where in memory the weights lie.
    assert all(torch.equal(weight, network.state_dict()[name]) for name, weight in loaded.state_dict().items())
    torch.testing.assert_close(logits_of(loaded, batch), logits_of(network, batch), atol=1e-6, rtol=0)


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
