from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn import storage
from msmtfn.calls.columns import TURN
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.errors import ManifestError, StorageError
from tests.calls.manifests import DATE, calls, column, day_of, fingerprint, read, rows_of, turn, write

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
