"""Columns of the leads as a Delta table has them, so that every engine reads the files that are published.

A table has fewer types than Arrow, and a column has one type in all its days. So where a table is kept, a column is
published in the nearest type that a table has, and in the table's own type where that is wider.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.types as pat

from msmtfn.errors import PublishError

PARTITION: Final = pa.field("date", pa.date32())
"""Column of the day, which is in the names of the folders and not in the files."""

_KEPT: Final = frozenset(
    {pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.date32()}
)
_NEAREST: Final = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.decimal128(20, 0),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
}
_NEAREST_OF_KIND: Final = (
    (pat.is_timestamp, pa.timestamp("us", tz="UTC")),
    (pat.is_string, pa.string()),
    (pat.is_large_string, pa.string()),
    (pat.is_string_view, pa.string()),
    (pat.is_binary, pa.binary()),
    (pat.is_large_binary, pa.binary()),
    (pat.is_fixed_size_binary, pa.binary()),
    (pat.is_binary_view, pa.binary()),
)
_INTEGERS: Final = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
_FLOATS: Final = (pa.float32(), pa.float64())
_MAX_PRECISION: Final = 38


def fit_schema(leads: pa.Schema, table: pa.Schema | None) -> pa.Schema:
    """Return the types in which leads are published so that a table can hold them.

    Args:
        leads: schema of the leads, without `date`.
        table: schema of the table; None if there is no table yet.

    Raises:
        PublishError: a column has no place in the table; the message names it, and what can be done.
    """
    columns = {} if table is None else {column.name.lower(): column for column in table}
    fitted: dict[str, pa.Field] = {}
    for column in leads:
        kind = _nearest(column.type, column.name)
        known = columns.get(column.name.lower(), fitted.get(column.name.lower()))
        if known is not None and known.name != column.name:
            raise PublishError(
                f"the columns {column.name!r} and {known.name!r} differ in case only, which a table cannot hold; "
                "rename one of them in the manifest"
            )
        if known is not None and not is_unknown(kind):
            kind = _widened(kind, known.type, column.name)
        fitted[column.name.lower()] = pa.field(column.name, kind)
    return pa.schema(list(fitted.values()))


def table_schema(leads: pa.Schema, table: pa.Schema | None) -> pa.Schema:
    """Return the schema of a table once leads with fitted types are in it: its columns, and then the new ones.

    A column without a single value has no type yet, so it waits for the first day that has one.
    """
    columns = [] if table is None else list(table)
    names = {column.name for column in columns}
    columns += [column for column in leads if column.name not in names and not is_unknown(column.type)]
    return pa.schema([*columns, *([] if PARTITION.name in names else [PARTITION])])


def is_unknown(kind: pa.DataType) -> bool:
    """Return True if a type holds nulls only, perhaps within lists and structs."""
    if pat.is_nested(kind):
        return any(is_unknown(kind.field(number).type) for number in range(kind.num_fields))
    return bool(pat.is_null(kind))


def _nearest(kind: pa.DataType, name: str) -> pa.DataType:
    if kind in _KEPT or pat.is_null(kind):
        return kind
    if kind in _NEAREST:
        return _NEAREST[kind]
    if pat.is_decimal(kind) and kind.precision <= _MAX_PRECISION and kind.scale >= 0:
        return pa.decimal128(kind.precision, kind.scale)
    for is_kind, nearest in _NEAREST_OF_KIND:
        if is_kind(kind):
            return nearest
    return _nearest_nested(kind, name)


def _nearest_nested(kind: pa.DataType, name: str) -> pa.DataType:
    if pat.is_dictionary(kind):
        return _nearest(kind.value_type, name)
    if pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind):
        return pa.list_(_nearest(kind.value_type, name))
    if pat.is_struct(kind):
        return pa.struct([pa.field(field.name, _nearest(field.type, name)) for field in kind.fields])
    if pat.is_map(kind):
        return pa.map_(_nearest(kind.key_type, name), _nearest(kind.item_type, name))
    raise PublishError(
        f"the column {name!r} is {kind}, a type that a table does not have; cast it in the manifest, or leave it out"
    )


def _widened(kind: pa.DataType, known: pa.DataType, name: str) -> pa.DataType:
    """Return the table's type if it holds every value of a day's type."""
    if _same(kind, known):
        return kind
    for order in (_INTEGERS, _FLOATS):
        if kind in order and known in order and order.index(kind) < order.index(known):
            return known
    if (
        pat.is_decimal(kind)
        and pat.is_decimal(known)
        and kind.scale == known.scale
        and kind.precision < known.precision
    ):
        return known
    raise PublishError(
        f"the column {name!r} is {kind} in this day and {known} in the table of the leads; cast or rename it in the "
        "manifest, or leave it out"
    )


def _same(kind: pa.DataType, other: pa.DataType) -> bool:
    """Compare types as a table does: how a list names its items makes no difference."""
    return bool(_canonical(kind).equals(_canonical(other)))


def _canonical(kind: pa.DataType) -> pa.DataType:
    if pat.is_map(kind):
        return pa.map_(_canonical(kind.key_type), _canonical(kind.item_type))
    if pat.is_list(kind) or pat.is_large_list(kind):
        return pa.list_(_canonical(kind.value_type))
    if pat.is_struct(kind):
        return pa.struct([pa.field(field.name, _canonical(field.type)) for field in kind.fields])
    return kind
