"""Embedding of prepared calls by frozen encoders, so that an epoch need not run them. Nothing here imports Ray.

Shapes: R rounds, A audio frames, T text tokens, D width of an encoder.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from msmtfn.features.processor import FULL_SCALE
from msmtfn.inference.feed import feed_rounds, group_rounds
from msmtfn.inference.scorer import CallRounds, split_calls
from msmtfn.model.base import CallNetwork
from msmtfn.training.calls import EMBEDDED
from msmtfn.training.recipe import ROUNDS_AT_ONCE

States = npt.NDArray[np.float16]


class Embedder:
    """The encoders of a network, or its audio encoder only, applied to batches of prepared calls."""

    def __init__(self, network: CallNetwork, *, with_text: bool = True) -> None:
        self.with_text = with_text
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = network.train(False).to(self.device)
        self.budget = network.config.max_round_samples * ROUNDS_AT_ONCE[self.device.type]

    def embed_batch(self, batch: pa.Table) -> pa.Table:
        """Embed calls.

        Args:
            batch: prepared rows that are ready, with the columns `call_id` and `intent`.

        Returns:
            The same calls in the schema `EMBEDDED`.
        """
        calls = list(split_calls(batch))
        rounds = iter(zip(*self._states(calls), strict=True))
        audio, text = [], []
        for call in calls:
            rounds_of_call = [next(rounds) for _ in call.samples]
            audio.append([states for states, _ in rounds_of_call])
            text.append([states for _, states in rounds_of_call])
        return pa.table(
            [
                batch["call_id"],
                batch["intent"],
                _flatten(audio),
                pa.array([[len(each) for each in call] for call in audio], pa.list_(pa.int32())),
                _flatten(text),
                batch["tokens"],
                batch["round_tokens"],
            ],
            schema=EMBEDDED,
        )

    @torch.inference_mode()
    def _states(self, calls: Sequence[CallRounds]) -> tuple[list[States], list[States]]:
        """Return the states of the audio (A, D) and of the text (T, D) of all rounds, in order.

        They are float16, which keeps three significant digits. Without `with_text` those of the text are empty.
        """
        samples = [each for call in calls for each in call.samples]
        tokens = [each for call in calls for each in call.tokens]
        audio_states: list[States] = [np.zeros((0, 0), np.float16)] * len(samples)
        text_states = list(audio_states)
        groups = group_rounds(np.array([len(each) for each in samples]), self.budget)
        batches = feed_rounds(groups, samples, tokens, self.network.config.text.pad_token_id, self.device)
        for group, batch in zip(groups, batches, strict=True):
            waveforms = batch.samples.float() / FULL_SCALE
            encoded_audio = _unpad(*self.network.encode_audio(waveforms, batch.num_samples, padded=False))
            for index, states in zip(group, encoded_audio, strict=True):
                audio_states[index] = states
            if self.with_text:
                encoded_text = _unpad(*self.network.encode_text(batch.input_ids, batch.num_tokens))
                for index, states in zip(group, encoded_text, strict=True):
                    text_states[index] = states
        return audio_states, text_states


def _unpad(states: Tensor, mask: Tensor) -> list[States]:
    """Cut padded states (R, T, D) to the lengths that their mask (R, T) gives."""
    padded, lengths = states.half().cpu().numpy(), mask.sum(dim=1).tolist()
    return [each[:length] for each, length in zip(padded, lengths, strict=True)]


def _flatten(calls: Sequence[Sequence[States]]) -> pa.Array:
    """Return a list array with all values of each call, round by round."""
    sizes = [sum(states.size for states in call) for call in calls]
    values = np.concatenate([states.reshape(-1) for call in calls for states in call] or [np.zeros(0, np.float16)])
    return pa.LargeListArray.from_arrays(pa.array(np.cumsum([0, *sizes]), pa.int64()), pa.array(values))
