"""What it costs to encode rounds: as long as they are, and padded to the longest as the paper has it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np

from msmtfn.labels import TASKS
from msmtfn.model.network import MsmtFn
from msmtfn.scoring.scorer import CallRounds, Scorer, ScorerConfig
from msmtfn.trials.mix import SAMPLE_RATE, draw_lengths, make_call

ENCODINGS: Final[tuple[Literal["padded", "unpadded"], ...]] = ("padded", "unpadded")


def measure_encode(network: MsmtFn, round_sec: Sequence[float], num_calls: int, seed: int) -> list[dict[str, Any]]:
    """Time both encodings of the same calls; a row for each length of round and for the mix of real calls.

    Args:
        network: to score with.
        round_sec: lengths of single rounds to measure beside the mix, in seconds.
        num_calls: of the mix.
        seed: of lengths, samples and tokens.
    """
    rng = np.random.default_rng(seed)
    days = {f"{seconds:g} s": [make_call(rng, [seconds])] for seconds in round_sec}
    days["mix"] = [make_call(rng, lengths) for lengths in draw_lengths(num_calls, rng)]
    return [_compare(name, calls, network) for name, calls in days.items()]


def _compare(name: str, calls: list[CallRounds], network: MsmtFn) -> dict[str, Any]:
    """Time both encodings of some calls, each after a warm-up, and see that they say the same."""
    seconds, results = {}, []
    for encoding in ENCODINGS:
        scorer = Scorer(network, ScorerConfig(encoding=encoding), model_version="", run_id="")
        scorer.probabilities(calls[:1])
        started = time.perf_counter()
        results.append(scorer.probabilities(calls))
        seconds[encoding] = time.perf_counter() - started
    audio_sec = sum(len(samples) for call in calls for samples in call.samples) / SAMPLE_RATE
    return {
        "rounds": name,
        "number": sum(len(call.samples) for call in calls),
        "audio_sec": round(audio_sec, 1),
        "padded_sec": round(seconds["padded"], 3),
        "unpadded_sec": round(seconds["unpadded"], 3),
        "ratio": round(seconds["padded"] / seconds["unpadded"], 2),
        "times_real_time": round(audio_sec / seconds["unpadded"], 1),
        "largest_difference": float(max(abs(results[0][task] - results[1][task]).max() for task in TASKS)),
    }
