"""The fusion of a whole round."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from msmtfn.model.attention import length_mask
from msmtfn.model.fusion import (
    ClassToken,
    RoundFusion,
)
from tests.model.fusions import MakeConfig, Rounds, changes, make, record_steps

TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}


@torch.no_grad()
def test_a_learned_vector_is_prepended_to_the_states() -> None:
    part, states = make(ClassToken, 8, 8), torch.randn(2, 3, 8)
    tokens, mask = part(states, length_mask(torch.tensor([3, 0]), 3))
    assert torch.equal(tokens, torch.cat([part.token.expand(2, 1, 8), states], dim=1))
    assert mask.tolist() == [[True] * 4, [True, False, False, False]]


@torch.no_grad()
def test_states_of_another_width_are_projected() -> None:
    tokens, _ = make(ClassToken, 6, 8)(torch.randn(2, 3, 6), torch.ones(2, 3, dtype=torch.bool))
    assert tokens.shape == (2, 4, 8)


@torch.no_grad()
def test_audio_and_text_have_different_learned_vectors(fusion: RoundFusion) -> None:
    assert not torch.equal(fusion.audio_token.token, fusion.text_token.token)


@torch.no_grad()
def test_a_round_becomes_one_vector(fusion: RoundFusion, rounds: Rounds) -> None:
    assert rounds.through(fusion).shape == (2, 32)


@torch.no_grad()
def test_the_pathways_get_the_class_vectors_of_both_modalities(fusion: RoundFusion, rounds: Rounds) -> None:
    steps = record_steps(fusion.complementary_pathway)
    rounds.through(fusion)
    text, text_mask, audio, audio_mask = steps[0].inputs
    assert (text.shape, audio.shape) == ((2, 7, 32), (2, 10, 32))
    assert text_mask.sum(dim=1).tolist() == [7, 5]
    assert audio_mask.sum(dim=1).tolist() == [10, 6]


@torch.no_grad()
def test_both_pathways_start_from_the_encoders_text(fusion: RoundFusion, rounds: Rounds) -> None:
    text_steps, mixed_steps = record_steps(fusion.text_pathway), record_steps(fusion.complementary_pathway)
    rounds.through(fusion)
    assert torch.equal(text_steps[0].inputs[0], mixed_steps[0].inputs[0])


@torch.no_grad()
def test_audio_enters_through_the_complementary_pathway_only(fusion: RoundFusion, rounds: Rounds) -> None:
    text_steps, mixed_steps = record_steps(fusion.text_pathway), record_steps(fusion.complementary_pathway)
    before = rounds.through(fusion)
    after = replace(rounds, audio=torch.randn_like(rounds.audio)).through(fusion)
    assert torch.equal(text_steps[0].output, text_steps[1].output)
    assert changes(mixed_steps[0].output, mixed_steps[1].output)
    assert changes(before, after)


@torch.no_grad()
def test_without_the_output_of_cross_attention_the_audio_has_no_effect(fusion: RoundFusion, rounds: Rounds) -> None:
    for name, weight in fusion.named_parameters():
        if "cross_attention.out" in name:
            weight.zero_()
    before = rounds.through(fusion)
    assert torch.equal(replace(rounds, audio=torch.randn_like(rounds.audio)).through(fusion), before)


@pytest.mark.parametrize("pooling", ["flatten", "cls", "mean", "max"])
@torch.no_grad()
def test_masked_states_change_nothing(tiny_config: MakeConfig, rounds: Rounds, pooling: str) -> None:
    fusion = make(RoundFusion, tiny_config(pooling=pooling))
    padding = {
        "audio": rounds.audio.masked_fill(~rounds.audio_mask[..., None], 50.0),
        "text": rounds.text.masked_fill(~rounds.text_mask[..., None], -50.0),
    }
    torch.testing.assert_close(replace(rounds, **padding).through(fusion), rounds.through(fusion), **TOLERANCE)


@pytest.mark.parametrize("pooling", ["flatten", "cls", "mean", "max"])
@torch.no_grad()
def test_a_round_is_fused_the_same_alone_and_unpadded(tiny_config: MakeConfig, rounds: Rounds, pooling: str) -> None:
    fusion = make(RoundFusion, tiny_config(pooling=pooling))
    alone = fusion(rounds.audio[1:, :5], rounds.audio_mask[1:, :5], rounds.text[1:, :4], rounds.text_mask[1:, :4])
    torch.testing.assert_close(alone, rounds.through(fusion)[1:], **TOLERANCE)


@pytest.mark.parametrize("side", ["audio", "text"])
@torch.no_grad()
def test_the_class_vector_changes_the_rounds_vector(fusion: RoundFusion, rounds: Rounds, side: str) -> None:
    before = rounds.through(fusion)
    getattr(fusion, f"{side}_token").token.add_(torch.randn(32))
    assert changes(before, rounds.through(fusion))
