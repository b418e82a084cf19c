"""Read what the page of a day shows: the first leads, what nobody should be rung for and why, what was rejected."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from msmtfn.daily.publish import read_earlier_successes
from msmtfn.daily.success import Success
from msmtfn.delivery.outcome_view import OutcomesView
from msmtfn.delivery.published import PublishedDay, open_days_before, read_batches
from msmtfn.delivery.recordings import address_of
from msmtfn.delivery.suppression import CUSTOMER_ID, UNRANKED_REASON, find_suppressed
from msmtfn.labels import INTENTS
from msmtfn.leads.schema import LEAD_RANK, REJECTED, SCORED
from msmtfn.storage.untrusted import printable

WANTED: Final = ("A", "B")
MAX_TEXT: Final = 160
"""Characters of an id or a name that the page shows."""
MAX_LISTED: Final = 500
"""Calls without a rank, and rejects, that the page lists; their counts are those of the whole day."""
FACTS: Final = (
    "agent_talk_share",
    "longest_monologue_sec",
    "customer_reply_delay_sec",
    "interruptions",
    "silence_share",
    "turns_per_min",
)
SIDES: Final = ("words", "sound", "both")

_EVIDENCE: Final = pa.struct(
    [("start_sec", pa.float64()), ("end_sec", pa.float64()), ("change", pa.float64()), ("side", pa.string())]
)
_NAMES: Final = tuple(
    pa.field(name, pa.string()) for name in ("call_id", "uri", "customer_id", "agent_id", "domain", "language")
)
_CALL: Final = (
    *_NAMES,
    LEAD_RANK,
    pa.field("started_at", pa.timestamp("us")),
    pa.field("lead_score", pa.float64()),
    pa.field("intent_predicted", pa.string()),
    pa.field("five", pa.struct([(intent, pa.float64()) for intent in INTENTS])),
    pa.field("prediction_set", pa.list_(pa.string())),
    pa.field("evidence", pa.list_(_EVIDENCE)),
    pa.field("facts", pa.struct([(name, pa.float64()) for name in FACTS])),
    pa.field("duration_sec", pa.float64()),
    pa.field("num_rounds", pa.int32()),
)
_COUNTED: Final = (
    pa.field("status", pa.string()),
    LEAD_RANK,
    pa.field("intent_predicted", pa.string()),
    UNRANKED_REASON,
)
_UNRANKED: Final = (
    *_NAMES,
    pa.field("lead_score", pa.float64()),
    pa.field("intent_predicted", pa.string()),
    UNRANKED_REASON,
)
_REJECTED: Final = (*_NAMES, pa.field("error_code", pa.string()), pa.field("error_detail", pa.string()))


@dataclass(frozen=True, slots=True)
class Moment:
    """Round that moved a score: its seconds in the call, the points that it adds, and the side that did it."""

    start_sec: float
    end_sec: float
    change: float
    side: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Call as the page shows it; all text is safe to show, and cut.

    Attributes:
        rank: its rank; None for a call without one.
        call_id: its id.
        customer_id: the customer, or None.
        agent_id: the agent, or None.
        domain: the domain, or None.
        language: the language, or None.
        uri: the recording as the manifest names it.
        url: where a browser finds the recording; None without a template.
        started: when it began, as a clock showed it.
        score: its score.
        intent: the most likely of the five classes.
        five: probabilities of the five classes; empty where unknown.
        prediction_set: classes that hold the true one with 90 % certainty; empty where unknown.
        evidence: rounds that moved the score most, the strongest first.
        facts: figures in the order of `FACTS`; empty where none is known.
        seconds: length of the recording.
        rounds: number of rounds.
        reason: why it has no rank, or was rejected.
        detail: explanation of a reject for the operator.
    """

    rank: int | None = None
    call_id: str
    customer_id: str | None
    agent_id: str | None
    domain: str | None
    language: str | None
    uri: str | None
    url: str | None = None
    started: str | None = None
    score: float | None = None
    intent: str | None = None
    five: tuple[float, ...] = ()
    prediction_set: tuple[str, ...] = ()
    evidence: tuple[Moment, ...] = ()
    facts: tuple[float | None, ...] = ()
    seconds: float | None = None
    rounds: int | None = None
    reason: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts over the whole day.

    Attributes:
        ranked: calls with a rank.
        wanted: of these the ones that are most likely A or B.
        unranked: scored calls without a rank, by reason.
    """

    ranked: int
    wanted: int
    unranked: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DayView:
    """Everything that the page of a day shows.

    Attributes:
        success: record of the day.
        counts: counts over the whole day.
        leads: the best calls, best first, without those of customers who are not to be rung.
        suppressed: ranked calls of customers who are not to be rung, with the reason.
        unranked: calls without a rank, at most `MAX_LISTED`.
        rejected: rejects, at most `MAX_LISTED`.
        before: records of up to 14 days before, oldest first.
        outcomes: what became of earlier leads, or why that cannot be read; None where it was not asked for.
    """

    success: Success
    counts: Counts
    leads: Sequence[Call]
    suppressed: Sequence[Call] = ()
    unranked: Sequence[Call] = ()
    rejected: Sequence[Call] = ()
    before: Sequence[Success] = field(default_factory=tuple)
    outcomes: OutcomesView | str | None = None

    @property
    def num_ranked(self) -> int:
        """Number of ranked calls of customers who may be rung."""
        return self.counts.ranked - len(self.suppressed)

    @property
    def num_wanted(self) -> int:
        """Number of these that are most likely A or B."""
        return self.counts.wanted - sum(call.intent in WANTED for call in self.suppressed)


def read_view(day: PublishedDay, max_leads: int, num_days: int, template: str | None = None) -> DayView:
    """Read what the page of a day shows, without holding more of it in memory than is shown.

    Args:
        day: the published leads.
        max_leads: number of ranked leads to show.
        num_days: days to look at for refusals, the day included.
        template: checked template of the recordings' addresses.

    Raises:
        PublishError: the leads cannot be read.
    """
    calls = _read_leads(day, max_leads)
    before = list(open_days_before(day.root, day.date, num_days - 1))
    ids = calls[CUSTOMER_ID.name].drop_null().unique()
    suppressed = find_suppressed(day, before, ids)
    leads: list[Call] = []
    left_alone: list[Call] = []
    date = day.date.isoformat()
    for row in calls.to_pylist():
        reason = suppressed.get(row["customer_id"])
        (leads if reason is None else left_alone).append(_call_of(row, template, date, reason))
    is_unranked = (pc.field("status") == SCORED) & pc.field("lead_rank").is_null()
    return DayView(
        success=day.success,
        counts=_count(day),
        leads=leads,
        suppressed=left_alone,
        unranked=_list(day, _UNRANKED, is_unranked),
        rejected=_list(day, _REJECTED, pc.field("status") == REJECTED),
        before=read_earlier_successes(day.root, day.date),
    )


def _read_leads(day: PublishedDay, max_leads: int) -> pa.Table:
    """Return the rows of the best leads, best first."""
    batches = read_batches(day, _CALL, pc.field(LEAD_RANK.name) <= max_leads)
    calls = pa.concat_tables([pa.schema(_CALL).empty_table(), *batches])
    return calls.sort_by(LEAD_RANK.name)


def _count(day: PublishedDay) -> Counts:
    intents: Counter[str | None] = Counter()
    reasons: Counter[str] = Counter()
    for rows in read_batches(day, _COUNTED):
        is_ranked = pc.is_valid(rows[LEAD_RANK.name])
        intents.update(_counts_of(rows.filter(is_ranked)["intent_predicted"]))
        is_unranked = pc.and_(pc.equal(rows["status"], SCORED), pc.invert(is_ranked))
        reasons.update(_counts_of(rows.filter(is_unranked)[UNRANKED_REASON.name].fill_null("")))
    return Counts(sum(intents.values()), sum(intents[intent] for intent in WANTED), dict(reasons))


def _counts_of(column: pa.ChunkedArray) -> dict[Any, int]:
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def _list(day: PublishedDay, fields: Sequence[pa.Field], condition: pc.Expression) -> list[Call]:
    return [_call_of(row) for row in _first(read_batches(day, fields, condition), MAX_LISTED)]


def _first(tables: Iterator[pa.Table], number: int) -> Iterator[dict[str, Any]]:
    for table in tables:
        rows = table.slice(0, number).to_pylist()
        number -= len(rows)
        yield from rows
        if not number:
            return


def _call_of(row: Mapping[str, Any], template: str | None = None, date: str = "", reason: str | None = None) -> Call:
    started: dt.datetime | None = row.get("started_at")
    five = row.get("five") or {}
    return Call(
        rank=row.get("lead_rank"),
        call_id=printable(row["call_id"] or "", MAX_TEXT),
        customer_id=_shown(row["customer_id"]),
        agent_id=_shown(row["agent_id"]),
        domain=_shown(row["domain"]),
        language=_shown(row["language"]),
        uri=_shown(row["uri"]),
        url=None if template is None else address_of(template, date, row),
        started=None if started is None else started.strftime("%H:%M"),
        score=_number(row.get("lead_score"), 1),
        intent=_shown(row.get("intent_predicted")),
        five=tuple(_number(value, 3) or 0.0 for value in five.values()),
        prediction_set=tuple(name for name in row.get("prediction_set") or () if name in INTENTS),
        evidence=tuple(_moments(row.get("evidence") or ())),
        facts=tuple(_number(value, 3) for value in (row.get("facts") or {}).values()),
        seconds=_number(row.get("duration_sec"), 1),
        rounds=row.get("num_rounds"),
        reason=reason or _shown(row.get("unranked_reason")) or _shown(row.get("error_code")),
        detail=_shown(row.get("error_detail")),
    )


def _moments(evidence: Sequence[Mapping[str, Any]]) -> Iterator[Moment]:
    for each in evidence:
        start, end, change = (_number(each[name], 1) for name in ("start_sec", "end_sec", "change"))
        if start is not None and end is not None and change is not None:
            yield Moment(start, end, change, each["side"] if each["side"] in SIDES else None)


def _shown(text: str | None) -> str | None:
    return printable(text, MAX_TEXT) if text else None


def _number(value: float | None, digits: int) -> float | None:
    """Return a rounded number; None for what JSON has no number for."""
    return round(value, digits) if value is not None and math.isfinite(value) else None
