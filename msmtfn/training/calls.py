"""Labelled calls on their way to the network: out of prepared rows, in batches under a budget, as tensors.

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

from msmtfn.features.prepare import FULL_SCALE
from msmtfn.inference.feed import pad_rows
from msmtfn.inference.scorer import CallRounds, split_calls
from msmtfn.labels import INTENTS
from msmtfn.model.attention import length_mask
from msmtfn.model.network import MsmtFn

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
"""A call as its encoders see it: the states of its rounds one after the other, flat, and how many each has. Where the
text encoder learns there are no states of the text."""


STATES_NDIM: Final = 2
"""Of a round's states, (A, D) or (T, D); samples and tokens have one dimension."""


@dataclass(frozen=True, slots=True)
class EmbeddedRounds:
    """The encoders' states of one call, or those of the audio and the tokens that the text encoder learns to read.

    Attributes:
        audio: (A, D) float16 of each round.
        text: (T, D) float16 of each round, or its (T,) tokens.
    """

    audio: list[npt.NDArray[np.float16]]
    text: list[npt.NDArray[np.float16]] | list[npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class LabelledCall:
    """One call to learn from.

    Attributes:
        call_id: of the manifest.
        intent: index of its label in `INTENTS`.
        rounds: what the network reads, or what its encoders made of it.
    """

    call_id: str
    intent: int
    rounds: CallRounds | EmbeddedRounds

    @property
    def num_rounds(self) -> int:
        """Rounds of the call, at least 1."""
        return len(self.lengths)

    @property
    def lengths(self) -> list[int]:
        """Size of each round, by which batches are made: samples, or audio frames."""
        return [len(each) for each in _sides(self.rounds)[0]]


@dataclass(frozen=True, slots=True)
class CallBatch:
    """Calls as tensors.

    Attributes:
        audio: (R, S) float waveforms, or (R, A, D) float states.
        audio_lengths: (R,) samples or frames of each round.
        text: (R, T) token ids, or (R, T, D) float states.
        text_lengths: (R,) tokens of each round.
        rounds_per_call: calls' numbers of rounds, which sum to R.
        intents: (C,) index in `INTENTS`.
    """

    audio: Tensor
    audio_lengths: Tensor
    text: Tensor
    text_lengths: Tensor
    rounds_per_call: list[int]
    intents: Tensor

    def to(self, device: torch.device) -> CallBatch:
        """The batch on a device."""
        return CallBatch(
            self.audio.to(device, non_blocking=True),
            self.audio_lengths.to(device, non_blocking=True),
            self.text.to(device, non_blocking=True),
            self.text_lengths.to(device, non_blocking=True),
            self.rounds_per_call,
            self.intents.to(device, non_blocking=True),
        )

    def vectors(self, network: MsmtFn, rounds: npt.NDArray[np.int64]) -> Tensor:
        """The network's vectors (R', D) of some of the rounds, as long as the longest of them."""
        index = torch.from_numpy(rounds).to(self.audio.device)
        audio, audio_lengths = _cut(self.audio, self.audio_lengths, index)
        text, text_lengths = _cut(self.text, self.text_lengths, index)
        if not (_are_states(audio) or _are_states(text)):
            return network.encode_rounds(audio, audio_lengths, text, text_lengths, padded=False)
        if _are_states(text):
            read = text, length_mask(text_lengths, text.shape[1])
        else:
            read = network.read_rounds(text, text_lengths)
        vectors: Tensor = network.fusion(audio, length_mask(audio_lengths, audio.shape[1]), *read)
        return vectors


def prepared_calls(batch: pa.Table) -> list[LabelledCall]:
    """The calls of prepared rows, which must be ready and labelled; views of the table's memory."""
    rounds = split_calls(batch)
    return list(map(LabelledCall, batch["call_id"].to_pylist(), _intents(batch), rounds))


def embedded_calls(batch: pa.Table, audio_size: int, text_size: int | None) -> list[LabelledCall]:
    """The calls of rows of `EMBEDDED`; views of the table's memory.

    Args:
        batch: the rows.
        audio_size: width of the audio encoder.
        text_size: width of the text encoder; None takes the tokens in the place of its states.
    """
    return list(map(LabelledCall, batch["call_id"].to_pylist(), _intents(batch), _states(batch, audio_size, text_size)))


def collate(calls: Sequence[LabelledCall], pad_token_id: int) -> CallBatch:
    """Put calls, all of one kind, into one batch."""
    sides = [_sides(call.rounds) for call in calls]
    audio = [each for side, _ in sides for each in side]
    text = [each for _, side in sides for each in side]
    if audio[0].ndim == STATES_NDIM:
        heard, heard_lengths = _pad_states(audio)
    else:
        samples, heard_lengths = pad_rows(audio, 0, torch.int16)
        heard = samples.float() / FULL_SCALE
    is_read = text[0].ndim == STATES_NDIM
    read, read_lengths = _pad_states(text) if is_read else pad_rows(text, pad_token_id, torch.int64)
    intents = torch.tensor([call.intent for call in calls])
    return CallBatch(heard, heard_lengths, read, read_lengths, [call.num_rounds for call in calls], intents)


def split_by_budget(calls: Sequence[LabelledCall], budget: int) -> list[list[LabelledCall]]:
    """Split calls into batches whose padded size stays under a budget, the shortest together; each call once.

    Args:
        calls: of any number of rounds.
        budget: rounds of a batch times the longest of them, in samples or frames; a call that is larger by itself
            makes a batch of its own.
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


def _sides(rounds: CallRounds | EmbeddedRounds) -> tuple[list[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
    if isinstance(rounds, EmbeddedRounds):
        return list(rounds.audio), list(rounds.text)
    return list(rounds.samples), list(rounds.tokens)


def _are_states(side: Tensor) -> bool:
    return side.dim() == 1 + STATES_NDIM


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
    """The values of each round, in rows of `size` if it is given."""
    flat, ends = values.to_numpy(), np.cumsum(lengths.to_numpy())
    return np.split(flat if size is None else flat.reshape(-1, size), ends[:-1])
