"""Batches of rounds of similar length, copied to the device one batch ahead of the network.

For a GPU, each batch is padded in pinned memory and copied on its own CUDA stream while the network computes the
previous batch: the host never waits for a copy, and the network waits for the first one only. On a CPU nothing is
copied.

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
    """Padded batch of rounds on the device.

    Attributes:
        samples: (R, S) int16, padded with zeros.
        num_samples: (R,) int64, number of samples of each round.
        input_ids: (R, T) int64, padded with `pad_token_id`.
        num_tokens: (R,) int64, number of tokens of each round.
    """

    samples: Tensor
    num_samples: Tensor
    input_ids: Tensor
    num_tokens: Tensor


def group_rounds(
    lengths: npt.NDArray[np.int64], budget: int, padded_length: int | None = None
) -> list[npt.NDArray[np.int64]]:
    """Group rounds of similar length into batches with little padding.

    Args:
        lengths: (R,) number of samples of each round.
        budget: maximum number of samples in a batch, padding included; a longer round becomes a batch of its own.
        padded_length: length to which every round is padded; None for the longest round of its batch.

    Returns:
        The indices of the rounds in each batch, longest rounds first; every index occurs once.
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
    """Pad groups of rounds and copy them to the device.

    Args:
        groups: indices of the rounds of each group, as returned by `group_rounds`.
        samples: the samples of each round.
        tokens: the token ids of each round.
        pad_token_id: token id to pad with.
        device: the device that the network runs on.

    Yields:
        One batch per group, in order.
    """
    on_gpu = device.type == "cuda"
    padded = (
        RoundBatch(
            *pad_rows([samples[index] for index in group], 0, torch.int16, pinned=on_gpu),
            *pad_rows([tokens[index] for index in group], pad_token_id, torch.int64, pinned=on_gpu),
        )
        for group in groups
    )
    return _prefetch_to_gpu(padded, device) if on_gpu else padded


def _prefetch_to_gpu(batches: Iterator[RoundBatch], device: torch.device) -> Iterator[RoundBatch]:
    """Copy batches to the GPU on a separate stream, one batch ahead of the consumer."""
    copy_stream, network_stream = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    pending: tuple[RoundBatch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copy_stream):
            on_device = RoundBatch(*(tensor.to(device, non_blocking=True) for tensor in batch))
            copied = copy_stream.record_event()
        if pending is not None:
            yield _hand_over(*pending, network_stream)
        pending = on_device, copied
    if pending is not None:
        yield _hand_over(*pending, network_stream)


def _hand_over(batch: RoundBatch, copied: torch.cuda.Event, stream: torch.cuda.Stream) -> RoundBatch:
    """Make the network's stream wait for the copy, and keep the memory until that stream has finished with it."""
    stream.wait_event(copied)
    for tensor in batch:
        tensor.record_stream(stream)
    return batch


def pad_rows(
    rows: Sequence[npt.NDArray[Any]], fill: int, dtype: torch.dtype, *, pinned: bool = False
) -> tuple[Tensor, Tensor]:
    """Pad rows of different lengths to one tensor, and return it with their lengths.

    Args:
        rows: one-dimensional arrays.
        fill: value to pad with.
        dtype: dtype of the padded tensor.
        pinned: whether to allocate both in pinned memory, from which a GPU copies asynchronously.

    Returns:
        (R, max(longest row, 1)) and (R,) int64.
    """
    lengths = torch.tensor([len(row) for row in rows], pin_memory=pinned)
    padded = torch.empty((len(rows), max(int(lengths.max()), 1)), dtype=dtype, pin_memory=pinned)
    for padded_row, row in zip(padded.numpy(), rows, strict=True):
        padded_row[: len(row)] = row
        padded_row[len(row) :] = fill
    return padded, lengths
