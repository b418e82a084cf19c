"""Manifests as pandas, Polars, DuckDB and Spark write them."""

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
from msmtfn.errors import ManifestError
from tests.calls.manifests import DATE, Row, column, day_of, read, turn

ID = uuid.UUID("3b219d9c-f351-4b13-a85e-cbe6d81dc9bb")
PRICE = decimal.Decimal("12.30")
CONSENT = dt.datetime(9999, 12, 31)
ROWS: list[Row] = [
    {"call_id": "a", "uri": "a.wav", "agent_channel": 1, "turns": [turn()], "price": PRICE, "consent": CONSENT},
    {"call_id": "b", "uri": "b.wav", "agent_channel": None, "turns": None, "price": None, "consent": None},
]


def file_of(root: Path, name: str = "calls.parquet") -> str:
    Path(day_of(root)).mkdir(parents=True, exist_ok=True)
    return f"{day_of(root)}/{name}"


def assert_rows_are_read(root: Path) -> None:
    rows = read(root)
    assert [{name: row[name] for name in ROWS[0]} for row in rows] == ROWS
    assert [row["row_error"] for row in rows] == [None, None]


# ---- pandas


def test_what_pandas_writes_is_read(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame(ROWS).astype({"consent": "datetime64[us]"}).to_parquet(file_of(tmp_path))
    assert pq.read_schema(file_of(tmp_path)).field("agent_channel").type == pa.float64()
    assert_rows_are_read(tmp_path)


def test_categories_and_uuids_of_pandas_are_read_as_text(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"call_id": [ID], "uri": ["a.wav"], "domain": pandas.Categorical(["loans"])})
    frame.to_parquet(file_of(tmp_path))
    (row,) = read(tmp_path)
    assert (row["call_id"], row["domain"]) == (str(ID), "loans")


def test_an_hour_without_calls_in_pandas_does_not_fail_the_day(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS).astype({"consent": "datetime64[us]"})
    frame.to_parquet(file_of(tmp_path, "h10.parquet"))
    pandas.DataFrame({name: [] for name in ROWS[0]}).to_parquet(file_of(tmp_path, "h11.parquet"))
    pandas.DataFrame().to_parquet(file_of(tmp_path, "h12.parquet"))
    assert_rows_are_read(tmp_path)


def test_large_integer_ids_beside_a_null_in_pandas_fail_the_day(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    ids = pandas.DataFrame({"call_id": [4_873_214_862_074_861_569, None], "uri": ["a.wav", "b.wav"]})
    ids.to_parquet(file_of(tmp_path))
    with pytest.raises(ManifestError, match="where different integers become the same number"):
        read(tmp_path)


# ---- Polars


def test_what_polars_writes_is_read(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    polars.DataFrame(ROWS).write_parquet(file_of(tmp_path))
    assert_rows_are_read(tmp_path)


def test_partitions_of_polars_are_read(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"call_id": ["a", "b"], "uri": ["x", "y"], "hour": [10, 11]})
    file_of(tmp_path)
    frame.write_parquet(polars.PartitionBy(day_of(tmp_path), key=["hour"]))
    assert sorted(column(tmp_path, "call_id")) == ["a", "b"]


def test_an_integer_of_128_bits_from_polars_is_an_error_that_says_so(tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"call_id": ["a"], "uri": ["a.wav"], "big": polars.Series([1], dtype=polars.Int128)})
    frame.write_parquet(file_of(tmp_path))
    with pytest.raises(ManifestError, match=r"calls\.parquet has a column of a type that Arrow cannot carry: Integers"):
        open_manifest(str(tmp_path), DATE)


# ---- DuckDB

DUCKDB_ROWS = """
select 'a' call_id, 'a.wav' uri, 1 agent_channel, [{speaker: 'agent', start_sec: 0, end_sec: 1, text: 'a'}] turns,
    12.30::decimal(9, 2) price, timestamp '9999-12-31' consent
union all select 'b', 'b.wav', null, null, null, null
"""


def write_duckdb(root: Path, query: str) -> None:
    duckdb: Any = pytest.importorskip("duckdb")
    duckdb.connect().execute(f"copy ({query}) to '{file_of(root)}' (format parquet)")


def test_what_duckdb_writes_is_read(tmp_path: Path) -> None:
    write_duckdb(tmp_path, DUCKDB_ROWS)
    assert_rows_are_read(tmp_path)


def test_uuids_json_and_enums_of_duckdb_are_read_as_text(tmp_path: Path) -> None:
    write_duckdb(tmp_path, f"select uuid '{ID}' call_id, 'a.wav' uri, '[1]'::json crm, 'x'::enum('x') kind")
    (row,) = read(tmp_path)
    assert (row["call_id"], row["crm"], row["kind"]) == (str(ID), "[1]", "x")


def test_an_interval_of_duckdb_is_an_error_that_names_the_column(tmp_path: Path) -> None:
    write_duckdb(tmp_path, "select 'a' call_id, 'a.wav' uri, interval 1 day waited")
    with pytest.raises(ManifestError, match=r"has the column 'waited' of a type that cannot .*an INTERVAL of Parquet"):
        open_manifest(str(tmp_path), DATE)


def test_an_id_of_128_bits_of_duckdb_is_refused_as_a_float(tmp_path: Path) -> None:
    write_duckdb(tmp_path, "select 170141183460469231731687303715884105727::hugeint call_id, 'a.wav' uri")
    with pytest.raises(ManifestError, match="'call_id' as floating-point numbers"):
        read(tmp_path)


# ---- Spark


def test_what_spark_writes_is_read(tmp_path: Path) -> None:
    kinds = {"speaker": pa.string(), "start_sec": pa.float64(), "end_sec": pa.float64(), "text": pa.string()}
    schema = pa.schema(
        {
            "call_id": pa.string(),
            "uri": pa.string(),
            "agent_channel": pa.int32(),
            "turns": pa.list_(pa.struct(kinds)),
            "price": pa.decimal128(9, 2),
            "consent": pa.timestamp("us"),
        }
    )
    for number, row in enumerate(ROWS):
        file = file_of(tmp_path, f"part-0000{number}-6f1c2d3e-c000.snappy.parquet")
        table = pa.Table.from_pylist([row], schema)
        pq.write_table(table, file, compression="snappy", store_schema=False, use_deprecated_int96_timestamps=True)
    Path(file_of(tmp_path, "_SUCCESS")).touch()
    assert_rows_are_read(tmp_path)


@pytest.mark.long
@pytest.mark.slow
def test_what_pyspark_writes_is_read(tmp_path: Path) -> None:
    sql = pytest.importorskip("pyspark.sql")
    spark = sql.SparkSession.builder.master("local[1]").config("spark.sql.parquet.outputTimestampType", "INT96")
    session = spark.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    kinds = "call_id string, uri string, agent_channel int, price decimal(9, 2), consent timestamp_ntz, turns "
    turns = "array<struct<speaker: string, start_sec: double, end_sec: double, text: string>>"
    session.createDataFrame(ROWS, kinds + turns).coalesce(1).write.parquet(day_of(tmp_path))
    assert_rows_are_read(tmp_path)
