"""Files, read and written alike on local disk and on S3."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn import storage
from msmtfn.errors import StorageError
from tests.storage.outsider import written_by_another

ODD_NAMES = ["a b", "a#b", "a?b", "a%20b", "a+b", "a'b\"c", "日本 é", "a..b", "a*b", "a[1]", "a=b&c;d"]


def test_arrow_sees_the_same_file(place: str) -> None:
    written_by_another(f"{place}/a.txt", b"four")
    filesystem, path = storage.arrow_filesystem_of(f"{place}/a.txt")
    assert filesystem.open_input_stream(path).read() == b"four"


def test_a_file_is_read_whole_and_has_its_size(place: str) -> None:
    written_by_another(f"{place}/a", b"\0\xff data")
    assert storage.read_bytes(f"{place}/a") == b"\0\xff data"
    assert storage.size_of(f"{place}/a") == 7


def test_a_missing_file_has_no_size_and_no_content(place: str) -> None:
    for read in (storage.size_of, storage.read_bytes):
        with pytest.raises(FileNotFoundError):
            read(f"{place}/missing")


def test_a_folder_has_no_size(place: str) -> None:
    written_by_another(f"{place}/folder/a", b"a")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        storage.size_of(f"{place}/folder")


def test_a_folder_has_no_content(place: str) -> None:
    written_by_another(f"{place}/folder/a", b"a")
    with pytest.raises(OSError, match=r"."):
        storage.read_bytes(f"{place}/folder")


def test_an_open_file_can_be_read_in_any_order(place: str) -> None:
    written_by_another(f"{place}/a", b"0123456789")
    with storage.open_for_reading(f"{place}/a") as file:
        file.seek(6)
        assert file.read(2) == b"67"
        file.seek(1)
        assert file.read(2) == b"12"


def test_opening_a_missing_file_is_a_storage_error(place: str) -> None:
    with (
        pytest.raises(StorageError, match=r"missing cannot be read: .*check the location"),
        storage.open_for_reading(f"{place}/missing"),
    ):
        pass


def test_a_missing_text_is_none(place: str) -> None:
    assert storage.read_text(f"{place}/missing") is None


def test_a_file_that_is_not_text_is_a_storage_error(place: str) -> None:
    written_by_another(f"{place}/a", b"\xff\xfe")
    with pytest.raises(StorageError, match="a is not UTF-8 text"):
        storage.read_text(f"{place}/a")


def test_a_text_is_read_back_as_it_was_written(place: str) -> None:
    storage.write_text(f"{place}/new/folder/a", "zwei Äpfel\n\r\n日本")
    assert storage.read_text(f"{place}/new/folder/a") == "zwei Äpfel\n\r\n日本"


def test_a_text_replaces_the_one_before_and_leaves_nothing_else(place: str) -> None:
    for text in ("the first, which is longer", "the second"):
        storage.write_text(f"{place}/a", text)
    filesystem, path = storage.filesystem_of(place)
    assert storage.read_text(f"{place}/a") == "the second"
    assert len(filesystem.ls(path)) == 1


def test_a_text_can_be_written_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    storage.write_text("a.txt", "text")
    assert (tmp_path / "a.txt").read_text() == "text"


def test_a_reader_never_sees_a_part_of_a_text(place: str) -> None:
    versions = [letter * 200_000 for letter in "ab"]
    storage.write_text(f"{place}/a", versions[0])
    seen: list[str | None] = []
    finished = threading.Event()

    def poll() -> None:
        while not finished.is_set():
            seen.append(storage.read_text(f"{place}/a"))

    reader = threading.Thread(target=poll)
    reader.start()
    for round_number in range(30):
        storage.write_text(f"{place}/a", versions[round_number % 2])
    finished.set()
    reader.join()
    assert len(seen) > 5
    assert all(text in versions for text in seen)


def test_a_table_is_read_back_as_it_was_written(place: str) -> None:
    table = pa.table({"a": [1, None], "b": ["x", "y"]})
    storage.make_folder(place)
    storage.write_parquet(f"{place}/a.parquet", table)
    with storage.open_for_reading(f"{place}/a.parquet") as file:
        assert pq.ParquetFile(file).read().equals(table)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_taken_as_it_is(place: str, name: str) -> None:
    location = f"{place}/{name}.txt"
    storage.write_text(location, name)
    assert storage.list_files(place, ".txt") == [location]
    assert storage.read_bytes(location) == name.encode()
    assert storage.size_of(location) == len(name.encode())
    with storage.open_for_reading(location) as file:
        assert file.read() == name.encode()


def test_a_local_path_may_go_up(tmp_path: Path) -> None:
    storage.write_text(f"{tmp_path}/a.txt", "text")
    (tmp_path / "folder").mkdir()
    assert storage.read_text(storage.join(f"{tmp_path}/folder", "../a.txt")) == "text"


def test_bytes_are_written_as_they_are(place: str) -> None:
    storage.make_folder(place)
    storage.write_bytes(f"{place}/picture.png", b"\x89PNG")
    assert storage.read_bytes(f"{place}/picture.png") == b"\x89PNG"


def test_a_text_is_created_once_and_never_replaced(place: str) -> None:
    location = storage.join(place, "folder", "lock.json")
    assert storage.create_text(location, "first")
    assert not storage.create_text(location, "second")
    assert storage.read_text(location) == "first"


def test_one_of_many_concurrent_creations_succeeds(place: str) -> None:
    start = threading.Barrier(8, timeout=60)

    def create(number: int) -> bool:
        start.wait()
        return storage.create_text(storage.join(place, "lock.json"), str(number))

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert created.count(True) == 1
    assert storage.read_text(storage.join(place, "lock.json")) == str(created.index(True))
