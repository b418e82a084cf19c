"""Sizes of the network in the paper's configuration, which is the default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.network import MsmtFn
from tests.model.calls import TASKS

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
    bottleneck = 4 * D + 3 * (ATTENTION + FEED_FORWARD) + 2 * D  # T_m of the last layer has no effect
    expected = class_vectors + text_pathway + complementary + bottleneck + FLATTEN_PROJECTION
    assert size_of(paper.network.fusion) == expected == 179_403_264


def test_the_context_is_a_bigru_of_two_layers_of_128(paper: PaperRun) -> None:
    first, second = (3 * 128 * (width + 128) + 2 * 3 * 128 for width in (D, 2 * 128))
    assert size_of(paper.network.context) == 2 * first + 2 * second == 986_112


def test_the_heads_have_fourteen_outputs(paper: PaperRun) -> None:
    assert size_of(paper.network.heads) == (2 * 128 + 1) * (5 + 4 + 3 + 2) == 3_598


def test_there_are_no_other_weights(paper: PaperRun) -> None:
    parts = 94_370_944 + 101_677_056 + 179_403_264 + 986_112 + 3_598
    assert size_of(paper.network) == parts == 376_440_974


@torch.inference_mode()
def test_the_whole_network_scores_a_short_call(paper: PaperRun) -> None:
    output = paper.network(
        torch.randn(1, 8000), torch.tensor([8000]), torch.randint(5, 21_128, (1, 5)), torch.tensor([5]), [1]
    )
    assert [tuple(output.logits[task].shape) for task in TASKS] == [(1, 5), (1, 4), (1, 3), (1, 2)]
    assert all(output.logits[task].isfinite().all() for task in TASKS)
