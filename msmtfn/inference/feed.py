"""Groups of rounds on their way to the device, one group ahead of the network.

On a GPU each group is padded in pinned memory and copied on a stream of its own, while the network still computes the
group before: the host never waits for a copy, and the network only for the first. On a CPU there is nothing to copy.

Shapes: R rounds, S samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


class RoundBatch(NamedTuple):
    """A group of rounds on the device.

    Attributes:
        samples: (R, S) int16.
        num_samples: (R,) of each round.
        input_ids: (R, T) int64.
        num_tokens: (R,) of each round.
    """

    samples: Tensor
    num_samples: Tensor
    input_ids: Tensor
    num_tokens: Tensor


def group_rounds(
    lengths: npt.NDArray[np.int64], budget: int, padded_length: int | None = None
) -> list[npt.NDArray[np.int64]]:
    """Group rounds of about the same length, so that little of a batch is padding.

    Args:
        lengths: (R,) samples of each round.
        budget: samples of a batch, padding included; a round that is longer makes a batch of its own.
        padded_length: what every round is padded to; None for the longest of its batch.

    Returns:
        The rounds' indices, a batch at a time, the longest first; each index once.
    """
    longest_first = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(longest_first):
        longest = padded_length or max(int(lengths[longest_first[start]]), 1)
        size = max(1, budget // longest)
        batches.append(longest_first[start : start + size])
        start += size
    return batches


def feed_rounds(
    groups: Iterable[npt.NDArray[np.int64]],
    samples: Sequence[npt.NDArray[np.int16]],
    tokens: Sequence[npt.NDArray[np.int32]],
    pad_token_id: int,
    device: torch.device,
) -> Iterator[RoundBatch]:
    """Pad groups of rounds and bring them to the device.

    Args:
        groups: indices of the rounds of each group, as `group_rounds` makes them.
        samples: of each round.
        tokens: of each round.
        pad_token_id: that follows a round's tokens.
        device: to bring them to.

    Yields:
        Each group, in order.
    """
    on_gpu = device.type == "cuda"
    padded = (
        RoundBatch(
            *pad_rows([samples[index] for index in group], 0, torch.int16, pinned=on_gpu),
            *pad_rows([tokens[index] for index in group], pad_token_id, torch.int64, pinned=on_gpu),
        )
        for group in groups
    )
    return _copied_ahead(padded, device) if on_gpu else padded


def _copied_ahead(batches: Iterator[RoundBatch], device: torch.device) -> Iterator[RoundBatch]:
    stream, network_stream = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    waiting: tuple[RoundBatch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(stream):
            on_device = RoundBatch(*(each.to(device, non_blocking=True) for each in batch))
            copied = stream.record_event()
        if waiting is not None:
            yield _handed_over(*waiting, network_stream)
        waiting = on_device, copied
    if waiting is not None:
        yield _handed_over(*waiting, network_stream)


def _handed_over(batch: RoundBatch, copied: torch.cuda.Event, stream: torch.cuda.Stream) -> RoundBatch:
    """Let the network's stream wait for the copy, and its memory be taken again only when the network is done."""
    stream.wait_event(copied)
    for each in batch:
        each.record_stream(stream)
    return batch


def pad_rows(
    rows: Sequence[npt.NDArray[Any]], fill: int, dtype: torch.dtype, *, pinned: bool = False
) -> tuple[Tensor, Tensor]:
    """Rows of different lengths as one array with `fill` after each, at least one wide; and their lengths.

    Args:
        rows: of numbers.
        fill: follows each row.
        dtype: of the array.
        pinned: whether both lie in memory that a GPU copies from by itself.
    """
    lengths = torch.tensor([len(row) for row in rows], pin_memory=pinned)
    padded = torch.empty((len(rows), max(int(lengths.max()), 1)), dtype=dtype, pin_memory=pinned)
    for place, row in zip(padded.numpy(), rows, strict=True):
        place[: len(row)] = row
        place[len(row) :] = fill
    return padded, lengths
