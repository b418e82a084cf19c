"""Shuffling of one modality between rounds, to measure how much a network relies on it.

Shapes: R rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from msmtfn.errors import TrainingDataError
from msmtfn.features.prepare import INPUTS
from msmtfn.inference.scorer import CallRounds, split_calls

Shuffle = Literal["none", "audio", "text"]

_COLUMNS_OF_MODALITY: Final = {"audio": ("samples", "round_samples"), "text": ("tokens", "round_tokens")}
"""The columns of `INPUTS` with the values of a modality, and with their number in each round."""


def shuffle_rounds(batches: Sequence[pa.Table], modality: Literal["audio", "text"], seed: int) -> Iterator[pa.Table]:
    """Give every round the audio, or the text, of another round of any call; each is given exactly once.

    Args:
        batches: rows as `Preparer.prepare_batch` returns them; they stay in memory, the samples as int16.
        modality: the modality that is shuffled.
        seed: seed of the shuffling.

    Yields:
        The batches with the columns of that modality replaced.

    Raises:
        TrainingDataError: there is one round only.
    """
    values, lengths = _COLUMNS_OF_MODALITY[modality]
    calls = [[_rounds_of(call, modality) for call in split_calls(batch)] for batch in batches]
    rounds = [each for batch in calls for call in batch for each in call]
    if len(rounds) == 1:
        raise TrainingDataError(f"there is one round only, and no other to take its {modality} from; give more calls")
    donors = iter(_other_rounds(len(rounds), seed))
    for batch, old in zip(batches, calls, strict=True):
        new = [[rounds[next(donors)] for _ in call] for call in old]
        yield _with_column(
            _with_column(batch, values, [_concatenate(call, values) for call in new]),
            lengths,
            [[len(each) for each in call] for call in new],
        )


def _other_rounds(num_rounds: int, seed: int) -> npt.NDArray[np.int64]:
    """Return (R,) the index of the round that each round receives from.

    All rounds form one random cycle, and each receives from its predecessor, so that none receives from itself.
    """
    cycle = np.random.default_rng(seed).permutation(num_rounds)
    donors = np.empty_like(cycle)
    donors[cycle] = np.roll(cycle, 1)
    return donors


def _rounds_of(call: CallRounds, modality: Literal["audio", "text"]) -> list[npt.NDArray[Any]]:
    return list(call.samples if modality == "audio" else call.tokens)


def _concatenate(rounds: Sequence[npt.NDArray[Any]], name: str) -> npt.NDArray[Any]:
    dtype = INPUTS.field(name).type.value_type.to_pandas_dtype()
    return np.concatenate([np.zeros(0, dtype), *rounds])


def _with_column(batch: pa.Table, name: str, rows: Sequence[Any]) -> pa.Table:
    field = INPUTS.field(name)
    return batch.set_column(batch.schema.get_field_index(name), field, pa.array(rows, field.type))
