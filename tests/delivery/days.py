"""Days of leads, made up by hand, for the tests of what is made of them."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa

from msmtfn.daily.publish import publish_tables
from msmtfn.daily.success import Success
from msmtfn.daily.work import default_work, run_folder
from msmtfn.delivery.published import PublishedDay, open_day
from msmtfn.labels import INTENTS
from msmtfn.leads.schema import REJECTED, SCORED
from tests.daily.parts import DATE, RECORD

Row = dict[str, Any]

SCHEMA: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("call_id", "uri", "customer_id", "agent_id", "domain", "language")),
        ("started_at", pa.timestamp("us", tz="Asia/Shanghai")),
        *((name, pa.string()) for name in ("status", "error_code", "error_detail", "unranked_reason")),
        ("five", pa.struct([(intent, pa.float32()) for intent in INTENTS])),
        ("intent_predicted", pa.string()),
        ("prediction_set", pa.list_(pa.string())),
        ("lead_score", pa.float32()),
        ("lead_rank", pa.int32()),
        ("duration_sec", pa.float64()),
        ("num_rounds", pa.int32()),
        (
            "evidence",
            pa.list_(
                pa.struct(
                    [
                        ("start_sec", pa.float64()),
                        ("end_sec", pa.float64()),
                        ("change", pa.float32()),
                        ("side", pa.string()),
                    ]
                )
            ),
        ),
        (
            "facts",
            pa.struct(
                [
                    ("agent_talk_share", pa.float32()),
                    ("longest_monologue_sec", pa.float32()),
                    ("customer_reply_delay_sec", pa.float32()),
                    ("interruptions", pa.int32()),
                    ("silence_share", pa.float32()),
                    ("turns_per_min", pa.float32()),
                ]
            ),
        ),
    ]
)


def lead(call_id: str, rank: int | None, score: float, **columns: Any) -> Row:
    """A scored call, a minute long, most likely A; without a rank if that is None."""
    row = {"call_id": call_id, "uri": f"recordings/{call_id}.wav", "status": SCORED, "lead_rank": rank}
    five = dict.fromkeys(INTENTS, 0.05) | {"A": 0.8}
    return {
        **row,
        "lead_score": score,
        "intent_predicted": "A",
        "five": five,
        "duration_sec": 60.0,
        "num_rounds": 3,
        **columns,
    }


def reject(call_id: str, error_code: str = "audio_not_found", **columns: Any) -> Row:
    """A call that could not be scored."""
    return {"call_id": call_id, "status": REJECTED, "error_code": error_code, "error_detail": "why", **columns}


def at(hour: int, date: dt.date = DATE) -> dt.datetime:
    """A time of the day in Shanghai."""
    zone = dt.timezone(dt.timedelta(hours=8))
    return dt.datetime(date.year, date.month, date.day, hour, tzinfo=zone)


def publish_leads(
    root: str, rows: list[Row], date: dt.date = DATE, schema: pa.Schema = SCHEMA, **record: Any
) -> Success:
    """Publish a day of leads, in the order of its rows."""
    rejected = Counter(row["error_code"] for row in rows if row["status"] == REJECTED)
    success = replace(
        RECORD,
        date=date,
        calls=len(rows),
        scored=len(rows) - rejected.total(),
        rejected=rejected.total(),
        rejected_by_reason=dict(rejected),
        **record,
    )
    table = pa.Table.from_pylist(rows, schema=schema)
    return publish_tables(root, date, run_folder(default_work(root), "run-1"), [table], success)


def open_leads(root: str, rows: list[Row], date: dt.date = DATE, schema: pa.Schema = SCHEMA) -> PublishedDay:
    """Publish a day of leads and open it."""
    publish_leads(root, rows, date, schema)
    return open_day(root, date)
