"""The cost of scoring rounds: at their own lengths, and padded to the maximum length as in the paper."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from msmtfn.inference.scorer import BATCH_CALLS, GPU_BATCH_CALLS, CallRounds, Device, Scorer, ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.precision import uses_bf16
from tests.benchmarks.flops import encoder_flops, matrix_rate
from tests.benchmarks.mix import SAMPLE_RATE, draw_lengths, make_call

VARIANTS: Final = {
    "padded": ScorerConfig(encoding="padded", precision="fp32", evidence=False),
    "unpadded": ScorerConfig(precision="fp32", evidence=False),
    "bf16": ScorerConfig(precision="bf16", evidence=False),
    "int8": ScorerConfig(precision="int8", device="cpu", evidence=False),
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
    """Time the padded and the unpadded encoding of the same calls, and optionally the unpadded one in bf16 and int8.

    `share_of_rate` is the encoders' rate of operations as a share of the machine's rate of matrix products. The time
    includes all other work. For int8 the rate is that of bf16, or of fp32 if the CPU has no bf16 instructions.

    Args:
        network: network to score with.
        round_sec: lengths of rounds to measure in addition to the mix, in seconds.
        num_rounds: number of rounds of every length.
        num_calls: number of calls in the mix.
        seed: random seed of lengths, samples and tokens.
        bf16: measure the unpadded encoding in bf16 too.
        int8: measure the unpadded encoding in int8 too, which needs a CPU.
        device: device to measure on.

    Returns:
        A row for every length of round, and one for the mix.
    """
    rng = np.random.default_rng(seed)
    workloads = {f"{seconds:g} s": [make_call(rng, [seconds]) for _ in range(num_rounds)] for seconds in round_sec}
    workloads["mix"] = [make_call(rng, lengths) for lengths in draw_lengths(num_calls, rng)]
    scorers = {
        variant: Scorer(network, replace(config, device=device))
        for variant, config in VARIANTS.items()
        if {"bf16": bf16, "int8": int8}.get(variant, True)
    }
    rates = {
        variant: matrix_rate(
            torch.bfloat16 if uses_bf16(scorer.config.precision, scorer.device) else torch.float32, scorer.device
        )
        for variant, scorer in scorers.items()
    }
    return [_compare(name, calls, scorers, rates) for name, calls in workloads.items()]


def _compare(
    name: str, calls: list[CallRounds], scorers: Mapping[str, Scorer], rates: Mapping[str, float]
) -> dict[str, Any]:
    """Time all variants on the same calls, each after a warm-up, and compare their probabilities.

    Args:
        name: name of the workload.
        calls: calls to score.
        scorers: a scorer for every variant.
        rates: the machine's rate of matrix products for every variant, in TFLOP/s.
    """
    seconds, memory, results = {}, {}, {}
    for variant, scorer in scorers.items():
        seconds[variant], memory[variant], results[variant] = _measure(scorer, calls)
    tflop = encoder_flops(scorers["padded"].network.config, calls) / 1e12
    audio_sec = sum(len(samples) for call in calls for samples in call.samples) / SAMPLE_RATE
    num_rounds = sum(len(call.samples) for call in calls)
    row: dict[str, Any] = {
        "rounds": name,
        "number": num_rounds,
        "audio_sec": round(audio_sec, 1),
        "padded_sec": _rounded(seconds["padded"]),
    }
    for variant, prefix in (("unpadded", ""), ("bf16", "bf16_"), ("int8", "int8_")):
        if variant in seconds:
            row |= {
                f"{variant}_sec": _rounded(seconds[variant]),
                f"{prefix}ratio": round(seconds["padded"] / seconds[variant], 2),
                f"{prefix}rounds_per_sec": round(num_rounds / seconds[variant], 1),
                f"{prefix}times_real_time": round(audio_sec / seconds[variant], 1),
                f"{prefix}share_of_rate": round(tflop / seconds[variant] / rates[variant], 2),
            }
    row["largest_difference"] = _largest_difference(results["padded"], results["unpadded"])
    for variant in ("bf16", "int8"):
        if variant in results:
            row[f"{variant}_difference"] = _largest_difference(results["unpadded"], results[variant])
    return row | {f"{variant}_peak_mib": peak for variant, peak in memory.items() if peak}


def _measure(scorer: Scorer, calls: list[CallRounds]) -> tuple[float, int, dict[str, Any]]:
    """Score calls in batches of the job's size; return the seconds, the GPU's peak memory in MiB and the results.

    The GPU's libraries select kernels and reserve memory when they first see a shape, so a GPU scores all batches once
    before the measurement.
    """
    on_gpu = scorer.device.type == "cuda"
    size = GPU_BATCH_CALLS if on_gpu else BATCH_CALLS
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
