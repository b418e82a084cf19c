"""Equal shares of the training calls for the workers, drawn anew for every epoch.

Shards that are cut once would give a worker the same calls in every epoch, and the calls that are left over from equal
shards would never be learned. A share depends on the seed, the epoch and the rank only, so a resumed run sees the same
calls as one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn.training.datasets import open_calls


@dataclass(frozen=True, slots=True)
class _RowGroup:
    """A row group of a file of calls, and the indices (C,) of the rows that are ready."""

    fragment: pads.ParquetFileFragment
    rows: npt.NDArray[np.int64]


class EpochShares:
    """The ready calls of a prepared or embedded split, read by share and epoch."""

    def __init__(self, folder: str) -> None:
        """Find the ready calls; only their status is read."""
        files = sorted(open_calls(folder).get_fragments(), key=lambda each: each.path)
        self.groups = [_find_ready(group) for file in files for group in file.split_by_row_group()]
        self.num_calls = sum(len(group.rows) for group in self.groups)

    def read(self, seed: Sequence[int], rank: int, world_size: int) -> Iterator[pa.Table]:
        """Yield the calls of one worker's share, in an order that the seed decides.

        The row groups are shuffled, and the rows in each; then every worker takes an equal stretch, so it reads hardly
        more than its own calls. The calls that the shares leave over, fewer than workers, are others in every epoch.

        Args:
            seed: a seed for each epoch, the same in all workers.
            rank: rank of the worker.
            world_size: number of workers.
        """
        rng = np.random.default_rng(list(seed))
        size = self.num_calls // world_size
        first, last, position = rank * size, (rank + 1) * size, 0
        for index in rng.permutation(len(self.groups)):
            group = self.groups[index]
            rows = rng.permutation(group.rows)
            mine = rows[max(first - position, 0) : max(last - position, 0)]
            position += len(rows)
            if len(mine):
                yield group.fragment.to_table().take(pa.array(mine))


def _find_ready(fragment: pads.ParquetFileFragment) -> _RowGroup:
    if "status" not in fragment.physical_schema.names:  # embedded calls are all ready
        return _RowGroup(fragment, np.arange(fragment.count_rows()))
    status = fragment.to_table(columns=["status"])["status"]
    return _RowGroup(fragment, np.flatnonzero(pc.is_null(status).to_numpy()))
