"""The cost of the evidence: the same calls scored with it and without it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from msmtfn.inference.scorer import BATCH_CALLS, GPU_BATCH_CALLS, CallRounds, Device, Scorer, ScorerConfig
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.precision import ScoringPrecision
from tests.benchmarks.mix import draw_lengths, make_call


def measure_evidence(
    network: MsmtFn, num_calls: int, num_repeats: int, seed: int, *, precision: ScoringPrecision, device: Device
) -> list[dict[str, Any]]:
    """Time the scoring of the mix with and without evidence, in turn, so that a busy machine slows both.

    Args:
        network: network to score with.
        num_calls: number of calls in the mix.
        num_repeats: number of times that all calls are scored in each way.
        seed: random seed of lengths, samples and tokens.
        precision: precision of the matrix products.
        device: device to measure on.

    Returns:
        One row with the median seconds of both and the share that the evidence adds.
    """
    rng = np.random.default_rng(seed)
    calls = [make_call(rng, lengths) for lengths in draw_lengths(num_calls, rng)]
    scorers = {
        with_evidence: Scorer(network, ScorerConfig(precision=precision, device=device, evidence=with_evidence))
        for with_evidence in (False, True)
    }
    for scorer in scorers.values():
        _seconds(scorer, calls[:2])
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(num_repeats):
        for with_evidence, scorer in scorers.items():
            seconds[with_evidence].append(_seconds(scorer, calls))
    without, with_evidence_sec = statistics.median(seconds[False]), statistics.median(seconds[True])
    return [
        {
            "rounds": sum(len(call.samples) for call in calls),
            "repeats": num_repeats,
            "without_sec": round(without, 3),
            "with_sec": round(with_evidence_sec, 3),
            "added_percent": round(100 * (with_evidence_sec / without - 1), 1),
        }
    ]


def _seconds(scorer: Scorer, calls: Sequence[CallRounds]) -> float:
    size = GPU_BATCH_CALLS if scorer.device.type == "cuda" else BATCH_CALLS
    started = time.perf_counter()
    for start in range(0, len(calls), size):
        scorer.score_calls(calls[start : start + size])
    return time.perf_counter() - started
