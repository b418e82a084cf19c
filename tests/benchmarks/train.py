"""What a step of training costs: end to end on padded rounds and on rounds as they are, and on states of before."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
from torch import Tensor

from msmtfn.inference.scorer import CallRounds
from msmtfn.labels import INTENTS
from msmtfn.model.network import MsmtFn
from msmtfn.training.augmentation import AugmentationConfig
from msmtfn.training.calls import LabelledCall, embedded_calls
from msmtfn.training.embedding import Embedder
from msmtfn.training.loop import InMemoryCalls, Loop
from msmtfn.training.recipe import Recipe
from tests.benchmarks.mix import draw_lengths, make_call

RECIPE: Final = Recipe(precision="fp32", augmentation=AugmentationConfig(augment="none"))
PADDED, UNPADDED, CACHED = "padded", "unpadded", "cached"


class PaddedMsmtFn(MsmtFn):
    """The network that pads every round to the longest, as the paper has it."""

    def encode_rounds(self, *rounds: Tensor, padded: bool = True) -> Tensor:
        """What `MsmtFn.encode_rounds` gives, by the plain way whatever is asked for."""
        return super().encode_rounds(*rounds, padded=True)


def measure_train(network: MsmtFn, num_calls: int, seed: int) -> list[dict[str, Any]]:
    """Take a step of the paper's recipe on the same calls in three ways; a row for each.

    Args:
        network: to train; it stays as it is.
        num_calls: of the mix of real calls, which make one step.
        seed: of lengths, samples and tokens.

    Returns:
        Seconds of the step, after one on a single call, and the ratio to the plain way. For the cached states the
        seconds that it took to compute them, once, stand beside.
    """
    rng = np.random.default_rng(seed)
    mix = [make_call(rng, lengths) for lengths in draw_lengths(num_calls, rng)]
    calls = [LabelledCall(f"call-{number}", number % len(INTENTS), rounds) for number, rounds in enumerate(mix)]
    started = time.perf_counter()
    states = _embed(network, mix)
    embed_sec = time.perf_counter() - started
    seconds = {
        PADDED: _seconds_of_step(_padded(network), RECIPE, calls),
        UNPADDED: _seconds_of_step(copy.deepcopy(network), RECIPE, calls),
        CACHED: _seconds_of_step(copy.deepcopy(network), replace(RECIPE, frozen="encoders"), states),
    }
    num_rounds = sum(call.num_rounds for call in calls)
    return [
        {
            "way": way,
            "calls": num_calls,
            "rounds": num_rounds,
            "step_sec": round(taken, 2),
            "rounds_per_sec": round(num_rounds / taken, 2),
            "times_padded": round(seconds[PADDED] / taken, 1),
            "times_unpadded": round(seconds[UNPADDED] / taken, 1),
            "once_sec": round(embed_sec, 1) if way == CACHED else 0.0,
        }
        for way, taken in seconds.items()
    ]


def _seconds_of_step(network: MsmtFn, recipe: Recipe, calls: Sequence[LabelledCall]) -> float:
    recipe = replace(recipe, accumulation_steps=-(-len(calls) // recipe.batch_calls))
    intents = np.array([call.intent for call in calls])
    loop = Loop(network, recipe, InMemoryCalls(calls, calls, 0), steps_per_epoch=2, training_intents=intents)
    loop.learner.train()
    loop.step(calls[:1])
    started = time.perf_counter()
    loop.step(calls)
    return time.perf_counter() - started


def _padded(network: MsmtFn) -> MsmtFn:
    padded = PaddedMsmtFn(network.config)
    padded.load_state_dict(network.state_dict())
    return padded


def _embed(network: MsmtFn, calls: Sequence[CallRounds]) -> list[LabelledCall]:
    """The calls with the encoders' states in the place of samples and tokens."""
    columns = {
        "call_id": [f"call-{number}" for number in range(len(calls))],
        "intent": [INTENTS[number % len(INTENTS)] for number in range(len(calls))],
        "samples": [np.concatenate(call.samples) for call in calls],
        "round_samples": [[len(each) for each in call.samples] for call in calls],
        "tokens": [np.concatenate(call.tokens) for call in calls],
        "round_tokens": [[len(each) for each in call.tokens] for call in calls],
    }
    states = Embedder(network).embed_batch(pa.table(columns))
    return embedded_calls(states, network.config.audio.hidden_size, network.config.text.hidden_size)
