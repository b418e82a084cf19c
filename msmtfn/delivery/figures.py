"""The table that `msmtfn outcomes` writes: its columns, declared once, and how it is read."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from msmtfn import storage
from msmtfn.errors import OutcomesError

ALL: Final = "all"
DECILE: Final = "decile"
BAND: Final = "band"
FIRST: Final = "first"
TOO_FEW: Final = "too_few"
DIFFERS: Final = "differs"

FIGURES_FILE: Final = "outcomes.parquet"
FIGURES: Final = pa.schema(
    [
        ("measure", pa.string()),
        ("slice", pa.string()),
        ("leads", pa.int64()),
        ("converted", pa.int64()),
        ("conversion", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("lift", pa.float64()),
        ("mean_score", pa.float64()),
        ("p_adjusted", pa.float64()),
        ("warning", pa.string()),
        ("first_date", pa.date32()),
        ("last_date", pa.date32()),
    ]
)
"""Columns of the table of figures, a row per slice."""


def read_figures(location: str) -> pa.Table:
    """Read a table of figures.

    Raises:
        OutcomesError: it is none.
        StorageError: there is no such file, or the storage refused.
    """
    with storage.open_for_reading(location) as file:
        try:
            table = pq.read_table(file)
            return table.select(FIGURES.names).cast(FIGURES)
        except (pa.ArrowException, KeyError) as exc:
            raise OutcomesError(f"{location} is no table that `msmtfn outcomes` wrote; run it again") from exc
