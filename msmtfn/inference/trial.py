"""Try a model on built-in calls before it scores a day, on the device and in the precision that it will run in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from msmtfn.errors import CallError, ModelError
from msmtfn.inference.scorer import CallRounds, Scorer
from msmtfn.model.config import NetworkConfig

NUM_TOKENS: Final = 8
LOUDNESS: Final = 3000
"""Maximum sample of the noise that the calls consist of, a tenth of full scale."""
TRIAL_SEC: Final = 1.0


def try_model(scorer: Scorer) -> None:
    """Score built-in calls of noise and a few tokens, with and without words and sound.

    Raises:
        ModelError: one of them gets no score; a call would not get one either.
    """
    for outcome in scorer.score_calls(list(_built_in_calls(scorer.network.config))):
        if isinstance(outcome, CallError):
            raise ModelError(
                f"the model cannot score a built-in call of noise ({outcome.detail}), so no call was scored; use "
                "another version of the model, or train it again"
            )


def _built_in_calls(config: NetworkConfig) -> Iterator[CallRounds]:
    samples = np.random.default_rng(0).integers(
        -LOUDNESS, LOUDNESS, min(config.max_round_samples, round(TRIAL_SEC * config.encoder_sample_rate))
    )
    sound = samples.astype(np.int16)
    words = np.arange(min(NUM_TOKENS, config.max_text_tokens, config.text.vocab_size), dtype=np.int32)
    silence, no_words = sound[:0], words[:0]
    yield CallRounds([sound, sound[: len(sound) // 2]], [words, words[:1]])
    yield CallRounds([sound], [no_words])
    yield CallRounds([silence], [words])
