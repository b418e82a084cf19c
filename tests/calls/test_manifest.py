from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msmtfn import storage
from msmtfn.calls.manifest import TURN, Manifest, check_call, iter_calls, open_manifest, parse_turns
from msmtfn.calls.rounds import Turn
from msmtfn.errors import CallError, ManifestError, RejectCode, StorageError

DATE = dt.date(2026, 3, 2)
SECRET = "my card number is four two four two"
Row = dict[str, Any]


def day_of(root: Path | str) -> str:
    return f"{root}/date=2026-03-02"


def write(root: Path | str, table: pa.Table | Mapping[str, Any], file: str = "calls.parquet") -> str:
    """Write one file of the day's manifest and return its address."""
    location = f"{day_of(root)}/{file}"
    storage.make_folder(day_of(root))
    storage.write_parquet(location, table if isinstance(table, pa.Table) else pa.table(dict(table)))
    return location


def calls(number: int, start: int = 0, **columns: Any) -> dict[str, Any]:
    """Return the required columns of some calls, and the given columns."""
    ids = [f"c{index}" for index in range(start, start + number)]
    return {"call_id": ids, "uri": [f"{call_id}.wav" for call_id in ids], **columns}


def rows_of(manifest: Manifest) -> list[Row]:
    return [row for batch in iter_calls(manifest) for row in batch.to_pylist()]


def read(root: Path | str, **options: Any) -> list[Row]:
    return rows_of(open_manifest(str(root), DATE, **options))


def column(root: Path | str, name: str) -> list[Any]:
    return [row[name] for row in read(root)]


def turns_read(root: Path, turns: pa.Array) -> Any:
    write(root, calls(len(turns), turns=turns))
    return column(root, "turns")


def turn(
    speaker: str | None = "agent", start_sec: float | None = 0.0, end_sec: float | None = 1.0, text: str | None = "a"
) -> Row:
    return {"speaker": speaker, "start_sec": start_sec, "end_sec": end_sec, "text": text}


# ---- a day


def test_two_columns_suffice_and_the_others_are_null(place: str) -> None:
    write(place, calls(1))
    assert read(place) == [
        {
            "row_id": 0,
            "row_error": None,
            "call_id": "c0",
            "uri": "c0.wav",
            "agent_channel": None,
            "turns": None,
            "intent": None,
        }
    ]


def test_all_columns_of_the_contract_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        calls(1, agent_channel=[1], intent=["B"], turns=pa.array([[turn()]], pa.list_(TURN)), domain=["loans"]),
    )
    (row,) = read(tmp_path)
    assert (row["agent_channel"], row["intent"], row["turns"], row["domain"]) == (1, "B", [turn()], "loans")


def test_a_manifest_has_its_root_its_files_and_its_number_of_calls(place: str) -> None:
    files = [write(place, calls(2), "b.parquet"), write(place, calls(3, 2), "a.parquet")]
    manifest = open_manifest(place, DATE)
    assert (manifest.root, manifest.date, manifest.num_rows) == (place, DATE, 5)
    assert manifest.files == tuple(sorted(files))


def test_a_relative_root_is_resolved_against_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "manifests", calls(1))
    monkeypatch.chdir(tmp_path)
    assert open_manifest("manifests", DATE).root == f"{tmp_path}/manifests"


def test_rows_are_numbered_across_all_files_in_order(tmp_path: Path) -> None:
    write(tmp_path, calls(5_000), "a.parquet")
    write(tmp_path, calls(3, 5_000), "b.parquet")
    rows = read(tmp_path)
    assert [row["row_id"] for row in rows] == list(range(5_003))
    assert [row["call_id"] for row in rows] == [f"c{number}" for number in range(5_003)]


def test_a_day_without_calls_has_no_rows_but_its_columns(place: str) -> None:
    write(place, pa.table(calls(1, note=["x"])).slice(0, 0))
    manifest = open_manifest(place, DATE)
    assert (manifest.num_rows, rows_of(manifest)) == (0, [])
    assert manifest.schema.field("note").type == pa.string()


def test_every_batch_has_the_schema_of_the_manifest(tmp_path: Path) -> None:
    write(tmp_path, calls(2, note=["x", "y"]), "a.parquet")
    write(tmp_path, calls(2, 2, agent_channel=[0, 1]), "b.parquet")
    manifest = open_manifest(str(tmp_path), DATE)
    assert [batch.schema for batch in iter_calls(manifest)] == [manifest.schema] * 2


def test_hidden_files_and_other_days_are_ignored(tmp_path: Path) -> None:
    write(tmp_path, calls(1))
    write(tmp_path, calls(1, 1), "_unfinished.parquet")
    (tmp_path / "date=2026-03-03").mkdir()
    pq.write_table(pa.table(calls(1, 2)), tmp_path / "date=2026-03-03" / "calls.parquet")
    assert column(tmp_path, "call_id") == ["c0"]


# ---- types


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


# ---- several files


def test_files_may_have_different_columns(tmp_path: Path) -> None:
    write(tmp_path, calls(1, domain=["loans"]), "a.parquet")
    write(tmp_path, calls(1, 1, language=["zh"], intent=["A"]), "b.parquet")
    rows = read(tmp_path)
    assert [(row["domain"], row["language"], row["intent"]) for row in rows] == [
        ("loans", None, None),
        (None, "zh", "A"),
    ]


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.null(), pa.string(), pa.string()),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.struct([("a", pa.int8())]), pa.struct([("b", pa.int8())]), pa.struct([("a", pa.int8()), ("b", pa.int8())])),
    ],
)
def test_compatible_types_of_several_files_are_unified(
    tmp_path: Path, first: pa.DataType, second: pa.DataType, together: pa.DataType
) -> None:
    write(tmp_path, calls(1, extra=pa.nulls(1, first)), "a.parquet")
    write(tmp_path, calls(1, 1, extra=pa.nulls(1, second)), "b.parquet")
    assert open_manifest(str(tmp_path), DATE).schema.field("extra").type == together
    assert column(tmp_path, "extra") == [None, None]


def test_values_are_kept_in_the_wider_type(tmp_path: Path) -> None:
    write(tmp_path, calls(1, extra=pa.array([3], pa.int32())), "a.parquet")
    write(tmp_path, calls(1, 1, extra=pa.array([2**40], pa.int64())), "b.parquet")
    assert column(tmp_path, "extra") == [3, 2**40]


def test_the_error_about_incompatible_types_names_the_file_the_column_and_both_types(tmp_path: Path) -> None:
    write(tmp_path, calls(1, extra=["three"]), "a.parquet")
    file = write(tmp_path, calls(1, 1, extra=[3]), "b.parquet")
    with pytest.raises(
        ManifestError, match="'extra' as int64, the files before it have it as string; give it one type"
    ) as caught:
        open_manifest(str(tmp_path), DATE)
    assert str(caught.value).startswith(file)


def test_the_error_about_a_value_that_does_not_fit_names_the_file_and_the_column(tmp_path: Path) -> None:
    file = write(tmp_path, calls(1, extra=[2**53 + 1]), "a.parquet")
    write(tmp_path, calls(1, 1, extra=[0.5]), "b.parquet")
    with pytest.raises(ManifestError, match="has the column 'extra' as int64, which does not fit") as caught:
        read(tmp_path)
    assert str(caught.value).startswith(file)


# ---- errors that end the job


@pytest.mark.parametrize("name", ["call_id", "uri"])
def test_the_error_about_a_missing_column_names_the_file_and_the_column(place: str, name: str) -> None:
    write(place, calls(1), "a.parquet")
    file = write(place, {key: values for key, values in calls(1, 1).items() if key != name}, "b.parquet")
    with pytest.raises(ManifestError, match=f"has no column '{name}'; every manifest needs call_id and uri") as caught:
        open_manifest(place, DATE)
    assert str(caught.value).startswith(file)


def test_the_error_about_a_missing_manifest_names_the_folder_and_the_options(place: str) -> None:
    with pytest.raises(ManifestError, match=r"no manifest for 2026-03-02: .*check --manifests and --date") as caught:
        open_manifest(place, DATE)
    assert day_of(place) in str(caught.value)


def test_the_error_about_a_duplicate_column_names_the_file_and_the_column(tmp_path: Path) -> None:
    write(tmp_path, pa.table([["a"], ["b"], ["x"], ["y"]], names=["call_id", "uri", "note", "note"]))
    with pytest.raises(ManifestError, match=r"calls\.parquet has the column 'note' twice"):
        open_manifest(str(tmp_path), DATE)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"call_id,uri\na,b\n" * 10])
def test_the_error_about_a_broken_file_names_it(place: str, content: bytes) -> None:
    file = write(place, calls(1))
    filesystem, path = storage.filesystem_of(file)
    filesystem.pipe_file(path, content)
    with pytest.raises(ManifestError, match="cannot be read as Parquet") as caught:
        open_manifest(place, DATE)
    assert str(caught.value).startswith(file)


def test_the_error_about_broken_pages_names_the_file(tmp_path: Path) -> None:
    file = Path(write(tmp_path, calls(2_000)))
    data = bytearray(file.read_bytes())
    data[4:2_000] = b"\xff" * 1_996
    file.write_bytes(data)
    manifest = open_manifest(str(tmp_path), DATE)
    with pytest.raises(ManifestError, match=r"calls\.parquet cannot be read as Parquet"):
        rows_of(manifest)


def test_the_error_about_a_file_that_disappeared_names_it(place: str) -> None:
    file = write(place, calls(1))
    manifest = open_manifest(place, DATE)
    storage.delete(file)
    with pytest.raises(StorageError, match=r"calls\.parquet cannot be read"):
        rows_of(manifest)


# ---- call ids


def test_the_first_call_with_an_id_is_kept_and_later_ones_name_its_row(tmp_path: Path) -> None:
    write(tmp_path, calls(2), "a.parquet")
    write(tmp_path, calls(2, 1), "b.parquet")
    errors = column(tmp_path, "row_error")
    assert errors[:2] == [None, None]
    assert errors[2] == "call_id is the same as that of row 1; it must be unique in the day"
    assert errors[3] is None


def test_a_third_call_with_an_id_names_the_first_row(tmp_path: Path) -> None:
    write(tmp_path, {"call_id": ["a", "b", "b", "b"], "uri": ["x"] * 4})
    assert ["row 1;" in (error or "") for error in column(tmp_path, "row_error")] == [False, False, True, True]


def test_an_empty_id_is_an_error_of_its_row_only(tmp_path: Path) -> None:
    write(tmp_path, {"call_id": ["a", "", None, ""], "uri": ["x"] * 4})
    assert column(tmp_path, "row_error") == [None] + ["call_id is empty; every call needs one"] * 3


# ---- reserved names


def test_a_column_with_a_reserved_name_is_renamed(tmp_path: Path) -> None:
    write(tmp_path, calls(1, status=["open"], note=["x"]))
    manifest = open_manifest(str(tmp_path), DATE, reserved={"status", "lead_rank", "call_id"})
    (row,) = rows_of(manifest)
    assert manifest.renamed == {"status": "manifest_status"}
    assert (row["manifest_status"], row["note"], row["call_id"]) == ("open", "x", "c0")
    assert "status" not in row


def test_a_new_name_does_not_collide_with_other_columns(tmp_path: Path) -> None:
    write(tmp_path, calls(1, status=["a"], manifest_status=["b"], manifest_manifest_status=["c"]))
    (row,) = read(tmp_path, reserved={"status"})
    assert row["manifest_status"] == "b"
    assert row["manifest_manifest_status"] == "c"
    assert row["manifest_manifest_manifest_status"] == "a"


def test_columns_named_like_the_row_number_and_its_error_are_kept(tmp_path: Path) -> None:
    write(tmp_path, calls(1, row_id=["mine"], row_error=["mine too"]))
    (row,) = read(tmp_path)
    assert (row["row_id"], row["row_error"]) == (0, None)
    assert (row["manifest_row_id"], row["manifest_row_error"]) == ("mine", "mine too")


# ---- fingerprint


def fingerprint(root: Path | str) -> str:
    return open_manifest(str(root), DATE).fingerprint


def test_the_fingerprint_depends_on_the_content_and_not_on_its_location(tmp_path: Path, s3: str) -> None:
    roots = [f"{tmp_path}/a", f"{tmp_path}/b", f"{s3}/{uuid.uuid4().hex}"]
    for root in roots:
        write(root, calls(3))
    assert len({fingerprint(root) for root in roots}) == 1
    assert len(fingerprint(roots[0])) == 16


@pytest.mark.parametrize(
    "changed", [calls(3), calls(2, note=["x", "y"]), {"call_id": ["c0", "c1"], "uri": ["c0.wav", "c1.mp3"]}]
)
def test_the_fingerprint_changes_with_the_content(tmp_path: Path, changed: dict[str, Any]) -> None:
    write(tmp_path / "a", calls(2))
    write(tmp_path / "b", changed)
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_the_fingerprint_changes_with_an_additional_file(tmp_path: Path) -> None:
    write(tmp_path, calls(2))
    before = fingerprint(tmp_path)
    write(tmp_path, calls(2, 2), "more.parquet")
    assert fingerprint(tmp_path) != before


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


# ---- turns of a call


def test_missing_turns_are_none_and_an_empty_list_stays_empty() -> None:
    assert parse_turns(None) is None
    assert parse_turns([]) == []


def test_rows_become_turns_and_a_missing_text_becomes_empty() -> None:
    assert parse_turns([turn("agent", 0.0, 1.5, "hello"), turn("customer", 1.5, 1.5, None)]) == [
        Turn("agent", 0.0, 1.5, "hello"),
        Turn("customer", 1.5, 1.5, ""),
    ]


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (None, "is null"),
        (turn(None, text=SECRET), "no speaker"),
        (turn("robot", text=SECRET), "another speaker"),
        (turn("Agent", text=SECRET), "another speaker"),
        (turn("", text=SECRET), "another speaker"),
        (turn(SECRET, text=SECRET), "another speaker"),
        (turn(start_sec=None, text=SECRET), "lacks its start or its end"),
        (turn(end_sec=None, text=SECRET), "lacks its start or its end"),
        (turn(start_sec=float("nan"), text=SECRET), "lacks its start or its end"),
        (turn(end_sec=float("inf"), text=SECRET), "lacks its start or its end"),
        (turn(start_sec=2.0, end_sec=1.0, text=SECRET), "from 2 s to 1 s"),
        (turn(start_sec=-1.0, end_sec=1.0, text=SECRET), "from -1 s to 1 s"),
    ],
)
def test_a_bad_turn_rejects_its_row_with_its_number_and_without_its_text(broken: Row | None, problem: str) -> None:
    with pytest.raises(CallError, match=f"turn 1 .*{problem}") as caught:
        parse_turns([turn(text=SECRET), broken, turn(text=SECRET)])
    assert caught.value.code == RejectCode.BAD_ROW
    assert SECRET[:4] not in caught.value.detail
    assert "\n" not in caught.value.detail


# ---- a call


@pytest.mark.parametrize(("intent", "agent_channel"), [(None, None), ("A", 0), ("E", 1)])
def test_checking_a_valid_call_returns_its_uri(intent: str | None, agent_channel: int | None) -> None:
    assert check_call("a.wav", intent, agent_channel, None) == "a.wav"


@pytest.mark.parametrize(
    ("uri", "intent", "agent_channel", "row_error", "detail"),
    [
        ("a.wav", None, None, "call_id is empty", "call_id is empty"),
        (None, None, None, None, "uri is empty"),
        ("", None, None, None, "uri is empty"),
        ("a.wav", "F", None, None, "intent is 'F'; it must be one of A, B, C, D, E or null"),
        ("a.wav", "", None, None, "intent is ''"),
        ("a.wav", "a", None, None, "intent is 'a'"),
        ("a" * 4097, None, None, None, "uri has 4097 characters; at most 4096 are allowed"),
        ("a.wav", None, 2, None, "agent_channel is neither 0, 1 nor null"),
        ("a.wav", None, -1, None, "agent_channel is neither 0, 1 nor null"),
    ],
)
def test_a_call_that_violates_the_contract_is_a_bad_row(
    uri: str | None, intent: str | None, agent_channel: int | None, row_error: str | None, detail: str
) -> None:
    with pytest.raises(CallError) as caught:
        check_call(uri, intent, agent_channel, row_error)
    assert caught.value.code == RejectCode.BAD_ROW
    assert caught.value.detail.startswith(detail)


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


def test_a_phone_number_as_an_intent_is_not_quoted() -> None:
    with pytest.raises(CallError, match="intent is a longer text") as caught:
        check_call("a.wav", "13800001111", None, None)
    assert "138" not in caught.value.detail


def test_a_transcript_as_an_intent_is_not_quoted() -> None:
    with pytest.raises(CallError, match="intent is a longer text; it must be one of A, B, C, D, E or null") as caught:
        check_call("a.wav", SECRET, None, None)
    assert SECRET[:4] not in caught.value.detail


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
