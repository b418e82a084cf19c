from __future__ import annotations

import decimal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msmtfn.calls.columns import TURN
from msmtfn.errors import ManifestError
from tests.calls.manifests import calls, column, turn, turns_read

# ---- turns as a column


def test_turns_may_be_a_large_list(tmp_path: Path) -> None:
    values = [[turn(), turn("customer")], [], None]
    assert turns_read(tmp_path, pa.array(values, pa.large_list(TURN))) == values


def test_turns_may_be_a_fixed_size_list(tmp_path: Path) -> None:
    values = [[turn(), turn("customer")], None, [turn(), None]]
    assert turns_read(tmp_path, pa.array(values, pa.list_(TURN, 2))) == values


def test_turns_may_have_reordered_and_additional_fields(tmp_path: Path) -> None:
    kind = pa.struct([(name, TURN.field(name).type) for name in ("text", "end_sec", "speaker", "start_sec")])
    kind = pa.struct([*kind, ("confidence", pa.float32())])
    assert turns_read(tmp_path, pa.array([[{**turn(), "confidence": 0.5}]], pa.list_(kind))) == [[turn()]]


def test_a_field_of_the_exact_name_wins_over_one_in_another_case(tmp_path: Path) -> None:
    kind = pa.struct([("Text", pa.string()), *TURN, ("TEXT", pa.string())])
    values = pa.array([[{**turn(), "Text": "before", "TEXT": "behind"}]], pa.list_(kind))
    assert turns_read(tmp_path, values) == [[turn()]]


def test_a_field_in_two_other_cases_is_an_error(tmp_path: Path) -> None:
    kind = pa.struct([("Text", pa.string()), *list(TURN)[:3], ("TEXT", pa.string())])
    with pytest.raises(ManifestError, match="the field 'text' twice"):
        turns_read(tmp_path, pa.array([[{"Text": "a", "TEXT": "b"}]], pa.list_(kind)))


@pytest.mark.parametrize("kind", [pa.float32(), pa.int32(), pa.int64(), pa.decimal128(9, 3)])
def test_times_of_turns_may_have_any_numeric_type(tmp_path: Path, kind: pa.DataType) -> None:
    texts = [("speaker", pa.string()), ("text", pa.dictionary(pa.int32(), pa.string()))]
    value = decimal.Decimal(2) if pa.types.is_decimal(kind) else 2
    row = {**turn(), "start_sec": value, "end_sec": value}
    values = pa.array(
        [[row]], pa.list_(pa.struct([*texts[:1], ("start_sec", kind), ("end_sec", kind), ("text", pa.string())]))
    )
    assert turns_read(tmp_path, values) == [[turn("agent", 2.0, 2.0)]]


def test_null_turns_null_fields_and_empty_lists_are_kept(tmp_path: Path) -> None:
    values: list[Any] = [None, [], [None], [turn(None, None, None, None), turn()]]
    assert turns_read(tmp_path, pa.array(values, pa.list_(TURN))) == values


def test_a_file_without_any_turn_may_have_untyped_lists(tmp_path: Path) -> None:
    assert turns_read(tmp_path, pa.array([[], None, []])) == [[], None, []]


def test_a_field_that_is_always_null_may_be_untyped(tmp_path: Path) -> None:
    assert turns_read(tmp_path, pa.array([[turn(text=None)], [turn(text=None)]])) == [[turn(text=None)]] * 2


def test_turns_of_many_calls_stay_with_their_calls(tmp_path: Path) -> None:
    values = [None if number % 7 == 0 else [turn(text=str(number))] * (number % 3) for number in range(10_000)]
    assert turns_read(tmp_path, pa.array(values, pa.list_(TURN))) == values


TIMES = st.none() | st.floats(0, 1e6, width=32)
TURNS = st.none() | st.fixed_dictionaries(
    {
        "speaker": st.none() | st.sampled_from(["agent", "customer", "robot"]),
        "start_sec": TIMES,
        "end_sec": TIMES,
        "text": st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
        "confidence": st.none() | st.integers(0, 9),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.none() | st.lists(TURNS, max_size=4), max_size=8),
    order=st.permutations(["speaker", "start_sec", "end_sec", "text", "confidence"]),
    times=st.sampled_from([pa.float32(), pa.float64()]),
    list_of=st.sampled_from([pa.list_, pa.large_list]),
    cut=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    rows_per_group=st.integers(1, 9),
)
def test_turns_are_kept_in_every_layout(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Any],
    order: Sequence[str],
    times: pa.DataType,
    list_of: Any,
    cut: tuple[int, int],
    rows_per_group: int,
) -> None:
    kinds = {
        "speaker": pa.string(),
        "start_sec": times,
        "end_sec": times,
        "text": pa.large_string(),
        "confidence": pa.int8(),
    }
    array = pa.array(rows, list_of(pa.struct([(name, kinds[name]) for name in order])))[cut[0] : cut[1]]
    expected = [
        row and [turn and {name: turn[name] for name in TURN.names} for turn in row] for row in rows[cut[0] : cut[1]]
    ]
    root = tmp_path_factory.mktemp("turns")
    (root / "date=2026-03-02").mkdir()
    table = pa.table(
        calls(len(array), turns=array),
        schema=pa.schema([("call_id", pa.string()), ("uri", pa.string()), ("turns", array.type)]),
    )
    pq.write_table(table, root / "date=2026-03-02" / "calls.parquet", row_group_size=rows_per_group)
    assert column(root, "turns") == expected
