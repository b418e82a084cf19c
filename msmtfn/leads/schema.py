"""The columns of the leads, declared once.

A run writes its results as parts: the leads without their rank, but with the row number in the manifest.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa

from msmtfn.labels import TASKS
from msmtfn.rows import ROW_ID

SCORED: Final = "scored"
REJECTED: Final = "rejected"
ROUND: Final = pa.struct([("start_sec", pa.float64()), ("end_sec", pa.float64())])
FACTS: Final = pa.struct(
    [
        ("agent_talk_share", pa.float32()),
        ("longest_monologue_sec", pa.float32()),
        ("customer_reply_delay_sec", pa.float32()),
        ("interruptions", pa.int32()),
        ("silence_share", pa.float32()),
        ("turns_per_min", pa.float32()),
    ]
)
"""Facts of a call, as `calls.facts.CallFacts` defines them."""

EVIDENCE: Final = pa.struct(
    [("start_sec", pa.float64()), ("end_sec", pa.float64()), ("change", pa.float32()), ("side", pa.string())]
)
"""A round that moved the lead score by `change` points, by its `words`, its `sound` or `both`."""

LINEAGE: Final = pa.schema(
    [
        ("model_version", pa.string()),
        ("run_id", pa.string()),
        ("scored_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""Columns that say which run has scored a call, with which model and when."""

OUTCOME: Final = pa.schema(
    [
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        *((task, pa.struct([(name, pa.float32()) for name in classes])) for task, classes in TASKS.items()),
        ("intent_predicted", pa.string()),
        ("prediction_set", pa.list_(pa.string())),
        ("lead_score", pa.float32()),
        ("unranked_reason", pa.string()),
        ("evidence", pa.list_(EVIDENCE)),
        ("duration_sec", pa.float64()),
        ("num_rounds", pa.int32()),
        ("num_tokens", pa.int32()),
        ("loudness_dbfs", pa.float32()),
        ("rounds", pa.list_(ROUND)),
        ("facts", FACTS),
        *LINEAGE,
    ]
)
"""Columns that scoring adds to a call."""

HEADS_PREFIX: Final = "heads_"
HEADS: Final = pa.schema([(f"{HEADS_PREFIX}{task}", OUTCOME.field(task).type) for task in TASKS])
"""Columns with the probabilities of the four heads before calibration; evaluations have them, leads do not."""

LEAD_RANK: Final = pa.field("lead_rank", pa.int32())
RESERVED: Final = frozenset({*OUTCOME.names, LEAD_RANK.name, "date"})
"""Names that a column of the manifest must not have in the leads; `date` is in the name of the day's folder."""


def parts_schema(passed: Iterable[pa.Field]) -> pa.Schema:
    """Return the schema of a run's parts, given the columns that pass through, including `call_id`."""
    return pa.schema([pa.field(ROW_ID, pa.int64()), *passed, *OUTCOME])


def leads_schema(parts: pa.Schema) -> pa.Schema:
    """Return the schema of the published leads, given the schema of the parts."""
    fields = [field for field in parts if field.name != ROW_ID]
    after = [field.name for field in fields].index("lead_score") + 1
    return pa.schema([*fields[:after], LEAD_RANK, *fields[after:]])
