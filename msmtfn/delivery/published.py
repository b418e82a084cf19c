"""Open a published day and read single columns of it, whatever version of msmtfn wrote them."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn import storage
from msmtfn.daily.publish import read_leads, read_success
from msmtfn.daily.success import Success
from msmtfn.errors import PublishError
from msmtfn.storage.untrusted import LinkError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PublishedDay:
    """Day of leads as it was published when it was opened.

    Attributes:
        root: root of all leads.
        success: record of the day.
        rows: the leads, best first.
    """

    root: str
    success: Success
    rows: pads.Dataset

    @property
    def date(self) -> dt.date:
        """The day."""
        return self.success.date

    def has(self, name: str) -> bool:
        """Return True if the leads have a column."""
        return name in self.rows.schema.names


def open_day(root: str, date: dt.date) -> PublishedDay:
    """Open a published day.

    Raises:
        PublishError: the day is not published.
    """
    root = storage.absolute(root)
    success = read_success(root, date)
    if success is None:
        raise PublishError(f"the leads of {date} are not published in {root}; score the day first")
    return PublishedDay(root, success, read_leads(root, date))


def open_days_before(root: str, date: dt.date, number: int) -> Iterator[PublishedDay]:
    """Open the published days among the `number` calendar days before a day, oldest first.

    A day whose record cannot be read is left out with a warning.
    """
    root = storage.absolute(root)
    first = date - dt.timedelta(days=number)
    for day in storage.list_days(root):
        if not first <= day < date:
            continue
        try:
            if read_success(root, day) is not None:
                yield open_day(root, day)
        except (PublishError, LinkError) as exc:
            logger.warning("%s; the day is ignored", exc)


def read_batches(
    day: PublishedDay, fields: Sequence[pa.Field], condition: pc.Expression | None = None
) -> Iterator[pa.Table]:
    """Yield columns of a day in pieces, in the order of the leads, cast to the given types.

    A column that the day lacks, or has in a type that cannot be cast, is null, and so is an empty `customer_id`.

    Raises:
        PublishError: a file cannot be read.
    """
    names = [field.name for field in fields if day.has(field.name)]
    try:
        for batch in day.rows.to_batches(columns=names, filter=condition, cache_metadata=False):
            table = pa.Table.from_batches([batch])
            yield pa.table([_column_of(table, field) for field in fields], schema=pa.schema(fields))
    except (OSError, pa.ArrowException) as exc:
        raise PublishError(
            f"the leads of {day.date} in {day.root} cannot be read ({exc}); score the day again with --force"
        ) from exc


def _column_of(table: pa.Table, field: pa.Field) -> pa.Array:
    if field.name not in table.schema.names:
        return pa.nulls(len(table), field.type)
    column = as_type(table[field.name].combine_chunks(), field.type)
    return pc.if_else(pc.equal(column, ""), None, column) if field.name == "customer_id" else column


def as_type(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """Return a column cast to a type; null where its own type does not fit, as of a customer's column of that name.

    A time with a zone becomes the time that a clock there shows.
    """
    is_time = pa.types.is_timestamp(kind)
    try:
        if is_time and pa.types.is_timestamp(column.type) and column.type.tz is not None:
            column = pc.local_timestamp(column)
        return column.cast(kind, safe=not is_time)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return pa.nulls(len(column), kind)
