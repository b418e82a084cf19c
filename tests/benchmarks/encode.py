"""What it costs to score rounds: as long as they are, and padded to the longest as the paper has it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from msmtfn.inference.scorer import BATCH_CALLS, BATCH_CALLS_OF_GPU, CallRounds, Device, Scorer, ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.precision import uses_bf16
from tests.benchmarks.flops import encoder_flops, matrix_rate
from tests.benchmarks.mix import SAMPLE_RATE, draw_lengths, make_call

WAYS: Final = {
    "padded": ScorerConfig(encoding="padded", precision="fp32"),
    "unpadded": ScorerConfig(precision="fp32"),
    "bf16": ScorerConfig(precision="bf16"),
    "int8": ScorerConfig(precision="int8", device="cpu"),
}
MIB: Final = 2**20


def measure_encode(
    network: MsmtFn,
    round_sec: Sequence[float],
    num_rounds: int,
    num_calls: int,
    seed: int,
    *,
    bf16: bool,
    int8: bool = False,
    device: Device = "auto",
) -> list[dict[str, Any]]:
    """Time both encodings of the same calls, the faster in bf16 and int8 too; a row a length of round, one for the mix.

    `share_of_rate` is the share of the machine's matrix-product rate that the encoders' operations reach, all other
    work's time included; for int8, of the rate in bf16, or in fp32 where the CPU has no instructions for bf16.

    Args:
        network: to score with.
        round_sec: lengths of rounds to measure beside the mix, in seconds.
        num_rounds: of each length.
        num_calls: of the mix.
        seed: of lengths, samples and tokens.
        bf16: whether the faster way is measured in bf16 too.
        int8: whether in int8 too, which is for CPUs.
        device: to measure.
    """
    rng = np.random.default_rng(seed)
    days = {f"{seconds:g} s": [make_call(rng, [seconds]) for _ in range(num_rounds)] for seconds in round_sec}
    days["mix"] = [make_call(rng, lengths) for lengths in draw_lengths(num_calls, rng)]
    scorers = {
        way: Scorer(network, replace(config, device=device))
        for way, config in WAYS.items()
        if {"bf16": bf16, "int8": int8}.get(way, True)
    }
    rates = {
        way: matrix_rate(
            torch.bfloat16 if uses_bf16(scorer.config.precision, scorer.device) else torch.float32, scorer.device
        )
        for way, scorer in scorers.items()
    }
    return [_compare(name, calls, scorers, rates) for name, calls in days.items()]


def _compare(
    name: str, calls: list[CallRounds], scorers: Mapping[str, Scorer], rates: Mapping[str, float]
) -> dict[str, Any]:
    """Time the ways of scoring some calls, each after a warm-up, and see how much what they say differs.

    Args:
        name: of the row.
        calls: to score.
        scorers: of each way.
        rates: TFLOP/s of the machine's matrix products, a way.
    """
    seconds, memory, results = {}, {}, {}
    for way, scorer in scorers.items():
        seconds[way], memory[way], results[way] = _measure(scorer, calls)
    tflop = encoder_flops(scorers["padded"].network.config, calls) / 1e12
    audio_sec = sum(len(samples) for call in calls for samples in call.samples) / SAMPLE_RATE
    number = sum(len(call.samples) for call in calls)
    row: dict[str, Any] = {
        "rounds": name,
        "number": number,
        "audio_sec": round(audio_sec, 1),
        "padded_sec": _rounded(seconds["padded"]),
    }
    for way, before in (("unpadded", ""), ("bf16", "bf16_"), ("int8", "int8_")):
        if way in seconds:
            row |= {
                f"{way}_sec": _rounded(seconds[way]),
                f"{before}ratio": round(seconds["padded"] / seconds[way], 2),
                f"{before}rounds_per_sec": round(number / seconds[way], 1),
                f"{before}times_real_time": round(audio_sec / seconds[way], 1),
                f"{before}share_of_rate": round(tflop / seconds[way] / rates[way], 2),
            }
    row["largest_difference"] = _largest_difference(results["padded"], results["unpadded"])
    for way in ("bf16", "int8"):
        if way in results:
            row[f"{way}_difference"] = _largest_difference(results["unpadded"], results[way])
    return row | {f"{way}_peak_mib": peak for way, peak in memory.items() if peak}


def _measure(scorer: Scorer, calls: list[CallRounds]) -> tuple[float, int, dict[str, Any]]:
    """Seconds that some calls take in batches of the job's size, the GPU's memory at its peak in MiB, and the results.

    A GPU's libraries choose their kernels, and reserve memory, by the shapes that they meet: it is shown all of them
    before.
    """
    on_gpu = scorer.device.type == "cuda"
    size = BATCH_CALLS_OF_GPU if on_gpu else BATCH_CALLS
    batches = [calls[start : start + size] for start in range(0, len(calls), size)]
    for batch in batches if on_gpu else [calls[:1]]:
        scorer.probabilities(batch)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(scorer.device)
    started = time.perf_counter()
    results = [scorer.probabilities(batch) for batch in batches]
    seconds = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated(scorer.device) // MIB if on_gpu else 0
    return seconds, peak, {task: np.concatenate([result[task] for result in results]) for task in TASKS}


def _rounded(seconds: float) -> float:
    return round(seconds, 3 if seconds > 1 else 5)


def _largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    return float(max(abs(one[task] - other[task]).max() for task in TASKS))
