"""From a call's rounds to the call (paper, section 3.6).

Shapes: R rounds of all calls, C calls, D width of the fusion.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence


class RoundContext(nn.Module):
    """A bidirectional GRU over a call's rounds; its final states of both directions are the call's vector."""

    def __init__(self, input_size: int, context_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(
            input_size,
            context_size,
            num_layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if num_layers > 1 else 0.0,
        )
        self.output_size = 2 * context_size

    def forward(self, vectors: Tensor, rounds_per_call: list[int]) -> Tensor:
        """Read each call's rounds in order.

        Args:
            vectors: (R, D), the rounds of the first call, then those of the second, and so on.
            rounds_per_call: C numbers of at least 1 that sum to R; a list, since the GRU wants them on the host.

        Returns:
            (C, output_size).
        """
        calls = pad_sequence(list(vectors.split(rounds_per_call)), batch_first=True)
        packed = pack_padded_sequence(calls, torch.tensor(rounds_per_call), batch_first=True, enforce_sorted=False)
        _, final_states = self.gru(packed)
        return torch.cat([final_states[-2], final_states[-1]], dim=1)
