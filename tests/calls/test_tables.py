"""Tables as others write them: their types and their names."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn.calls.manifest import open_manifest
from msmtfn.calls.parquet import _check_exact
from msmtfn.errors import ManifestError
from msmtfn.leads.schema import RESERVED
from tests.calls.manifests import DATE, calls, column, day_of, read, rows_of, turn, write

ID = uuid.UUID("3b219d9c-f351-4b13-a85e-cbe6d81dc9bb")


def write_int96(root: Path, values: pa.Array) -> None:
    Path(day_of(root)).mkdir(parents=True)
    table = pa.table(calls(len(values), when=values))
    pq.write_table(table, f"{day_of(root)}/spark.parquet", use_deprecated_int96_timestamps=True)


def write_without_rows(root: Path, **kinds: pa.DataType) -> str:
    return write(root, pa.schema(list(kinds.items())).empty_table(), "z.parquet")


def type_of(root: Path, name: str) -> pa.DataType:
    return open_manifest(str(root), DATE).schema.field(name).type


# ---- timestamps of Spark


def test_int96_timestamps_after_2262_stay_as_they_are(tmp_path: Path) -> None:
    when = [dt.datetime(9999, 12, 31), dt.datetime(2500, 1, 1), dt.datetime(2027, 12, 1, 1, 2, 3, 4), None]
    write_int96(tmp_path, pa.array(when, pa.timestamp("us")))
    assert column(tmp_path, "when") == when


def test_nested_int96_timestamps_stay_as_they_are(tmp_path: Path) -> None:
    when = [[{"at": dt.datetime(9999, 12, 31)}, None], None]
    write_int96(tmp_path, pa.array(when, pa.list_(pa.struct([("at", pa.timestamp("us"))]))))
    assert column(tmp_path, "when") == when


@pytest.mark.parametrize("kind", [pa.timestamp("ns"), pa.list_(pa.timestamp("ns"))])
def test_an_int96_timestamp_that_would_lose_nanoseconds_is_an_error(tmp_path: Path, kind: pa.DataType) -> None:
    write_int96(tmp_path, pa.array([1_001 if kind == pa.timestamp("ns") else [1_001]], kind))
    with pytest.raises(ManifestError, match=r"spark\.parquet has the column 'when' .*INT96 timestamp with nanoseconds"):
        read(tmp_path)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_a_timestamp_beside_an_int96_timestamp_in_one_column_may_have_any_unit(unit: str) -> None:
    def batch(int96_unit: str, value: int) -> pa.RecordBatch:
        kind = pa.struct([("spark", pa.timestamp(int96_unit)), ("other", pa.timestamp(unit))])
        return pa.record_batch({"when": pa.array([{"spark": value, "other": 7}, None], kind)})

    _check_exact("file", batch("us", 5), batch("ns", 5_000))
    with pytest.raises(ManifestError, match="nanoseconds"):
        _check_exact("file", batch("us", 5), batch("ns", 5_001))


# ---- ids


def test_ids_as_floats_that_have_lost_digits_fail_the_day(tmp_path: Path) -> None:
    write(tmp_path, {"call_id": [4_873_214_862_074_861_569.0, 4_873_214_862_074_861_570.0, None], "uri": ["a"] * 3})
    with pytest.raises(ManifestError, match=r"'call_id' as floating-point .* write it as integers or as text"):
        read(tmp_path)


@pytest.mark.parametrize(("kind", "limit"), [(pa.float16(), 2**11), (pa.float32(), 2**24), (pa.float64(), 2**53)])
def test_ids_as_floats_are_integers_below_the_limit_of_their_type(
    tmp_path: Path, kind: pa.DataType, limit: int
) -> None:
    write(tmp_path / "below", calls(2) | {"call_id": pa.array([float(limit - 1), None]).cast(kind)})
    write(tmp_path / "above", calls(2) | {"call_id": pa.array([1.0, float(limit)]).cast(kind)})
    assert column(tmp_path / "below", "call_id") == [str(limit - 1), None]
    with pytest.raises(ManifestError, match=f"of {limit} and above"):
        read(tmp_path / "above")


@pytest.mark.parametrize("values", [[0.5], [float("inf")], [decimal.Decimal("1.50")]])
def test_ids_that_are_no_integers_fail_the_day(tmp_path: Path, values: list[Any]) -> None:
    write(tmp_path, calls(1) | {"call_id": values})
    with pytest.raises(ManifestError, match="has the column 'call_id' as"):
        read(tmp_path)


@pytest.mark.parametrize("kind", [pa.decimal128(20, 0), pa.decimal128(20, 2), pa.decimal256(60, 0)])
def test_ids_as_decimals_are_read_as_integers(tmp_path: Path, kind: pa.DataType) -> None:
    ids = [decimal.Decimal(4_873_214_862_074_861), None]
    write(tmp_path, calls(2) | {"call_id": pa.array(ids, kind)})
    assert column(tmp_path, "call_id") == ["4873214862074861", None]


def test_a_channel_as_decimal_is_read_and_a_fraction_rejects_only_its_row(tmp_path: Path) -> None:
    channels = [decimal.Decimal("1.0"), decimal.Decimal("0.5"), None]
    write(tmp_path, calls(3, agent_channel=pa.array(channels, pa.decimal128(5, 1))))
    assert column(tmp_path, "agent_channel") == [1, -1, None]


def test_uuids_are_read_as_text(tmp_path: Path) -> None:
    ids = pa.array([ID.bytes, None], pa.uuid())
    nested = pa.StructArray.from_arrays([ids], names=["id"])
    write(tmp_path, calls(2) | {"call_id": ids, "customer_id": ids, "crm": nested})
    (row, nothing) = read(tmp_path)
    assert (row["call_id"], row["customer_id"], row["crm"]) == (str(ID), str(ID), {"id": str(ID)})
    assert (nothing["call_id"], nothing["row_error"]) == (None, "call_id is empty; every call needs one")


# ---- types of columns that pass through


@pytest.mark.parametrize(
    ("given", "carried"),
    [
        (pa.list_(pa.string_view()), pa.list_(pa.string())),
        (pa.struct([("a", pa.string_view())]), pa.struct([("a", pa.string())])),
        (pa.map_(pa.string(), pa.string_view()), pa.map_(pa.string(), pa.string())),
        (pa.large_list(pa.dictionary(pa.int8(), pa.string())), pa.large_list(pa.string())),
    ],
)
def test_nested_encodings_become_plain(tmp_path: Path, given: pa.DataType, carried: pa.DataType) -> None:
    value: Any = {"a": "x"} if pa.types.is_struct(given) else [("a", "x")] if pa.types.is_map(given) else ["x"]
    write(tmp_path, calls(2, extra=pa.array([value, None], given)))
    assert pa.types.is_map(carried) or type_of(tmp_path, "extra").equals(carried)
    assert column(tmp_path, "extra") == [value, None]


def test_json_becomes_text(tmp_path: Path) -> None:
    write(tmp_path, calls(1, crm=pa.array(['{"a": 1}'], pa.json_())))
    assert (type_of(tmp_path, "crm"), column(tmp_path, "crm")) == (pa.string(), ['{"a": 1}'])


def test_decimals_of_several_files_get_a_type_that_holds_both(tmp_path: Path) -> None:
    write(tmp_path, calls(1, price=pa.array([decimal.Decimal("1234567.89")], pa.decimal128(9, 2))), "a.parquet")
    write(tmp_path, calls(1, 1, price=pa.array([decimal.Decimal("0.1234")], pa.decimal128(5, 4))), "b.parquet")
    assert column(tmp_path, "price") == [decimal.Decimal("1234567.8900"), decimal.Decimal("0.1234")]


def test_a_decimal_never_becomes_a_float(tmp_path: Path) -> None:
    write(tmp_path, calls(1, price=pa.array([decimal.Decimal("1234567.89")], pa.decimal128(30, 2))), "a.parquet")
    write(tmp_path, calls(1, 1, price=[0.5]), "b.parquet")
    with pytest.raises(ManifestError, match="'price' as double, the files before it have it as decimal128"):
        read(tmp_path)


# ---- files without rows, and columns without values


def test_the_types_of_a_file_without_rows_do_not_count(tmp_path: Path) -> None:
    started_at = pa.array([dt.datetime(2026, 3, 2, 10)], pa.timestamp("us"))
    write(tmp_path, calls(1, started_at=started_at), "a.parquet")
    write_without_rows(tmp_path, call_id=pa.float64(), uri=pa.float64(), started_at=pa.float64(), turns=pa.float64())
    (row,) = read(tmp_path)
    assert (row["call_id"], row["started_at"]) == ("c0", dt.datetime(2026, 3, 2, 10))


def test_a_file_without_rows_may_lack_columns(tmp_path: Path) -> None:
    write(tmp_path, calls(1))
    write_without_rows(tmp_path)
    assert column(tmp_path, "call_id") == ["c0"]


def test_a_day_of_files_without_rows_has_no_calls(tmp_path: Path) -> None:
    write(tmp_path, pa.schema([("call_id", pa.float64()), ("note", pa.float64())]).empty_table(), "a.parquet")
    write_without_rows(tmp_path, note=pa.string())
    assert read(tmp_path) == []


def test_the_type_of_a_column_without_values_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, calls(1, note=pa.nulls(1, pa.float64()), turns=pa.nulls(1, pa.float64())), "a.parquet")
    write(tmp_path, calls(1, 1, note=["x"], turns=pa.array([[turn()]])), "b.parquet")
    assert column(tmp_path, "note") == [None, "x"]
    assert column(tmp_path, "turns") == [None, [turn()]]


def test_integers_beside_a_column_without_values_stay_integers(tmp_path: Path) -> None:
    write(tmp_path, calls(1, total=[2**60 + 1]), "a.parquet")
    write(tmp_path, calls(1, 1, total=pa.nulls(1, pa.float64())), "b.parquet")
    assert column(tmp_path, "total") == [2**60 + 1, None]


# ---- names


def test_names_of_the_leads_are_compared_without_case(tmp_path: Path) -> None:
    write(tmp_path, calls(1, Status=["open"], Lead_Score=[3], LEAD_RANK=[1]))
    (row,) = read(tmp_path, reserved=RESERVED)
    assert (row["manifest_Status"], row["manifest_Lead_Score"], row["manifest_LEAD_RANK"]) == ("open", 3, 1)
    assert len({name.lower() for name in row}) == len(row)


def test_columns_of_the_contract_are_found_in_any_case(tmp_path: Path) -> None:
    table = calls(1, Intent=["A"], Turns=[[{"SPEAKER": "agent", "Start_Sec": 0.0, "end_sec": 1.0, "TEXT": "a"}]])
    write(tmp_path, {name.upper(): values for name, values in table.items()})
    (row,) = read(tmp_path)
    assert (row["call_id"], row["intent"], row["turns"]) == ("c0", "A", [turn()])
    assert "TURNS" not in row


def test_a_column_beside_one_of_the_same_name_in_another_case_is_renamed(tmp_path: Path) -> None:
    write(tmp_path, calls(1, Call_ID=["mine"], note=["x"], Note=["y"]))
    manifest = open_manifest(str(tmp_path), DATE)
    (row,) = rows_of(manifest)
    assert (row["call_id"], row["manifest_Call_ID"], row["note"], row["manifest_Note"]) == ("c0", "mine", "x", "y")
    assert manifest.renamed == {"Call_ID": "manifest_Call_ID", "Note": "manifest_Note"}


def test_a_column_may_have_another_case_in_each_file(tmp_path: Path) -> None:
    write(tmp_path, calls(1, note=["x"]), "a.parquet")
    write(tmp_path, calls(1, 1, Note=["y"]), "b.parquet")
    assert column(tmp_path, "note") == ["x", "y"]


# ---- turns


@pytest.mark.parametrize("field", ["speaker", "start_sec", "end_sec", "text"])
def test_a_missing_field_of_turns_is_named(tmp_path: Path, field: str) -> None:
    without = {name: value for name, value in turn().items() if name != field}
    file = write(tmp_path, calls(1, turns=[[without]]))
    with pytest.raises(ManifestError, match=f"the column 'turns' without the field '{field}'; a turn needs") as caught:
        open_manifest(str(tmp_path), DATE)
    assert str(caught.value).startswith(file)


class RefusingType(pa.ExtensionType):  # type: ignore[misc]
    """Extension type that cannot be described without a pickle, and says how to open one, as Ray's tensors do."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "tests.refusing")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"\x80\x05a pickle"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> RefusingType:
        raise ValueError("Unable to deserialize shape. If you trust it, set UNPICKLE=1")


def test_a_type_described_by_a_pickle_is_refused_without_a_hint_how_to_open_it(tmp_path: Path) -> None:
    pa.register_extension_type(RefusingType())
    try:
        crm = pa.ExtensionArray.from_storage(RefusingType(), pa.array([1, 2]))
        write(tmp_path, calls(2) | {"crm": crm})
        with pytest.raises(ManifestError, match=r"calls.parquet has a column .* no pickle is opened") as refused:
            open_manifest(str(tmp_path), DATE)
    finally:
        pa.unregister_extension_type("tests.refusing")
    assert "UNPICKLE" not in str(refused.value)
    assert refused.value.__cause__ is None
