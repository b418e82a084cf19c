"""What a day publishes: leads or transcripts, with their names, their order and their columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from msmtfn.leads.ranking import rank_leads
from msmtfn.leads.schema import SCORED, leads_schema
from msmtfn.rows import ROW_ID


@dataclass(frozen=True, slots=True)
class DayTable:
    """Rows that a day publishes.

    Attributes:
        name: what they are, and the first part of the files' names.
        done_status: status of a row that is no reject.
        rows_per_file: rows of a published file, which is in memory at once; None for `publish.ROWS_PER_FILE`.
        keys: columns beside those of every table that decide the order.
        order: returns the row ids in the order of publication, and how many of them have a rank.
        schema: returns the schema of the published rows, given that of the parts.
    """

    name: str
    done_status: str
    rows_per_file: int | None
    keys: tuple[str, ...]
    order: Callable[[pa.Table], tuple[npt.NDArray[np.int64], int]]
    schema: Callable[[pa.Schema], pa.Schema]


def order_by_row(keys: pa.Table) -> tuple[npt.NDArray[np.int64], int]:
    """Return the row ids in the order of the manifest; none has a rank."""
    return np.sort(keys[ROW_ID].to_numpy()), 0


def without_row_id(parts: pa.Schema) -> pa.Schema:
    """Return the schema of the parts without their row ids."""
    return pa.schema([field for field in parts if field.name != ROW_ID])


LEADS: Final = DayTable("leads", SCORED, None, ("lead_score", "unranked_reason"), rank_leads, leads_schema)
"""Leads, best first."""
