"""Context across the rounds of a call (paper, section 3.6).

Shapes: R rounds of all calls, C calls, D width of the fusion.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence


class RoundContext(nn.Module):
    """Bidirectional GRU over the rounds of a call, whose final states in both directions are the call's vector.

    With no layers there is no GRU, and the call's vector is the mean of its rounds.
    """

    gru: nn.GRU

    def __init__(self, input_size: int, context_size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.output_size = 2 * context_size if num_layers else input_size
        if num_layers == 0:
            return
        self.gru = nn.GRU(
            input_size,
            context_size,
            num_layers,
            batch_first=True,
            bidirectional=True,
            dropout=dropout if num_layers > 1 else 0.0,
        )

    def forward(self, vectors: Tensor, rounds_per_call: list[int]) -> Tensor:
        """Map the vectors of the rounds to one vector per call.

        Args:
            vectors: (R, D), the rounds of the first call, then those of the second, and so on.
            rounds_per_call: C numbers of at least 1 that sum to R; a list, since the GRU needs them on the host.

        Returns:
            (C, output_size).
        """
        calls = vectors.split(rounds_per_call)
        if self.num_layers == 0:
            return _means(calls)
        padded = pad_sequence(list(calls), batch_first=True)
        packed = pack_padded_sequence(padded, torch.tensor(rounds_per_call), batch_first=True, enforce_sorted=False)
        _, final_states = self.gru(packed)
        return torch.cat([final_states[-2], final_states[-1]], dim=1)  # last layer, forward and backward


def _means(calls: Sequence[Tensor]) -> Tensor:
    """Return the mean of each call's rounds, (C, D)."""
    if not all(len(rounds) for rounds in calls):
        raise ValueError("rounds_per_call holds 0; each call must have at least 1 round")
    return torch.stack([rounds.mean(dim=0) for rounds in calls])
