"""Find out what became of the leads: read a file of outcomes, and join it with the leads of published days.

Every row of the file is used once or listed with the reason why it is not.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from msmtfn import storage
from msmtfn.delivery.published import PublishedDay, as_type, open_days_before, read_batches
from msmtfn.delivery.suppression import CUSTOMER_ID
from msmtfn.errors import OutcomesError
from msmtfn.leads.schema import LEAD_RANK, SCORED
from msmtfn.storage.untrusted import printable

KEYS: Final = ("call_id", "customer_id")
CONVERTED: Final = "converted"
WORDS: Final = dict.fromkeys(("true", "yes", "1", "1.0"), True) | dict.fromkeys(("false", "no", "0", "0.0"), False)
"""How a file may say whether a lead was converted, in upper or lower case."""

GROUPINGS: Final = ("agent_id", "domain", "language", "codec")

PARQUET_MARK: Final = b"PAR1"
MAX_TEXT: Final = 160
_COLUMNS: Final = pa.schema([(name, pa.string()) for name in (*KEYS, CONVERTED, "date")])
_DEFUSED: Final = r"^'(\s*[=+\-@\t\r\x{ff1d}\x{ff0b}\x{ff0d}\x{ff20}])"
"""How an id begins to which `export` has added an apostrophe."""
_LEADS: Final = (
    pa.field("call_id", pa.string()),
    CUSTOMER_ID,
    pa.field("uri", pa.string()),
    pa.field("status", pa.string()),
    LEAD_RANK,
    pa.field("lead_score", pa.float64()),
    *(pa.field(name, pa.string()) for name in GROUPINGS),
)
UNUSED_FILE: Final = "unused.parquet"
UNUSED: Final = pa.schema(
    [("row", pa.int64()), *((name, pa.string()) for name in (*KEYS, CONVERTED, "date")), ("reason", pa.string())]
)
"""Rows of the file that are not used: their number, the first one being 1, what they say, and why."""


@dataclass(frozen=True, slots=True)
class KnownOutcomes:
    """Leads whose outcome is known.

    Attributes:
        leads: a row per lead: its `date`, `lead_rank`, `lead_score`, `GROUPINGS`, and whether it was `converted`.
        unused: rows of the file that are not used, as `UNUSED` has them.
        first_date: first day that was looked at.
        last_date: last one.
        scored: number of scored calls of these days.
    """

    leads: pa.Table
    unused: pa.Table
    first_date: dt.date
    last_date: dt.date
    scored: int

    @property
    def unused_by_reason(self) -> dict[str, int]:
        """Number of unused rows by reason."""
        return dict(sorted(Counter(self.unused["reason"].to_pylist()).items()))


def join_outcomes(location: str, leads: str, last_date: dt.date | None, num_days: int) -> KnownOutcomes:
    """Read a file of outcomes and find the lead of each.

    A row belongs to the latest lead of its call or customer that is not later than its date, and of a customer's leads
    of that day to the best one. Keeps the leads that the file names in memory, about 300 bytes each.

    Args:
        location: Parquet or CSV file with `call_id` or `customer_id`, `converted` and, if known, `date`.
        leads: root of the leads.
        last_date: last day to look at; by default the last published one.
        num_days: number of days to look at, that day included.

    Raises:
        OutcomesError: the file cannot be used, or no day is published.
        PublishError: the leads cannot be read.
    """
    rows = read_outcomes(location)
    days = _find_days(leads, last_date, num_days)
    found, num_scored = _find_leads(days, rows)
    leads_of = {name: _places(found[name].to_pylist()) for name in KEYS}
    dates = found["date"].to_pylist()
    chosen: list[int | None] = []
    reasons: list[str | None] = []
    for row in rows.to_pylist():
        place, reason = _find_lead(row, leads_of, dates)
        chosen.append(place)
        reasons.append(reason)
    converted = [None if reason else _parse(text) for reason, text in zip(reasons, _texts(rows), strict=True)]
    _mark_repeated(chosen, converted, reasons)
    used = [index for index, reason in enumerate(reasons) if reason is None]
    known = found.take(pa.array([chosen[index] for index in used], pa.int64()))
    known = known.append_column(CONVERTED, pa.array([converted[index] for index in used], pa.bool_()))
    listed = rows.append_column("reason", pa.array(reasons, pa.string()))
    return KnownOutcomes(
        leads=known.select(["date", LEAD_RANK.name, "lead_score", *GROUPINGS, CONVERTED]),
        unused=listed.filter(pc.is_valid(listed["reason"])).select(UNUSED.names).cast(UNUSED),
        first_date=days[0].date,
        last_date=days[-1].date,
        scored=num_scored,
    )


def read_outcomes(location: str) -> pa.Table:
    """Read the columns of a file of outcomes as text, with the number of each row.

    Raises:
        OutcomesError: it is neither Parquet nor CSV, or lacks a column.
        StorageError: there is no such file, or the storage refused.
    """
    with storage.open_for_reading(storage.absolute(location)) as file:
        data = pa.BufferReader(file.read())
    is_parquet = data.read(len(PARQUET_MARK)) == PARQUET_MARK
    try:
        names = _read_names(data, is_parquet=is_parquet)
        if CONVERTED not in names or not set(KEYS) & set(names):
            raise OutcomesError(
                f"{location} has the columns {printable(', '.join(names), MAX_TEXT)}; it needs {CONVERTED} and one of "
                f"{' and '.join(KEYS)}"
            )
        table = _read_columns(data, [name for name in names if name in _COLUMNS.names], is_parquet=is_parquet)
    except pa.ArrowException as exc:
        raise OutcomesError(
            f"{location} cannot be read ({exc}); give a Parquet file, or a CSV file in UTF-8 with commas and a header"
        ) from exc
    columns = [_as_text(table[name]) if name in names else pa.nulls(len(table), pa.string()) for name in _COLUMNS.names]
    texts = pa.table(columns, schema=_COLUMNS)
    for place, name in enumerate(KEYS):
        texts = texts.set_column(place, name, pc.replace_substring_regex(texts[name], _DEFUSED, r"\1"))
    return texts.add_column(0, "row", pa.array(range(1, len(texts) + 1), pa.int64()))


def _read_names(data: pa.BufferReader, *, is_parquet: bool) -> list[str]:
    data.seek(0)
    schema = pq.read_schema(data) if is_parquet else pacsv.open_csv(data).schema
    names: list[str] = schema.names
    return names


def _read_columns(data: pa.BufferReader, names: list[str], *, is_parquet: bool) -> pa.Table:
    data.seek(0)
    if is_parquet:
        return pq.read_table(data, columns=names)
    types = dict.fromkeys(names, pa.string())
    options = pacsv.ConvertOptions(include_columns=names, column_types=types, strings_can_be_null=True)
    return pacsv.read_csv(data, convert_options=options)


def _as_text(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as text without spaces around it, null where it is empty or no text at all."""
    values = column.combine_chunks()
    if pa.types.is_timestamp(values.type):
        values = as_type(values, pa.timestamp("us")).cast(pa.date32())
    texts = pc.utf8_trim_whitespace(as_type(values, pa.string()))
    return pc.if_else(pc.equal(texts, ""), None, texts)


def _find_days(leads: str, last_date: dt.date | None, num_days: int) -> list[PublishedDay]:
    root = storage.absolute(leads)
    last_date = last_date or max(storage.list_days(root), default=dt.date.min)
    days = [] if last_date == dt.date.min else list(open_days_before(root, last_date + dt.timedelta(1), num_days))
    if not days:
        raise OutcomesError(f"no day of the {num_days} days up to {last_date} is published in {root}; check --leads")
    return days


def _find_leads(days: Sequence[PublishedDay], rows: pa.Table) -> tuple[pa.Table, int]:
    """Return the scored leads that the rows name, by day, and on each day the best one last; and the number of all."""
    keys = {name: rows[name].drop_null().unique() for name in KEYS}
    num_scored = 0

    def named() -> Iterator[pa.Table]:
        nonlocal num_scored
        for day in days:
            for batch in read_batches(day, _LEADS):
                scored = batch.filter(pc.equal(batch["status"], SCORED))
                num_scored += len(scored)
                is_named = [pc.is_in(scored[name], keys[name]) for name in KEYS]
                table = scored.filter(pc.or_(*is_named))
                yield table.append_column("date", pa.array([day.date] * len(table), pa.date32()))

    table = pa.concat_tables([pa.schema([*_LEADS, ("date", pa.date32())]).empty_table(), *named()])
    ending = pc.struct_field(pc.extract_regex(table["uri"], r"\.(?P<ending>[A-Za-z0-9]{1,5})$"), "ending")
    codec = pc.coalesce(table["codec"], pc.utf8_lower(ending))
    table = table.set_column(table.schema.get_field_index("codec"), "codec", codec)
    # A call without a rank comes before those of its day with one, and of these the best is the last.
    ranks = table[LEAD_RANK.name].fill_null(np.iinfo(np.int32).max).to_numpy()
    return table.take(pa.array(np.lexsort((-ranks, table["date"].cast(pa.int32()).to_numpy())))), num_scored


def _places(keys: Sequence[str | None]) -> dict[str, list[int]]:
    """Return the places of each key, in order."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key is not None:
            places[key].append(place)
    return places


def _find_lead(
    row: dict[str, Any], leads_of: dict[str, dict[str, list[int]]], dates: Sequence[dt.date]
) -> tuple[int | None, str | None]:
    """Return the place of the lead that a row belongs to, or why it belongs to none or says nothing."""
    key = next((name for name in KEYS if row[name] is not None), None)
    if key is None:
        return None, "no_id"
    if row[CONVERTED] is None:
        return None, "no_outcome"
    date = None if row["date"] is None else _parse_date(row["date"])
    if _parse(row[CONVERTED]) is None or (date is None and row["date"] is not None):
        return None, "unreadable"
    places = leads_of[key].get(row[key], [])
    if not places:
        return None, "unknown"
    earlier = (place for place in reversed(places) if date is None or dates[place] <= date)
    place = next(earlier, None)
    return place, "before_the_call" if place is None else None


def _mark_repeated(chosen: Sequence[int | None], converted: Sequence[bool | None], reasons: list[str | None]) -> None:
    """Give a reason to all rows of a lead that contradict each other, and to repeated ones but the first."""
    verdicts: defaultdict[int | None, set[bool | None]] = defaultdict(set)
    for place, verdict in zip(chosen, converted, strict=True):
        verdicts[place].add(verdict)
    seen: set[int | None] = set()
    for index, place in enumerate(chosen):
        if reasons[index] is None:
            if len(verdicts[place]) > 1:
                reasons[index] = "contradictory"
            elif place in seen:
                reasons[index] = "repeated"
            seen.add(place)


def _texts(rows: pa.Table) -> list[str | None]:
    texts: list[str | None] = rows[CONVERTED].to_pylist()
    return texts


def _parse(text: str | None) -> bool | None:
    return None if text is None else WORDS.get(text.lower())


def _parse_date(text: str) -> dt.date | None:
    try:
        return dt.date.fromisoformat(text[:10])
    except ValueError:
        return None
