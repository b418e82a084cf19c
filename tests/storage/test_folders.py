"""Folders: listed, made, renamed, deleted, fetched and put."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from msmtfn import storage
from msmtfn.errors import StorageError
from tests.storage.outsider import written_by_another


def test_a_folders_files_are_listed_in_order_without_hidden_and_deeper_ones(place: str) -> None:
    for name in ("b.parquet", "a.parquet", "a.txt", "_hidden.parquet", ".hidden.parquet", "below/c.parquet"):
        written_by_another(f"{place}/{name}", b"x")
    assert storage.list_files(place, ".parquet") == [f"{place}/a.parquet", f"{place}/b.parquet"]


def test_a_folder_that_is_not_there_has_no_files(place: str) -> None:
    assert storage.list_files(f"{place}/missing", "") == []


def test_a_listing_sees_what_somebody_else_has_just_written(place: str) -> None:
    written_by_another(f"{place}/a", b"x")
    assert storage.list_files(place, "") == [f"{place}/a"]
    written_by_another(f"{place}/b", b"x")
    assert storage.list_files(place, "") == [f"{place}/a", f"{place}/b"]


def test_arrow_sees_what_somebody_else_has_just_written(place: str) -> None:
    written_by_another(f"{place}/a", b"x")
    filesystem, path = storage.arrow_filesystem_of(place)
    assert len(filesystem.get_file_info(pa.fs.FileSelector(path))) == 1
    written_by_another(f"{place}/b", b"x")
    assert len(filesystem.get_file_info(pa.fs.FileSelector(path))) == 2


def test_a_size_is_that_of_now(place: str) -> None:
    written_by_another(f"{place}/a", b"x")
    assert storage.list_files(place, "") == [f"{place}/a"]
    written_by_another(f"{place}/a", b"xyz")
    assert storage.size_of(f"{place}/a") == 3


def test_listing_a_file_is_a_storage_error(place: str) -> None:
    written_by_another(f"{place}/a.parquet", b"x")
    with pytest.raises(StorageError, match=r"a\.parquet cannot be listed: .*not a folder"):
        storage.list_files(f"{place}/a.parquet", ".parquet")


def test_a_folder_may_hold_a_file_of_its_own_name(place: str) -> None:
    written_by_another(f"{place}/a/a", b"x")
    assert storage.list_files(f"{place}/a", "") == [f"{place}/a/a"]


def test_a_link_to_a_file_is_listed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.parquet").symlink_to(tmp_path / "target")
    (tmp_path / "folder" / "b.parquet").symlink_to(tmp_path)
    assert storage.list_files(f"{tmp_path}/folder", "") == [f"{tmp_path}/folder/a.parquet"]


def test_a_marker_of_a_folder_on_s3_is_no_file(s3: str) -> None:
    storage.filesystem_of(s3)[0].pipe_file(f"{s3}/marked/", b"")
    written_by_another(f"{s3}/marked/a", b"x")
    assert storage.list_files(f"{s3}/marked", "") == [f"{s3}/marked/a"]


def test_what_was_just_written_exists_and_what_was_deleted_does_not(place: str) -> None:
    assert not storage.exists(f"{place}/folder/a")
    written_by_another(f"{place}/folder/a", b"x")
    assert storage.exists(f"{place}/folder/a")
    assert storage.exists(f"{place}/folder")
    storage.delete(f"{place}/folder/a")
    assert not storage.exists(f"{place}/folder/a")


def test_a_folder_is_made_with_those_above_it_and_may_be_there(tmp_path: Path) -> None:
    for _ in range(2):
        storage.make_folder(f"{tmp_path}/a/b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_on_s3_needs_no_making(s3: str) -> None:
    storage.make_folder(f"{s3}/nothing")
    assert not storage.exists(f"{s3}/nothing")


def test_a_folder_gets_its_final_name_with_all_that_is_in_it(tmp_path: Path) -> None:
    storage.write_text(f"{tmp_path}/new/a", "text")
    storage.rename_folder(f"{tmp_path}/new", f"{tmp_path}/final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert storage.read_text(f"{tmp_path}/final/a") == "text"


def test_a_folder_does_not_take_the_name_of_another(tmp_path: Path) -> None:
    for name in ("new", "final"):
        storage.write_text(f"{tmp_path}/{name}/a", name)
    assert not storage.rename_folder(f"{tmp_path}/new", f"{tmp_path}/final")
    assert storage.read_text(f"{tmp_path}/final/a") == "final"


def test_a_folder_is_deleted_with_all_below_and_nothing_beside(place: str) -> None:
    for name in ("run/a", "run/below/b", "run-2/a", "run.txt"):
        written_by_another(f"{place}/{name}", b"x")
    storage.delete(f"{place}/run")
    filesystem, path = storage.filesystem_of(place)
    assert sorted(name.removeprefix(f"{path}/") for name in filesystem.find(path)) == ["run-2/a", "run.txt"]


@pytest.mark.parametrize("name", ["a?", "a*", "[ab]c"])
def test_a_name_is_no_pattern_when_it_is_deleted(place: str, name: str) -> None:
    for other in ("ab", "ac", "bc", name):
        written_by_another(f"{place}/{other}", b"x")
    storage.delete(f"{place}/{name}")
    assert storage.list_files(place, "") == [f"{place}/ab", f"{place}/ac", f"{place}/bc"]


def test_deleting_a_missing_file_is_no_error_and_deletes_nothing_else(place: str) -> None:
    written_by_another(f"{place}/missing-not", b"x")
    storage.delete(f"{place}/missing")
    storage.delete(f"{place}/missing/below")
    assert storage.list_files(place, "") == [f"{place}/missing-not"]


def test_the_wanted_files_of_a_folder_are_fetched(place: str, tmp_path: Path) -> None:
    for name in ("config.json", "model.bin", "below/config.json"):
        written_by_another(f"{place}/model/{name}", name.encode())
    (tmp_path / "target").mkdir()
    storage.fetch_folder(f"{place}/model", tmp_path / "target", lambda name: name.endswith(".json"))
    assert {path.name: path.read_text() for path in (tmp_path / "target").iterdir()} == {"config.json": "config.json"}


def test_fetching_a_missing_folder_is_a_storage_error(place: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing cannot be read"):
        storage.fetch_folder(f"{place}/missing", tmp_path, bool)


def test_a_local_folder_is_put_with_its_files(place: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "a.json").write_text("{}")
    storage.put_folder(source, f"{place}/model")
    assert storage.list_files(f"{place}/model", "") == [f"{place}/model/a.json"]
    assert storage.read_bytes(f"{place}/model/a.json") == b"{}"


def test_a_rename_is_possible_within_one_file_system_only(tmp_path: Path) -> None:
    assert storage.can_rename(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not storage.can_rename(str(tmp_path / "a"), "s3://bucket/b")
    assert list(tmp_path.rglob(".probe-*")) == []
