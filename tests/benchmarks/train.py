"""The cost of a training step: end to end on padded and on unpadded rounds, and on cached encoder states."""

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
    """The network that pads every round to the maximum length, as in the paper."""

    def encode_rounds(self, *rounds: Tensor, padded: bool = True) -> Tensor:
        """Encode the rounds with padding, whatever `padded` is."""
        return super().encode_rounds(*rounds, padded=True)


def measure_train(network: MsmtFn, num_calls: int, seed: int) -> list[dict[str, Any]]:
    """Time a step of the paper's recipe on the same calls: padded, unpadded and with cached encoder states.

    Args:
        network: network to train; it is not modified.
        num_calls: number of calls of the mix in the step.
        seed: random seed of lengths, samples and tokens.

    Returns:
        A row for every variant, with the seconds of the step after a warm-up step on one call, and the speed-up. For
        cached states, `once_sec` is the time to compute them, which is spent once.
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
            "way": variant,
            "calls": num_calls,
            "rounds": num_rounds,
            "step_sec": round(step_sec, 2),
            "rounds_per_sec": round(num_rounds / step_sec, 2),
            "times_padded": round(seconds[PADDED] / step_sec, 1),
            "times_unpadded": round(seconds[UNPADDED] / step_sec, 1),
            "once_sec": round(embed_sec, 1) if variant == CACHED else 0.0,
        }
        for variant, step_sec in seconds.items()
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
    """Replace the samples and tokens of the calls by the encoders' states."""
    columns = {
        "call_id": [f"call-{number}" for number in range(len(calls))],
        "intent": [INTENTS[number % len(INTENTS)] for number in range(len(calls))],
        "samples": [np.concatenate(call.samples) for call in calls],
        "round_samples": [[len(samples) for samples in call.samples] for call in calls],
        "tokens": [np.concatenate(call.tokens) for call in calls],
        "round_tokens": [[len(tokens) for tokens in call.tokens] for call in calls],
    }
    states = Embedder(network).embed_batch(pa.table(columns))
    return embedded_calls(states, network.config.audio.hidden_size, network.config.text.hidden_size)
