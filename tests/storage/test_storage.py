from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from msmtfn import storage
from msmtfn.errors import StorageError, UsageError

ODD_NAMES = ["a b", "a#b", "a?b", "a%20b", "a+b", "a'b\"c", "日本 é", "a..b", "a*b", "a[1]", "a=b&c;d"]
MISSING_BUCKET = "s3://there-is-no-such-bucket/folder"
ACCESSES: dict[str, Callable[[str], Any]] = {
    "read_text": storage.read_text,
    "write_text": lambda location: storage.write_text(location, "text"),
    "write_parquet": lambda location: storage.write_parquet(location, pa.table({"a": [1]})),
    "list_files": lambda location: storage.list_files(location, ""),
    "exists": storage.exists,
    "delete": storage.delete,
    "put_folder": lambda location: storage.put_folder(Path(__file__).parent, location),
    "write_bytes": lambda location: storage.write_bytes(location, b"x"),
    "create_text": lambda location: storage.create_text(location, "text"),
    "fetch_folder": lambda location: storage.fetch_folder(location, Path(), bool),
}
"""All that promise a StorageError where the storage refuses."""


def written_by_another(location: str, data: bytes) -> None:
    """Write a file past the module under test and all that it may remember."""
    if location.startswith("s3://"):
        s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(location, data)
    else:
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        Path(location).write_bytes(data)


@pytest.fixture
def another_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment, to be changed; s3fs keeps its clients, so they are forgotten before and after."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


# ---- locations


@pytest.mark.parametrize(
    ("location", "protocol"), [("/a", "file"), ("a", "file"), ("file:///a", "file"), ("s3://b", "s3")]
)
def test_a_location_is_local_or_on_s3(location: str, protocol: str) -> None:
    assert storage.protocol_of(location) == protocol


@pytest.mark.parametrize("location", ["gs://bucket/a", "http://host/a", "S3://bucket/a", "://a"])
def test_an_unknown_scheme_is_wrong_usage_and_the_message_names_those_known(location: str) -> None:
    with pytest.raises(UsageError, match=r"use a path, file:// or s3://"):
        storage.read_text(location)


def test_a_relative_path_is_not_absolute_and_an_address_is() -> None:
    absolute = [name for name in ("a/b", "../a", "/a", "file:///a", "s3://b/a") if storage.is_absolute(name)]
    assert absolute == ["/a", "file:///a", "s3://b/a"]


def test_a_relative_path_is_made_absolute_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("calls/today") == f"{tmp_path}/calls/today"


def test_an_address_is_absolute_and_loses_its_last_slash() -> None:
    assert (storage.absolute("file:///a/b/"), storage.absolute("s3://b/a/")) == ("/a/b", "s3://b/a")


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("s3://b/calls/../other/a", "s3://b/other/a"),
        ("s3://b/calls/./a", "s3://b/calls/a"),
        ("s3://b/../../c/a", "s3://b/c/a"),
        ("s3://b/calls//a", "s3://b/calls//a"),  # another key than calls/a
        ("s3://b/a..b/...", "s3://b/a..b/..."),
        ("s3://b", "s3://b"),
        ("/nowhere/../a", "/a"),
        ("file:///nowhere/./a", "/nowhere/a"),
    ],
)
def test_a_location_is_resolved_to_where_it_leads(location: str, place: str) -> None:
    assert storage.resolve(location) == place


@pytest.mark.parametrize(
    ("location", "folder", "within"),
    [
        ("s3://b/calls/a", "s3://b/calls", True),
        ("s3://b/calls/a", "s3://b/calls/", True),
        ("s3://b/calls", "s3://b/calls", True),
        ("s3://b/calls-evil/a", "s3://b/calls", False),
        ("s3://b2/a", "s3://b", False),
        ("/a", "/", True),
        ("/b/s3:/b/a", "s3://b", False),
    ],
)
def test_a_place_is_within_a_folder_by_whole_names(location: str, folder: str, within: bool) -> None:
    assert storage.is_within(location, folder) is within


def test_places_are_joined_with_slashes() -> None:
    assert storage.join("s3://b/a", "c", "d.txt") == "s3://b/a/c/d.txt"
    assert storage.join("/a", "c") == "/a/c"


def test_arrow_sees_the_same_file(place: str) -> None:
    written_by_another(f"{place}/a.txt", b"four")
    filesystem, path = storage.arrow_filesystem_of(f"{place}/a.txt")
    assert filesystem.open_input_stream(path).read() == b"four"


# ---- reading


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


# ---- writing


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


# ---- folders


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


# ---- refusals


@pytest.mark.parametrize("access", sorted(set(ACCESSES) - {"exists", "delete"}))
def test_a_file_in_the_place_of_a_folder_is_a_storage_error(tmp_path: Path, access: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        StorageError, match=r"file/a/b cannot be .*Not a directory; check the location, its permissions"
    ):
        ACCESSES[access](f"{tmp_path}/file/a/b")


def test_a_folder_cannot_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot be written: Not a directory; check the location"):
        storage.make_folder(f"{tmp_path}/file/a")


def test_a_text_cannot_take_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="folder cannot be written: Is a directory"):
        storage.write_text(f"{tmp_path}/folder", "text")


@pytest.mark.parametrize("access", ["write_text", "write_parquet"])
def test_a_bucket_is_never_made_by_writing_to_it(s3: str, access: str) -> None:
    with pytest.raises(StorageError, match="bucket does not exist"):
        ACCESSES[access](f"{MISSING_BUCKET}/a")
    assert not storage.exists(MISSING_BUCKET)


def test_a_bucket_that_is_not_there_has_no_files(s3: str) -> None:
    assert storage.list_files(MISSING_BUCKET, "") == []
    with pytest.raises(FileNotFoundError):
        storage.size_of(f"{MISSING_BUCKET}/a")


@pytest.mark.parametrize("access", sorted(ACCESSES))
def test_wrong_credentials_are_a_storage_error_of_one_line(
    s3: str, another_client: pytest.MonkeyPatch, access: str
) -> None:
    another_client.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match=r"^s3://[^\n]+check the location, [^\n]+ the credentials$"):
        ACCESSES[access](f"{s3}/a")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("access", sorted(ACCESSES))
def test_an_endpoint_that_refuses_is_a_storage_error_of_one_line(
    s3: str, another_client: pytest.MonkeyPatch, access: str
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        another_client.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(StorageError, match=r"^s3://[^\n]+Could not connect[^\n]+check the location, [^\n]+$"):
            ACCESSES[access](f"{s3}/a")


@pytest.mark.timeout(30)
def test_a_recording_on_an_endpoint_that_refuses_is_an_outage(s3: str, another_client: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        another_client.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        for read in (storage.size_of, storage.read_bytes):
            with pytest.raises(storage.StorageOutageError, match="Could not connect") as caught:
                read(f"{s3}/a")
            assert caught.value.reason == "EndpointConnectionError"


@pytest.mark.parametrize("read", [storage.size_of, storage.read_bytes])
def test_a_recording_with_wrong_credentials_is_an_outage(
    s3: str, another_client: pytest.MonkeyPatch, read: Callable[[str], Any]
) -> None:
    another_client.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(storage.StorageOutageError) as caught:
        read(f"{s3}/a")
    assert caught.value.reason == "HTTP 403 SignatureDoesNotMatch"


@pytest.fixture
def overloaded(another_client: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A server that answers each request with the next of these statuses, and with a file where there is none left."""
    statuses: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            status = statuses.pop(0) if statuses else 200
            body = b"a file" if status == 200 else b"<Error><Code>AccessDenied</Code></Error>"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD  # noqa: N815 - the server's name

        def log_message(self, *_: object) -> None: ...

    another_client.setenv("AWS_ACCESS_KEY_ID", "a")
    another_client.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        another_client.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield statuses
        server.shutdown()


def test_a_server_that_is_overloaded_is_asked_again(overloaded: list[int], another_client: pytest.MonkeyPatch) -> None:
    another_client.delenv("AWS_MAX_ATTEMPTS")
    overloaded += [503, 500, 503]
    assert storage.read_bytes("s3://bucket/a") == b"a file"


def test_a_server_that_stays_overloaded_is_an_outage(overloaded: list[int]) -> None:
    overloaded += [503]
    with pytest.raises(storage.StorageOutageError) as caught:
        storage.read_bytes("s3://bucket/a")
    assert caught.value.reason == "HTTP 503 503"


def test_a_file_that_may_not_be_read_is_no_outage(overloaded: list[int]) -> None:
    overloaded += [403, 403]
    with pytest.raises(PermissionError):
        storage.read_bytes("s3://bucket/a")


@pytest.mark.parametrize("access", sorted(ACCESSES))
def test_a_bucket_that_cannot_be_is_a_storage_error_of_one_line(s3: str, access: str) -> None:
    with pytest.raises(StorageError, match=r"^s3://[^\n]+Invalid bucket name[^\n]+$"):
        ACCESSES[access]("s3://no bucket/a")


def test_without_credentials_the_error_says_so(s3: str, another_client: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        another_client.delenv(name)
    another_client.setenv("HOME", str(tmp_path))
    another_client.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="credentials"):
        storage.read_text(f"{s3}/a")


def test_a_local_folder_is_put_with_its_files(place: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "below").mkdir(parents=True)
    (source / "a.json").write_text("{}")
    storage.put_folder(source, f"{place}/model")
    assert storage.list_files(f"{place}/model", "") == [f"{place}/model/a.json"]
    assert storage.read_bytes(f"{place}/model/a.json") == b"{}"


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


def test_where_nothing_can_be_created_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"lock\.json cannot be written: .*check the location"):
        storage.create_text(str(tmp_path / "file" / "lock.json"), "")


def test_a_rename_is_possible_within_one_file_system_only(tmp_path: Path) -> None:
    assert storage.can_rename(str(tmp_path / "a"), str(tmp_path / "b"))
    assert not storage.can_rename(str(tmp_path / "a"), "s3://bucket/b")
    assert list(tmp_path.rglob(".probe-*")) == []
