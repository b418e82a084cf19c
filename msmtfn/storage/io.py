"""Read, write, list and delete, on local disks and S3."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import posixpath
import stat
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from msmtfn.errors import StorageError
from msmtfn.storage.errors import LOST_STATUSES, FileTooLargeError, as_os_errors, explained, s3_answer, with_reason
from msmtfn.storage.locations import arrow_filesystem_of, filesystem_of, join, protocol_of

logger = logging.getLogger(__name__)

DELETIONS_AT_ONCE: Final = 32
DAY_PREFIX: Final = "date="
FOLDER_ATTEMPTS: Final = 5
"""Number of attempts to write into a folder that others remove whenever it is empty."""


def size_of(location: str) -> int:
    """Return the size of a file in bytes.

    Raises:
        FileNotFoundError: there is no such file.
        StorageOutageError: storage fails, for longer than its client tries again.
        OSError: the storage refused, or the location is a folder.
    """
    filesystem, path = filesystem_of(location)
    with as_os_errors(), with_reason(filesystem, path):
        info = filesystem.info(path)
    if info["type"] != "file":
        raise IsADirectoryError(f"{location} is a folder")
    return int(info["size"])


def read_bytes(location: str) -> bytes:
    """Read a whole file; the errors are those of `size_of`."""
    filesystem, path = filesystem_of(location)
    with as_os_errors(), with_reason(filesystem, path):
        data: bytes = filesystem.cat_file(path)
    return data


def read_at_most(location: str, limit: int) -> bytes:
    """Read a whole file if it has at most `limit` bytes.

    Nothing is followed and nothing is waited for: a symbolic link in the last place, a pipe or a device is an error.

    Raises:
        FileTooLargeError: it is longer.
        FileNotFoundError: there is no such file.
        OSError: the storage refused, or the location is no file.
    """
    if protocol_of(location) == "s3":
        _check_size(size_of(location), limit)
        return read_bytes(location)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with os.fdopen(os.open(location.removeprefix("file://"), flags), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{location} is a pipe or a device")
        _check_size(status.st_size, limit)
        return file.read(status.st_size)


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise FileTooLargeError(f"{size} bytes; at most {limit} are read")


@contextlib.contextmanager
def open_for_reading(location: str) -> Iterator[IO[bytes]]:
    """Open a file for reading and seeking.

    Raises:
        StorageError: there is no such file, or the storage refused, now or while it is read.
    """
    filesystem, path = filesystem_of(location)
    with explained(f"{location} cannot be read"), filesystem.open(path, "rb") as file:
        yield file


def list_files(folder: str, suffix: str) -> list[str]:
    """List the files directly in a folder, sorted; hidden ones (`_…`, `.…`) and those in subfolders are left out.

    A folder that does not exist has none.

    Raises:
        StorageError: the storage refused.
    """
    filesystem, path = filesystem_of(folder)
    with explained(f"{folder} cannot be listed"):
        try:
            entries = filesystem.ls(path, detail=True)
        except FileNotFoundError:
            return []
        # A link has a type of its own, whatever it points to.
        files = [entry["name"] for entry in entries if entry["type"] == "file" or filesystem.isfile(entry["name"])]
        if files == [filesystem._strip_protocol(path)]:
            raise NotADirectoryError("it is a file, not a folder")
        names = [posixpath.basename(file) for file in files]
    # The file without a name is how the S3 console marks a folder.
    return [join(folder, name) for name in sorted(names) if name and name.endswith(suffix) and name[0] not in "_."]


def list_folders(folder: str, *, follow_links: bool = False) -> list[str]:
    """List the folders directly in a folder, sorted; empty if the folder does not exist.

    Args:
        folder: the folder.
        follow_links: whether a symbolic link to a folder counts as a folder.

    Raises:
        StorageError: the storage refused.
    """
    filesystem, path = filesystem_of(folder)
    with explained(f"{folder} cannot be listed"):
        try:
            entries = filesystem.ls(path.rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        folders = [
            entry["name"]
            for entry in entries
            if entry["type"] == "directory"
            or (follow_links and entry.get("islink") and filesystem.isdir(entry["name"]))
        ]
    return [join(folder, name) for name in sorted({posixpath.basename(path.rstrip("/")) for path in folders})]


def list_days(root: str, *, follow_links: bool = False) -> list[dt.date]:
    """List the days that have a folder `date=YYYY-MM-DD` in a root, in order; other folders are ignored.

    Args:
        root: the root.
        follow_links: whether a symbolic link to a folder counts as a folder.

    Raises:
        StorageError: the storage refused.
    """
    days = []
    for folder in list_folders(root, follow_links=follow_links):
        name = posixpath.basename(folder)
        if name.startswith(DAY_PREFIX):
            day = _parse_day(name.removeprefix(DAY_PREFIX))
            if day is None:
                logger.warning("%s is left out, since its name is not date=YYYY-MM-DD; rename it", folder)
            else:
                days.append(day)
    return days


def _parse_day(text: str) -> dt.date | None:
    """Parse YYYY-MM-DD only: a day's folder is found by its name, so 20261121 and 2026-W47-6 would not be found."""
    try:
        day = dt.date.fromisoformat(text)
    except ValueError:
        return None
    return day if day.isoformat() == text else None


def exists(location: str) -> bool:
    """Return True if there is a file or folder at a location."""
    filesystem, path = filesystem_of(location)
    with explained(f"{location} cannot be looked up"):
        return bool(filesystem.exists(path))


def read_text(location: str) -> str | None:
    """Read a small text file; None if it does not exist.

    Raises:
        StorageError: the storage refused, or the file is not text.
    """
    with explained(f"{location} cannot be read"):
        try:
            return read_bytes(location).decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as exc:
            raise StorageError(f"{location} is not UTF-8 text; find out what wrote it, or remove it") from exc


def write_text(location: str, text: str, content_type: str | None = None) -> None:
    """Write a small file, whole or not at all: readers never see a partial file.

    S3 tells a browser the content type, if one is given.

    Raises:
        StorageError: the storage refused; the message says what to do.
    """
    filesystem, path = filesystem_of(location)
    with explained(f"{location} cannot be written"):
        if protocol_of(location) == "s3":
            filesystem.pipe_file(path, text.encode(), **({"ContentType": content_type} if content_type else {}))
            return
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(path).with_name(f".{posixpath.basename(path)}.{uuid.uuid4().hex}")
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def create_text(location: str, text: str) -> bool:
    """Create a small file if there is none; of several concurrent writers, one succeeds.

    Returns:
        Whether it was written; if not, there was one already.

    Raises:
        StorageError: the storage refused; the message says what to do.
    """
    filesystem, path = filesystem_of(location)
    with explained(f"{location} cannot be written"):
        if protocol_of(location) == "s3":
            try:
                with as_os_errors():
                    filesystem.pipe_file(path, text.encode(), mode="create")
            except OSError:
                if not filesystem.exists(path):
                    raise
                return False  # "a pre-condition did not hold" is no FileExistsError
            return True
        unfinished = _write_beside(Path(path), text)
        try:
            os.link(unfinished, path)  # not opened exclusively: then a reader could see it empty
        except FileExistsError:
            return False
        finally:
            unfinished.unlink()
        return True


def _write_beside(path: Path, text: str) -> Path:
    """Write a file beside another one, in a folder that others may remove while it is empty; return its path."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    for attempt in range(FOLDER_ATTEMPTS):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_text(text, encoding="utf-8")
            break
        except FileNotFoundError:
            if attempt == FOLDER_ATTEMPTS - 1:
                raise
    return unfinished


def etag_of(location: str) -> str | None:
    """Return the ETag of an S3 object's current version; None if there is no object.

    Raises:
        StorageError: the storage refused.
    """
    filesystem, path = filesystem_of(location)
    with explained(f"{location} cannot be read"):
        try:
            etag: str | None = filesystem.info(path).get("ETag")
        except FileNotFoundError:
            return None
    return etag


def replace_text(location: str, text: str, etag: str | None) -> bool:
    """Write an S3 object if its present version has this ETag; where it is None, if there is no object.

    Args:
        location: of the object.
        text: the new content, which no other writer writes.
        etag: as `etag_of` gave it.

    Returns:
        Whether it was written.

    Raises:
        StorageError: the storage refused; whether the object was written is not known.
    """
    filesystem, path = filesystem_of(location)
    condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
    with explained(f"{location} cannot be written"):
        try:
            with as_os_errors():
                filesystem.pipe_file(path, text.encode(), **condition)
        except OSError as exc:
            is_gone = isinstance(exc, FileNotFoundError) and etag is not None
            if s3_answer(exc)[0] not in LOST_STATUSES and not is_gone:
                raise
            # If an answer is lost, the client retries, and the retry is refused because the first attempt succeeded.
            return read_text(location) == text
    return True


def write_parquet(location: str, table: pa.Table) -> None:
    """Write a Parquet file, in a folder that exists.

    Raises:
        StorageError: the storage refused; the message says what to do.
    """
    filesystem, path = arrow_filesystem_of(location)
    with explained(f"{location} cannot be written"):
        pq.write_table(table, path, filesystem=filesystem, compression="zstd")


def make_folder(folder: str) -> None:
    """Create a folder and its parents; does nothing on S3, which has no folders.

    Raises:
        StorageError: the storage refused; the message says what to do.
    """
    filesystem, path = filesystem_of(folder)
    if protocol_of(folder) == "file":
        with explained(f"{folder} cannot be written"):
            filesystem.makedirs(path, exist_ok=True)


def delete(location: str) -> None:
    """Delete a file, or a folder with its contents; a missing one is no error.

    Raises:
        StorageError: the storage refused.
    """
    filesystem, path = filesystem_of(location)
    with explained(f"{location} cannot be deleted"), contextlib.suppress(FileNotFoundError):
        if protocol_of(location) == "file":
            filesystem.rm(path, recursive=True)
            return
        # s3fs's `rm` treats names as patterns and does not report what the server refused to delete.
        with ThreadPoolExecutor(DELETIONS_AT_ONCE) as pool:
            list(pool.map(filesystem.rm_file, filesystem.find(path)))


def write_bytes(location: str, data: bytes) -> None:
    """Write a small file, in a folder that exists.

    Raises:
        StorageError: the storage refused; the message says what to do.
    """
    filesystem, path = filesystem_of(location)
    with explained(f"{location} cannot be written"):
        filesystem.pipe_file(path, data)
