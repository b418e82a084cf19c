from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn.calls.checks import check_call
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.errors import CallError, ManifestError
from tests.calls.manifests import DATE, SECRET, calls, column, read, rows_of, turn, write


def test_ids_may_be_numbers(tmp_path: Path) -> None:
    write(tmp_path, {"call_id": [7, 10_000_000_001], "uri": ["a", "b"]})
    assert column(tmp_path, "call_id") == ["7", "10000000001"]


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_ids_that_pandas_turned_into_floats_become_integers_again(tmp_path: Path, nothing: float | None) -> None:
    write(tmp_path, {"call_id": [10_000_000_001.0, nothing], "uri": ["a", "b"]})
    assert column(tmp_path, "call_id") == ["10000000001", None]


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.binary()]
)
def test_text_may_have_any_arrow_encoding(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({name: pa.array(values, kind) for name, values in calls(2, intent=["A", None]).items()})
    write(tmp_path, table)
    assert [(row["call_id"], row["uri"], row["intent"]) for row in read(tmp_path)] == [
        ("c0", "c0.wav", "A"),
        ("c1", "c1.wav", None),
    ]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.float32(), pa.float64(), pa.string()])
def test_a_channel_may_have_any_numeric_type(tmp_path: Path, kind: pa.DataType) -> None:
    write(tmp_path, calls(3, agent_channel=pa.array([0, 1, None], pa.int8()).cast(kind)))
    assert column(tmp_path, "agent_channel") == [0, 1, None]


def test_nan_from_pandas_becomes_null(tmp_path: Path) -> None:
    nothing = [float("nan")] * 2
    write(tmp_path, calls(2, agent_channel=[1.0, float("nan")], intent=nothing, turns=nothing))
    rows = read(tmp_path)
    assert [(row["agent_channel"], row["intent"], row["turns"]) for row in rows] == [
        (1, None, None),
        (None, None, None),
    ]


def test_untyped_null_columns_become_typed(tmp_path: Path) -> None:
    write(tmp_path, calls(2, agent_channel=pa.nulls(2), intent=pa.nulls(2), turns=pa.nulls(2), note=pa.nulls(2)))
    (row, _) = read(tmp_path)
    assert [row[name] for name in ("agent_channel", "intent", "turns", "note")] == [None] * 4


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("call_id", [[1]]),
        ("uri", [{"path": "a"}]),
        ("agent_channel", ["left"]),
        ("intent", [[1]]),
        ("turns", ["agent: hello"]),
        ("turns", [0.5]),
        ("turns", [["hello"]]),
        ("turns", [[{"speaker": "agent", "text": "a"}]]),
        ("turns", [[{**turn(), "start_sec": "soon"}]]),
    ],
)
def test_a_column_of_a_wrong_type_raises_an_error_with_file_and_column(
    tmp_path: Path, name: str, values: list[Any]
) -> None:
    file = write(tmp_path, calls(1) | {name: values})
    with pytest.raises(ManifestError, match=name) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{file} has the column '{name}'")


def test_other_columns_pass_through_with_their_types(tmp_path: Path) -> None:
    kinds: dict[str, tuple[Any, pa.DataType]] = {
        "started_at": (dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC), pa.timestamp("ms", "Asia/Shanghai")),
        "price": (decimal.Decimal("12.34"), pa.decimal128(9, 2)),
        "note": ("long", pa.large_string()),
        "tags": ([["a"], []], pa.list_(pa.list_(pa.string()))),
        "crm": ({"id": 3, "when": dt.date(2026, 1, 1)}, pa.struct([("id", pa.int16()), ("when", pa.date32())])),
        "raw": (b"\xff", pa.binary()),
    }
    write(tmp_path, calls(1, **{name: pa.array([value], kind) for name, (value, kind) in kinds.items()}))
    manifest = open_manifest(str(tmp_path), DATE)
    assert {name: manifest.schema.field(name).type for name in kinds} == {
        name: kind for name, (_, kind) in kinds.items()
    }
    assert {name: rows_of(manifest)[0][name] for name in kinds} == {name: value for name, (value, _) in kinds.items()}


def test_a_dictionary_column_passes_through_decoded(tmp_path: Path) -> None:
    write(tmp_path, calls(2, domain=pa.array(["loans", None]).dictionary_encode()))
    assert open_manifest(str(tmp_path), DATE).schema.field("domain").type == pa.string()
    assert column(tmp_path, "domain") == ["loans", None]


@pytest.mark.parametrize(
    "channels",
    [
        pa.array([float("inf"), 1.0, float("nan")]),
        pa.array([-float("inf"), 1.0, None]),
        pa.array([1e300, 1.0, None]),
        pa.array([2**64 - 1, 1, None], pa.uint64()),
    ],
)
def test_a_channel_outside_of_int64_rejects_only_its_own_row(channels: pa.Array, tmp_path: Path) -> None:
    (tmp_path / f"date={DATE}").mkdir()
    table = pa.table({"call_id": list("abc"), "uri": ["a.wav"] * 3, "agent_channel": channels})
    pq.write_table(table, tmp_path / f"date={DATE}" / "calls.parquet")
    (batch,) = iter_calls(open_manifest(str(tmp_path), DATE))
    beyond, one, unknown = batch["agent_channel"].to_pylist()
    assert (one, unknown) == (1, None)
    with pytest.raises(CallError, match="neither 0, 1 nor null"):
        check_call("a.wav", None, beyond, None)


@pytest.mark.parametrize("columns", [{"agent_channel": [SECRET]}, {"turns": [[{"start_sec": SECRET}]]}])
def test_the_error_about_a_column_does_not_quote_its_values(columns: dict[str, list[Any]], tmp_path: Path) -> None:
    (tmp_path / f"date={DATE}").mkdir()
    table = pa.table({"call_id": ["a"], "uri": ["a.wav"], **columns})
    pq.write_table(table, tmp_path / f"date={DATE}" / "calls.parquet")
    with pytest.raises(ManifestError) as caught:
        list(iter_calls(open_manifest(str(tmp_path), DATE)))
    assert SECRET[:4] not in str(caught.value)


def test_a_fractional_channel_rejects_only_its_own_row(tmp_path: Path) -> None:
    rows = [
        {"call_id": "a", "uri": "a.wav", "agent_channel": 0.5},
        {"call_id": "b", "uri": "b.wav", "agent_channel": 1.0},
    ]
    (tmp_path / f"date={DATE}").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"date={DATE}" / "calls.parquet")
    (batch,) = iter_calls(open_manifest(str(tmp_path), DATE))
    assert batch["agent_channel"].to_pylist() == [-1, 1]
    with pytest.raises(CallError, match="neither 0, 1 nor null"):
        check_call("a.wav", None, -1, None)
