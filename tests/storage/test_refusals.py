"""What the storage refuses is one error of one line, and an outage is told from it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import s3fs

from msmtfn import storage
from msmtfn.errors import StorageError

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


@pytest.fixture
def another_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """The environment, to be changed; s3fs keeps its clients, so they are forgotten before and after."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield monkeypatch
    s3fs.S3FileSystem.clear_instance_cache()


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


def test_where_nothing_can_be_created_the_error_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"lock\.json cannot be written: .*check the location"):
        storage.create_text(str(tmp_path / "file" / "lock.json"), "")
