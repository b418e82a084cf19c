"""Roll a day's calls up to customers: one row a customer, ranked without doubles, published as a table of its own.

Arrays of calls are (C,), those of customers (K,); `codes` (C,) holds the customer of each call.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn import storage
from msmtfn.daily.lock import lock_day
from msmtfn.daily.publish import ROWS_PER_FILE, publish_tables, read_success, tidy_day
from msmtfn.daily.success import Success
from msmtfn.daily.work import CONTROL_FOLDER
from msmtfn.delivery.published import PublishedDay, open_days_before, read_batches
from msmtfn.delivery.suppression import CUSTOMER_ID, UNRANKED_REASON, find_suppressed
from msmtfn.leads.schema import LEAD_RANK, REJECTED, SCORED
from msmtfn.storage.untrusted import inside

TABLE_NAME: Final = "customers"
"""Begin of the names of the published files."""
UNRANKED: Final = np.iinfo(np.int32).max
NOT_RANKED: Final = "unranked"
NO_TIME: Final = np.iinfo(np.int64).min

CALLS: Final = (
    pa.field("call_id", pa.string()),
    pa.field("uri", pa.string()),
    CUSTOMER_ID,
    pa.field("agent_id", pa.string()),
    pa.field("domain", pa.string()),
    pa.field("started_at", pa.timestamp("us")),
    pa.field("status", pa.string()),
    pa.field("lead_score", pa.float32()),
    LEAD_RANK,
    pa.field("intent_predicted", pa.string()),
    pa.field("prediction_set", pa.list_(pa.string())),
    UNRANKED_REASON,
)
HISTORY: Final = (CUSTOMER_ID, pa.field("status", pa.string()), pa.field("lead_score", pa.float32()))

CUSTOMERS: Final = pa.schema(
    [
        CUSTOMER_ID,
        ("customer_rank", pa.int32()),
        UNRANKED_REASON,
        ("num_calls", pa.int32()),
        ("num_calls_recent", pa.int32()),
        ("best_score", pa.float32()),
        ("last_score", pa.float32()),
        ("trend", pa.float32()),
        ("call_id", pa.string()),
        ("uri", pa.string()),
        LEAD_RANK,
        ("agent_id", pa.string()),
        ("domain", pa.string()),
        ("intent_predicted", pa.string()),
        ("prediction_set", pa.list_(pa.string())),
    ]
)
"""Columns of the table; from `call_id` on they are those of the call to listen to."""

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _History:
    """What the days before say of each customer: number of calls, number and sum of the scores."""

    calls: Integers
    scored: Integers
    total: Floats


def publish_customers(
    root: str, day: PublishedDay, num_days: int, *, again: bool = False, check: Callable[[], None] = lambda: None
) -> Success:
    """Publish the customers of a day as `<root>/date=YYYY-MM-DD/`, by the same protocol as the leads.

    Args:
        root: root of the customers' tables.
        day: the published leads.
        num_days: days to look at, the day included.
        again: publish again even if the table was made of these very leads with this `num_days`.
        check: raises `LockedError` if another run has taken the day over.

    Returns:
        The record of the table.

    Raises:
        LockedError: another run is publishing the same customers.
        JobError: the leads cannot be read, or the table cannot be written.
    """
    root = storage.absolute(root)
    with lock_day(root, day.date) as check_lock:

        def check_both() -> None:
            check()
            check_lock()

        tidy_day(root, day.date, check_both)
        known = read_success(root, day.date)
        if known is not None and not again and _is_made_of(known, day, num_days):
            return known
        table = roll_up(day, num_days)
        run = inside(root, CONTROL_FOLDER, f"customers-{day.date}")
        storage.delete(run)
        record = _record(day, table, num_days)
        success = publish_tables(root, day.date, run, _slices(table), record, check_both, name=TABLE_NAME)
        storage.remove_empty_folder(run)
        return success


def roll_up(day: PublishedDay, num_days: int) -> pa.Table:
    """Return the customers of a day, best first, with the columns `CUSTOMERS`.

    Keeps the keys of the day's calls in memory, about 250 MB a million calls; earlier days are streamed.

    Args:
        day: the published leads.
        num_days: days to look at, the day included.
    """
    calls = pa.concat_tables([pa.schema(CALLS).empty_table(), *read_batches(day, CALLS)])
    codes, ids = _group(calls["customer_id"])
    num_customers = int(codes.max(initial=-1)) + 1
    best, best_rank = _best_calls(calls, codes, num_customers)
    history = _read_history(day, num_days, ids, num_customers)
    last_score, trend = _scores_over_time(calls, codes, history)
    suppressed = find_suppressed(day, open_days_before(day.root, day.date, num_days - 1), ids)
    chosen = calls.take(pa.array(best))
    reasons = _reasons(chosen, best_rank, suppressed)
    is_ranked = np.array([reason is None for reason in reasons], dtype=bool)
    order = np.lexsort((np.arange(num_customers), best_rank, ~is_ranked))
    rank = np.empty(num_customers, dtype=np.int64)
    rank[order] = np.arange(1, num_customers + 1)
    num_calls = np.bincount(codes, minlength=num_customers)
    columns = {
        **{name: chosen[name] for name in CUSTOMERS.names if name in chosen.schema.names},
        "customer_rank": pa.array(rank, mask=~is_ranked),
        "unranked_reason": pa.array(reasons, pa.string()),
        "num_calls": pa.array(num_calls),
        "num_calls_recent": pa.array(num_calls + history.calls),
        "best_score": chosen["lead_score"],
        "last_score": _nullable(last_score),
        "trend": _nullable(trend),
    }
    table = pa.table(
        [columns[name].cast(kind) for name, kind in zip(CUSTOMERS.names, CUSTOMERS.types, strict=True)], CUSTOMERS
    )
    return table.take(pa.array(order))


def _group(customers: pa.ChunkedArray) -> tuple[Integers, pa.Array]:
    """Return the customer of each call and the ids; a call without an id is a customer of its own, after the others."""
    encoded = customers.combine_chunks().dictionary_encode()
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    is_unknown = codes < 0
    codes[is_unknown] = len(encoded.dictionary) + np.arange(int(is_unknown.sum()))
    return codes, encoded.dictionary


def _best_calls(calls: pa.Table, codes: Integers, num_customers: int) -> tuple[Integers, Integers]:
    """Return the row of each customer's call to listen to, and its rank (`UNRANKED` where no call has one)."""
    ranks = calls["lead_rank"].fill_null(UNRANKED).to_numpy().astype(np.int64)
    scores = calls["lead_score"].fill_null(-1.0).to_numpy()
    order = np.lexsort((np.arange(len(codes)), -scores, ranks, codes))
    best = order[np.searchsorted(codes[order], np.arange(num_customers))]
    return best, ranks[best]


def _read_history(day: PublishedDay, num_days: int, ids: pa.Array, num_customers: int) -> _History:
    counts = np.zeros(num_customers, dtype=np.int64)
    scored, total = counts.copy(), np.zeros(num_customers)
    for earlier in open_days_before(day.root, day.date, num_days - 1):
        for rows in read_batches(earlier, HISTORY) if earlier.has("customer_id") else ():
            known = rows.filter(pc.is_in(rows["customer_id"], ids))
            codes = pc.index_in(known["customer_id"], ids).to_numpy().astype(np.int64)
            scores = known["lead_score"].fill_null(0.0).to_numpy().astype(np.float64)
            is_scored = pc.equal(known["status"], SCORED).fill_null(False).to_numpy().astype(np.int64)
            counts += np.bincount(codes, minlength=num_customers)
            scored += np.bincount(codes, weights=is_scored, minlength=num_customers).astype(np.int64)
            total += np.bincount(codes, weights=scores * is_scored, minlength=num_customers)
    return _History(counts, scored, total)


def _scores_over_time(calls: pa.Table, codes: Integers, history: _History) -> tuple[Floats, Floats]:
    """Return each customer's last score, and by how much it exceeds the mean of the earlier ones; NaN if unknown.

    Which of several calls of the day was the last is known only if at most one of them has no `started_at`.
    """
    num_customers = len(history.calls)
    is_scored = pc.equal(calls["status"], SCORED).fill_null(False).to_numpy().astype(bool)
    rows = np.flatnonzero(is_scored)
    times = calls["started_at"].cast(pa.int64()).fill_null(NO_TIME).to_numpy()[rows]
    scores = calls["lead_score"].fill_null(np.nan).to_numpy().astype(np.float64)[rows]
    codes = codes[rows]
    counts = np.bincount(codes, minlength=num_customers)
    num_untimed = np.bincount(codes[times == NO_TIME], minlength=num_customers)
    order = np.lexsort((times, codes))
    last = np.full(num_customers, np.nan)
    last[codes[order]] = scores[order]  # of several assignments to a place the last one stays
    last[num_untimed > 1] = np.nan
    sums = np.bincount(codes, weights=scores, minlength=num_customers)
    num_earlier = counts - 1 + history.scored
    with np.errstate(divide="ignore", invalid="ignore"):
        trend = last - (sums - last + history.total) / np.where(num_earlier > 0, num_earlier, np.nan)
    return last, trend


def _reasons(chosen: pa.Table, best_rank: Integers, suppressed: dict[str, str]) -> list[str | None]:
    """Return why customers have no rank; None for those who have one."""
    reasons: list[str | None] = []
    columns = (chosen[name].to_pylist() for name in ("customer_id", "unranked_reason", "status"))
    for customer, reason, status, rank in zip(*columns, best_rank.tolist(), strict=True):
        if customer in suppressed:
            reasons.append(suppressed[customer])
        elif rank != UNRANKED:
            reasons.append(None)
        else:
            reasons.append(reason or NOT_RANKED if status == SCORED else REJECTED)
    return reasons


def _nullable(values: Floats) -> pa.Array:
    return pa.array(values, mask=np.isnan(values))


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, max(len(table), 1), ROWS_PER_FILE):
        yield table.slice(start, ROWS_PER_FILE)


def _record(day: PublishedDay, table: pa.Table, num_days: int) -> Success:
    reasons: Sequence[dict[str, Any]] = pc.value_counts(table["unranked_reason"].drop_null()).to_pylist()
    return replace(
        day.success,
        published_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        publication="",
        files=(),
        replaced=(),
        unknown={
            "customers": len(table),
            "customers_ranked": len(table["customer_rank"].drop_null()),
            "customers_unranked_by_reason": {each["values"]: each["counts"] for each in reasons},
            "customer_days": num_days,
            "leads_publication": day.success.publication,
        },
    )


def _is_made_of(known: Success, day: PublishedDay, num_days: int) -> bool:
    made_of = (known.unknown.get("leads_publication"), known.unknown.get("customer_days"))
    return made_of == (day.success.publication, num_days)
