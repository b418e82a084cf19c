from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from msmtfn.inference.feed import feed_rounds, group_rounds
from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig
from msmtfn.model.network import MsmtFn

CPU = torch.device("cpu")
SAMPLES = [np.array(row, np.int16) for row in ([1, 2, 3], [4], [], [5, 6])]
TOKENS = [np.array(row, np.int32) for row in ([7], [8, 9], [7, 7, 7], [])]
GROUPS = [np.array([0, 3]), np.array([1]), np.array([2])]


def test_rounds_are_grouped_by_length_under_the_budget() -> None:
    batches = group_rounds(np.array([10, 40, 12, 38, 11]), budget=80)
    assert [batch.tolist() for batch in batches] == [[1, 3], [2, 4, 0]]  # 2 * 40 and 3 * 12 samples


def test_a_round_over_the_budget_becomes_a_batch_of_its_own() -> None:
    assert [batch.tolist() for batch in group_rounds(np.array([5, 90, 5]), budget=80)] == [[1], [0, 2]]


def test_padded_rounds_count_with_their_padded_length() -> None:
    assert [len(batch) for batch in group_rounds(np.arange(1, 6), budget=80, padded_length=40)] == [2, 2, 1]


def test_rounds_without_samples_are_grouped_too() -> None:
    assert sorted(np.concatenate(group_rounds(np.array([0, 0, 3]), budget=2)).tolist()) == [0, 1, 2]


def test_less_than_5_percent_is_padding_for_the_lengths_of_real_calls() -> None:
    # 16 calls of 3.35 rounds; lengths log-normal, median 14 s, sigma 0.6, clipped to 1 and 40 s; 8 kHz.
    rng = np.random.default_rng(0)
    lengths = (8000 * np.clip(rng.lognormal(np.log(14), 0.6, 54), 1, 40)).astype(np.int64)
    batches = group_rounds(lengths, budget=320_000)
    padded = sum(len(batch) * lengths[batch].max() for batch in batches)
    assert 1 - lengths.sum() / padded < 0.05


def test_groups_are_padded_and_keep_their_order() -> None:
    batches = list(feed_rounds(GROUPS, SAMPLES, TOKENS, 1, CPU))
    assert [batch.samples.tolist() for batch in batches] == [[[1, 2, 3], [5, 6, 0]], [[4]], [[0]]]
    assert [batch.num_samples.tolist() for batch in batches] == [[3, 2], [1], [0]]
    assert [batch.input_ids.tolist() for batch in batches] == [[[7], [1]], [[8, 9]], [[7, 7, 7]]]
    assert [batch.num_tokens.tolist() for batch in batches] == [[1, 0], [2], [3]]


@pytest.mark.gpu
def test_a_gpu_gets_the_same_batches() -> None:
    expected = feed_rounds(GROUPS, SAMPLES, TOKENS, 1, CPU)
    batches = feed_rounds(GROUPS, SAMPLES, TOKENS, 1, torch.device("cuda"))
    for batch, expected_batch in zip(batches, expected, strict=True):
        assert all(tensor.is_cuda for tensor in batch)
        assert [tensor.tolist() for tensor in batch] == [tensor.tolist() for tensor in expected_batch]


@pytest.mark.gpu
def test_the_host_does_not_synchronise_with_the_gpu_between_batches(tiny_network: Callable[..., MsmtFn]) -> None:
    rng = np.random.default_rng(0)
    samples = [rng.integers(-3000, 3000, length).astype(np.int16) for length in (16_000, 9000, 300, 7000)]
    scorer = Scorer(tiny_network(), ScorerConfig(device="cuda"))
    with torch.inference_mode():
        for batch in feed_rounds(GROUPS, samples, TOKENS, 0, scorer.device):
            scorer.encode(batch)  # loads the libraries, which synchronises
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in feed_rounds(GROUPS, samples, TOKENS, 0, scorer.device):
                scorer.encode(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_gpu_gives_the_same_probabilities_as_a_cpu(tiny_network: Callable[..., MsmtFn]) -> None:
    rng = np.random.default_rng(0)
    calls = [
        CallRounds(
            [rng.integers(-3000, 3000, int(length)).astype(np.int16) for length in rng.integers(300, 16_000, 3)],
            [rng.integers(1, 9, 5).astype(np.int32) for _ in range(3)],
        )
        for _ in range(20)
    ]
    configs = [
        ScorerConfig(device="cpu", precision="fp32", samples_per_batch=40_000),
        ScorerConfig(device="cuda", precision="fp32", samples_per_batch=40_000),
    ]
    cpu, gpu = (Scorer(tiny_network(), config).probabilities(calls) for config in configs)
    for task, expected in cpu.items():
        np.testing.assert_allclose(gpu[task], expected, atol=1e-4)
