"""Export a day as a file that a CRM imports, one row a call or a customer, keyed by a unique column.

The products' documented rules (HubSpot, "Set up import files"; Salesforce, "Bulk API 2.0: Prepare CSV Files"):

- HubSpot: UTF-8, one header row, fewer than 1,000 columns, at most 1,048,576 rows and 512 MB. A record is found by a
  property with unique values.
- Salesforce: UTF-8, headers are API names, at most 100 MB. A record is found by an external id. An empty cell leaves a
  field as it is; `#N/A` empties it.

Cells that a spreadsheet would take for a formula get an apostrophe in front (OWASP, "CSV Injection").
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import pyarrow as pa

from msmtfn import storage
from msmtfn.delivery.customers import CUSTOMERS, NOT_RANKED
from msmtfn.delivery.published import PublishedDay, open_days_before, read_batches
from msmtfn.delivery.suppression import CUSTOMER_ID, find_suppressed
from msmtfn.errors import UsageError
from msmtfn.leads.schema import LEAD_RANK, SCORED
from msmtfn.storage.untrusted import escape_controls

Product = Literal["hubspot", "salesforce", "csv"]
Value = str | float | int | None

RANKED: Final = "ranked"
BYTE_ORDER_MARK: Final = "\N{ZERO WIDTH NO-BREAK SPACE}"
_FORMULA: Final = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
"""How a formula begins, also in the full width that spreadsheets take for the same (the last four)."""

CALL_COLUMNS: Final = ("lead_id", "date", "status", "rank", "score", "intent", "prediction_set", "why", "call_id")
CALL_COLUMNS_PASSED: Final = ("customer_id", "agent_id", "domain")
CUSTOMER_COLUMNS: Final = (
    *("customer_id", "date", "status", "rank", "score", "last_score", "trend", "num_calls", "num_calls_recent"),
    *("intent", "prediction_set", "call_id", "agent_id", "domain"),
)

_MOMENT: Final = pa.struct([("start_sec", pa.float64()), ("change", pa.float64())])
_CALLS: Final = (
    *(pa.field(name, pa.string()) for name in ("call_id", *CALL_COLUMNS_PASSED, "status", "unranked_reason")),
    LEAD_RANK,
    pa.field("lead_score", pa.float64()),
    pa.field("intent_predicted", pa.string()),
    pa.field("prediction_set", pa.list_(pa.string())),
    pa.field("evidence", pa.list_(_MOMENT)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductRules:
    """Rules of a product for its file.

    Attributes:
        prefix: what the names of the columns begin with.
        suffix: what they end with.
        is_title_case: whether the words of a name begin with capitals.
        line_end: end of a line.
        empty: a cell without a value, which is to empty the field.
        max_rows: most rows, the header included; None for no limit.
        max_bytes: most bytes; None for no limit.
        takes_mark: whether a byte order mark is understood.
    """

    prefix: str = ""
    suffix: str = ""
    is_title_case: bool = False
    line_end: str = "\r\n"
    empty: str = ""
    max_rows: int | None = None
    max_bytes: int | None = None
    takes_mark: bool = True

    def name(self, column: str) -> str:
        """Return the product's name of a column."""
        return f"{self.prefix}{column.title() if self.is_title_case else column}{self.suffix}"


RULES: Final[Mapping[Product, ProductRules]] = {
    "csv": ProductRules(),
    "hubspot": ProductRules(prefix="msmtfn_", max_rows=1_048_576, max_bytes=512_000_000),
    "salesforce": ProductRules(
        prefix="Msmtfn_",
        suffix="__c",
        is_title_case=True,
        line_end="\n",
        empty="#N/A",
        max_bytes=100_000_000,
        takes_mark=False,
    ),
}


def export_calls(
    day: PublishedDay, product: Product, out: str, num_days: int, *, for_excel: bool = False, first: int | None = None
) -> int:
    """Write the scored calls of a day, the best first, and return their number.

    A call of a customer who is not to be rung has no rank, and the customer's reason for its status.

    Args:
        day: the published leads.
        product: product that imports the file.
        out: location of the file, which is replaced.
        num_days: days to look at for refusals, the day included.
        for_excel: whether to begin with a byte order mark, by which Excel knows UTF-8.
        first: number of calls to write; None for all.

    Raises:
        UsageError: the product takes no such file.
        JobError: the leads cannot be read, or the file cannot be written.
    """
    columns = (*CALL_COLUMNS, *CALL_COLUMNS_PASSED)
    return _write(out, product, columns, _limited(_call_rows(day, num_days), first), for_excel=for_excel)


def export_customers(
    day: PublishedDay, product: Product, out: str, *, for_excel: bool = False, first: int | None = None
) -> tuple[int, int]:
    """Write the customers of a day, the best first; arguments and errors are those of `export_calls`.

    Args:
        day: the published table of customers.
        product: product that imports the file.
        out: location of the file, which is replaced.
        for_excel: whether to begin with a byte order mark.
        first: number of customers to write; None for all.

    Returns:
        The number of customers written, and of calls without a customer's id, which no record can be found for.
    """
    num_nameless = 0

    def named() -> Iterator[Sequence[Value]]:
        nonlocal num_nameless
        for row in _customer_rows(day):
            if row[0] is None:
                num_nameless += 1
            else:
                yield row

    written = _write(out, product, CUSTOMER_COLUMNS, _limited(named(), first), for_excel=for_excel)
    return written, num_nameless


def defuse(text: str) -> str:
    """Return text that no spreadsheet takes for a formula and that stays in its cell."""
    shown = escape_controls(text)
    return f"'{shown}" if _FORMULA.match(text) else shown


def _call_rows(day: PublishedDay, num_days: int) -> Iterator[Sequence[Value]]:
    ids = pa.chunked_array([table[0].unique() for table in read_batches(day, [CUSTOMER_ID])], pa.string()).unique()
    suppressed = find_suppressed(day, open_days_before(day.root, day.date, num_days - 1), ids)
    for table in read_batches(day, _CALLS):
        for row in table.to_pylist():
            if row["status"] != SCORED:
                continue
            reason = suppressed.get(row["customer_id"]) or row["unranked_reason"]
            is_ranked = reason is None and row["lead_rank"] is not None
            yield (
                f"{day.date}/{row['call_id']}",
                day.date.isoformat(),
                RANKED if is_ranked else reason or NOT_RANKED,
                row["lead_rank"] if is_ranked else None,
                _rounded(row["lead_score"]),
                row["intent_predicted"],
                _joined(row["prediction_set"]),
                _why(row["evidence"]),
                row["call_id"],
                *(row[name] for name in CALL_COLUMNS_PASSED),
            )


def _customer_rows(day: PublishedDay) -> Iterator[Sequence[Value]]:
    for table in read_batches(day, list(CUSTOMERS)):
        for row in table.to_pylist():
            yield (
                row["customer_id"],
                day.date.isoformat(),
                row["unranked_reason"] or RANKED,
                row["customer_rank"],
                *(_rounded(row[name]) for name in ("best_score", "last_score", "trend")),
                row["num_calls"],
                row["num_calls_recent"],
                row["intent_predicted"],
                _joined(row["prediction_set"]),
                *(row[name] for name in ("call_id", "agent_id", "domain")),
            )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


def _joined(names: Sequence[str] | None) -> str | None:
    """Return a set as HubSpot and Salesforce write the values of a field with several."""
    return ";".join(names) if names else None


def _why(evidence: Sequence[Mapping[str, Any]] | None) -> str | None:
    """Return the rounds that moved the score, as `0:17 +23; 0:48 -5`."""
    moments = [
        f"{int(each['start_sec']) // 60}:{int(each['start_sec']) % 60:02d} {each['change']:+.0f}"
        for each in evidence or ()
        if each["start_sec"] is not None and each["change"] is not None
    ]
    return "; ".join(moments) or None


def _limited(rows: Iterable[Sequence[Value]], first: int | None) -> Iterator[Sequence[Value]]:
    for number, row in enumerate(rows):
        if first is not None and number >= first:
            return
        yield row


def _write(
    out: str, product: Product, columns: Sequence[str], rows: Iterable[Sequence[Value]], *, for_excel: bool
) -> int:
    rules = RULES[product]
    if for_excel and not rules.takes_mark:
        raise UsageError(
            f"--excel cannot be combined with {product}, which takes a byte order mark for a column's name"
        )
    text = io.StringIO()
    text.write(BYTE_ORDER_MARK if for_excel else "")
    writer = csv.writer(text, lineterminator=rules.line_end)
    writer.writerow([rules.name(column) for column in columns])
    number = 0
    for number, row in enumerate(rows, start=1):  # noqa: B007 - counts
        writer.writerow([_cell(value, rules.empty) for value in row])
    content = text.getvalue()
    _check_limits(product, rules, number + 1, len(content.encode()))
    storage.write_text(out, content, content_type="text/csv; charset=utf-8")
    return number


def _cell(value: Value, empty: str) -> Value:
    if value is None or value == "":
        return empty
    return defuse(value) if isinstance(value, str) else value


def _check_limits(product: Product, rules: ProductRules, num_rows: int, num_bytes: int) -> None:
    for number, limit, unit in ((num_rows, rules.max_rows, "rows"), (num_bytes, rules.max_bytes, "bytes")):
        if limit is not None and number > limit:
            raise UsageError(
                f"the file would have {number:,} {unit}, and {product} takes {limit:,}; export fewer with --first"
            )
