from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from msmtfn.daily.table_schema import fit_schema, table_schema
from msmtfn.errors import PublishError

UTC = pa.timestamp("us", tz="UTC")


def schema(*columns: tuple[str, Any]) -> pa.Schema:
    return pa.schema(list(columns))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.timestamp("ms", "Asia/Shanghai"), UTC),
        (pa.timestamp("ns"), UTC),
        (pa.uint16(), pa.int32()),
        (pa.uint64(), pa.decimal128(20, 0)),
        (pa.dictionary(pa.int32(), pa.large_string()), pa.string()),
        (pa.large_list(pa.struct([("x", pa.uint8())])), pa.list_(pa.struct([("x", pa.int16())]))),
        (pa.map_(pa.string(), pa.float16()), pa.map_(pa.string(), pa.float32())),
        (pa.binary(16), pa.binary()),
        (pa.null(), pa.null()),
    ],
)
def test_a_column_is_published_in_the_nearest_type_of_a_table(kind: pa.DataType, expected: pa.DataType) -> None:
    assert fit_schema(schema(("x", kind)), None).field("x").type == expected


def test_a_type_that_no_table_has_is_named_with_its_column() -> None:
    with pytest.raises(PublishError, match=r"the column 'x' is time64\[us\], a type that a table does not have"):
        fit_schema(schema(("x", pa.time64("us"))), None)


@pytest.mark.parametrize(
    ("kind", "known", "expected"),
    [
        (pa.int16(), pa.int64(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.decimal128(9, 2), pa.decimal128(12, 2), pa.decimal128(12, 2)),
        (pa.null(), pa.int64(), pa.null()),
        (pa.int64(), pa.int16(), None),
        (pa.int64(), pa.string(), None),
        (pa.float64(), pa.int64(), None),
        (pa.decimal128(9, 3), pa.decimal128(12, 2), None),
        (pa.struct([("x", pa.int64()), ("y", pa.int64())]), pa.struct([("x", pa.int64())]), None),
    ],
)
def test_a_day_takes_the_wider_type_of_the_table_or_does_not_fit(
    kind: pa.DataType, known: pa.DataType, expected: pa.DataType | None
) -> None:
    if expected is None:
        with pytest.raises(PublishError, match=r"in this day and .* in the table"):
            fit_schema(schema(("x", kind)), schema(("x", known)))
    else:
        assert fit_schema(schema(("x", kind)), schema(("x", known))).field("x").type == expected


def test_names_that_differ_in_case_only_do_not_fit_one_table() -> None:
    for leads, table in ((schema(("a", UTC), ("A", UTC)), None), (schema(("A", UTC)), schema(("a", UTC)))):
        with pytest.raises(PublishError, match="'A' and 'a' differ in case only"):
            fit_schema(leads, table)


def test_a_table_keeps_its_columns_gets_new_ones_and_waits_for_those_without_a_type() -> None:
    first = table_schema(schema(("a", UTC), ("b", pa.list_(pa.null())), ("c", pa.null())), None)
    assert first.names == ["a", "date"]
    assert table_schema(schema(("b", pa.int64()), ("c", pa.null())), first).names == ["a", "date", "b"]
