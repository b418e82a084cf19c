"""What it costs to encode rounds: as long as they are, and padded to the longest as the paper has it."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch

from msmtfn.labels import TASKS
from msmtfn.model.network import MsmtFn
from msmtfn.scoring.scorer import CallRounds, Scorer, ScorerConfig
from msmtfn.trials.flops import encoder_flops, matrix_rate
from msmtfn.trials.mix import SAMPLE_RATE, draw_lengths, make_call

WAYS: Final = {
    "padded": ScorerConfig(encoding="padded", precision="fp32"),
    "unpadded": ScorerConfig(precision="fp32"),
    "bf16": ScorerConfig(precision="bf16"),
}


def measure_encode(
    network: MsmtFn, round_sec: Sequence[float], num_calls: int, seed: int, *, bf16: bool
) -> list[dict[str, Any]]:
    """Time both encodings of the same calls, and the faster in bf16 too; a row a length of round, and one for the mix.

    `share_of_rate` is the share of the machine's matrix-product rate that the encoders' operations reach, all other
    work's time included.

    Args:
        network: to score with.
        round_sec: lengths of single rounds to measure beside the mix, in seconds.
        num_calls: of the mix.
        seed: of lengths, samples and tokens.
        bf16: whether the faster way is measured in bf16 too.
    """
    rng = np.random.default_rng(seed)
    days = {f"{seconds:g} s": [make_call(rng, [seconds])] for seconds in round_sec}
    days["mix"] = [make_call(rng, lengths) for lengths in draw_lengths(num_calls, rng)]
    rates = {way: matrix_rate(torch.bfloat16 if way == "bf16" else torch.float32) for way in _ways(bf16=bf16)}
    scorers = {way: Scorer(copy.deepcopy(network), WAYS[way], model_version="", run_id="") for way in rates}
    return [_compare(name, calls, scorers, rates) for name, calls in days.items()]


def _ways(*, bf16: bool) -> list[str]:
    return [way for way in WAYS if bf16 or way != "bf16"]


def _compare(
    name: str, calls: list[CallRounds], scorers: Mapping[str, Scorer], rates: Mapping[str, float]
) -> dict[str, Any]:
    """Time the ways of scoring some calls, each after a warm-up, and see how much what they say differs.

    Args:
        name: of the row.
        calls: to score.
        scorers: of each way.
        rates: TFLOP/s of this machine's matrix products, a way.
    """
    seconds, results = {}, {}
    for way, scorer in scorers.items():
        scorer.probabilities(calls[:1])
        started = time.perf_counter()
        results[way] = scorer.probabilities(calls)
        seconds[way] = time.perf_counter() - started
    tflop = encoder_flops(scorers["padded"].network.config, calls) / 1e12
    audio_sec = sum(len(samples) for call in calls for samples in call.samples) / SAMPLE_RATE
    row = {
        "rounds": name,
        "number": sum(len(call.samples) for call in calls),
        "audio_sec": round(audio_sec, 1),
        "padded_sec": round(seconds["padded"], 3),
        "unpadded_sec": round(seconds["unpadded"], 3),
        "ratio": round(seconds["padded"] / seconds["unpadded"], 2),
        "times_real_time": round(audio_sec / seconds["unpadded"], 1),
        "share_of_rate": round(tflop / seconds["unpadded"] / rates["unpadded"], 2),
        "largest_difference": _largest_difference(results["padded"], results["unpadded"]),
    }
    if "bf16" in rates:
        row["bf16_sec"] = round(seconds["bf16"], 3)
        row["bf16_ratio"] = round(seconds["padded"] / seconds["bf16"], 2)
        row["bf16_share_of_rate"] = round(tflop / seconds["bf16"] / rates["bf16"], 2)
        row["bf16_difference"] = _largest_difference(results["unpadded"], results["bf16"])
    return row


def _largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return float(max(abs(one[task] - other[task]).max() for task in TASKS))
