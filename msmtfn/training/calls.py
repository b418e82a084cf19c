"""Labelled calls as the network's input: read from prepared rows, batched under a budget, and padded to tensors.

Shapes: R rounds, S samples, T text tokens, A audio frames, D width of an encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from msmtfn.features.processor import FULL_SCALE
from msmtfn.inference.feed import pad_rows
from msmtfn.inference.scorer import CallRounds, split_calls
from msmtfn.labels import INTENTS
from msmtfn.model.attention import length_mask
from msmtfn.model.base import CallNetwork

EMBEDDED: Final = pa.schema(
    [
        ("call_id", pa.string()),
        ("intent", pa.string()),
        ("audio_states", pa.large_list(pa.float16())),
        ("round_frames", pa.list_(pa.int32())),
        ("text_states", pa.large_list(pa.float16())),
        ("tokens", pa.list_(pa.int32())),
        ("round_tokens", pa.list_(pa.int32())),
    ]
)
"""A call as hidden states of the encoders: those of all rounds flat in one list, and the number of each round's frames
and tokens. The states of the text are left out where the text encoder is trained."""


STATES_NDIM: Final = 2
"""Dimensions of a round's states, (A, D) or (T, D); samples and tokens have one dimension."""


@dataclass(frozen=True, slots=True)
class EmbeddedRounds:
    """The rounds of one call as states of both encoders, or as states of the audio encoder and tokens.

    Attributes:
        audio: (A, D) float16 states of each round.
        text: (T, D) float16 states of each round, or its (T,) tokens where the text encoder is trained.
    """

    audio: list[npt.NDArray[np.float16]]
    text: list[npt.NDArray[np.float16]] | list[npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class LabelledCall:
    """One call with its label.

    Attributes:
        call_id: id of the call in the manifest.
        intent: index of the label in `INTENTS`.
        rounds: samples and tokens, or states of the encoders.
    """

    call_id: str
    intent: int
    rounds: CallRounds | EmbeddedRounds

    @property
    def num_rounds(self) -> int:
        """Number of rounds, at least 1."""
        return len(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """Length of each round in samples or audio frames, by which calls are batched."""
        return [len(each) for each in _modalities(self.rounds)[0]]


@dataclass(frozen=True, slots=True)
class CallBatch:
    """A batch of calls as padded tensors.

    Attributes:
        audio: (R, S) float waveforms, or (R, A, D) float states.
        audio_lengths: (R,) samples or frames of each round.
        text: (R, T) token ids, or (R, T, D) float states.
        text_lengths: (R,) tokens of each round.
        rounds_per_call: number of rounds of each call; the sum is R.
        intents: (C,) index of each call's label in `INTENTS`.
    """

    audio: Tensor
    audio_lengths: Tensor
    text: Tensor
    text_lengths: Tensor
    rounds_per_call: list[int]
    intents: Tensor

    def to(self, device: torch.device) -> CallBatch:
        """Copy the batch to a device."""
        return CallBatch(
            self.audio.to(device, non_blocking=True),
            self.audio_lengths.to(device, non_blocking=True),
            self.text.to(device, non_blocking=True),
            self.text_lengths.to(device, non_blocking=True),
            self.rounds_per_call,
            self.intents.to(device, non_blocking=True),
        )

    def vectors(self, network: CallNetwork, rounds: npt.NDArray[np.int64]) -> Tensor:
        """Compute the network's vectors (R', D) of some rounds, which are padded to the longest of these only."""
        index = torch.from_numpy(rounds).to(self.audio.device)
        audio, audio_lengths = _cut(self.audio, self.audio_lengths, index)
        text, text_lengths = _cut(self.text, self.text_lengths, index)
        if not (_are_states(audio) or _are_states(text)):
            return network.encode_rounds(audio, audio_lengths, text, text_lengths, padded=False)
        if _are_states(text):
            encoded_text = text, length_mask(text_lengths, text.shape[1])
        else:
            encoded_text = network.encode_text(text, text_lengths)
        vectors: Tensor = network.fusion(audio, length_mask(audio_lengths, audio.shape[1]), *encoded_text)
        return vectors


def prepared_calls(batch: pa.Table) -> list[LabelledCall]:
    """Return the calls of prepared rows, which must be ready and labelled; their arrays share the table's memory."""
    rounds = split_calls(batch)
    return list(map(LabelledCall, batch["call_id"].to_pylist(), _intents(batch), rounds))


def embedded_calls(batch: pa.Table, audio_size: int, text_size: int | None) -> list[LabelledCall]:
    """Return the calls of rows of `EMBEDDED`; their arrays share the table's memory.

    Args:
        batch: rows of `EMBEDDED`.
        audio_size: width of the audio encoder.
        text_size: width of the text encoder; None returns the tokens instead of its states.
    """
    return list(map(LabelledCall, batch["call_id"].to_pylist(), _intents(batch), _states(batch, audio_size, text_size)))


def collate(calls: Sequence[LabelledCall], pad_token_id: int) -> CallBatch:
    """Pad calls to one batch; they must be all embedded in the same way, or none of them."""
    modalities = [_modalities(call.rounds) for call in calls]
    audio_rounds = [each for audio, _ in modalities for each in audio]
    text_rounds = [each for _, text in modalities for each in text]
    if audio_rounds[0].ndim == STATES_NDIM:
        audio, audio_lengths = _pad_states(audio_rounds)
    else:
        samples, audio_lengths = pad_rows(audio_rounds, 0, torch.int16)
        audio = samples.float() / FULL_SCALE
    if text_rounds[0].ndim == STATES_NDIM:
        text, text_lengths = _pad_states(text_rounds)
    else:
        text, text_lengths = pad_rows(text_rounds, pad_token_id, torch.int64)
    intents = torch.tensor([call.intent for call in calls])
    return CallBatch(audio, audio_lengths, text, text_lengths, [call.num_rounds for call in calls], intents)


def split_by_budget(calls: Sequence[LabelledCall], budget: int) -> list[list[LabelledCall]]:
    """Split calls, sorted by their longest round, into batches whose padded size stays under a budget.

    Args:
        calls: the calls, with any number of rounds.
        budget: largest padded size of a batch, its number of rounds times the length of the longest; a call that
            exceeds the budget by itself becomes a batch of its own.
    """
    batches: list[list[LabelledCall]] = []
    num_rounds = 0
    for call in sorted(calls, key=lambda each: max(each.lengths)):
        longest = max(call.lengths)
        num_rounds += call.num_rounds
        if not batches or num_rounds * longest > budget:
            batches.append([])
            num_rounds = call.num_rounds
        batches[-1].append(call)
    return batches


def _intents(batch: pa.Table) -> list[int]:
    return [INTENTS.index(intent) for intent in batch["intent"].to_pylist()]


def _modalities(rounds: CallRounds | EmbeddedRounds) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    if isinstance(rounds, EmbeddedRounds):
        return list(rounds.audio), list(rounds.text)
    return list(rounds.samples), list(rounds.tokens)


def _are_states(values: Tensor) -> bool:
    return values.dim() == 1 + STATES_NDIM


def _cut(values: Tensor, lengths: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    lengths = lengths[index]
    return values[index, : max(int(lengths.max()), 1)], lengths


def _pad_states(rounds: Sequence[npt.NDArray[np.float16]]) -> tuple[Tensor, Tensor]:
    lengths = [len(each) for each in rounds]
    padded = torch.zeros(len(rounds), max(*lengths, 1), rounds[0].shape[1])
    for row, states in zip(padded, rounds, strict=True):
        row[: len(states)] = torch.from_numpy(states.astype(np.float32))
    return padded, torch.tensor(lengths)


def _states(batch: pa.Table, audio_size: int, text_size: int | None) -> Iterator[EmbeddedRounds]:
    names = ("audio_states", "round_frames", "tokens" if text_size is None else "text_states", "round_tokens")
    audio, frames, text, tokens = (batch[name].combine_chunks() for name in names)
    for row in range(len(batch)):
        yield EmbeddedRounds(
            audio=_split(audio[row].values, frames[row].values, audio_size),
            text=_split(text[row].values, tokens[row].values, text_size),
        )


def _split(values: pa.Array, lengths: pa.Array, size: int | None) -> list[npt.NDArray[Any]]:
    """Split a call's values into those of its rounds, reshaped to rows of `size` if it is given."""
    flat, ends = values.to_numpy(), np.cumsum(lengths.to_numpy())
    return np.split(flat if size is None else flat.reshape(-1, size), ends[:-1])
