"""Rename, copy and clear away whole folders."""

from __future__ import annotations

import contextlib
import errno
import posixpath
import uuid
from collections.abc import Callable
from pathlib import Path

from msmtfn.storage.errors import explained
from msmtfn.storage.io import make_folder
from msmtfn.storage.locations import filesystem_of, join, protocol_of


def rename_folder(folder: str, target: str) -> bool:
    """Rename a local folder or file atomically.

    Returns:
        False if a folder that is not empty already has the name.

    Raises:
        StorageError: the storage refused.
    """
    with explained(f"{folder} cannot be renamed to {target}"):
        try:
            Path(folder).rename(target)
        except OSError as exc:
            if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        return True


def can_rename(folder: str, target: str) -> bool:
    """Return True if what is in one folder can be renamed into another: both are local and on one file system.

    Bind mounts of one device cannot, so it is tried, with a folder that is gone afterwards.

    Raises:
        StorageError: the storage refused.
    """
    if protocol_of(folder) != "file" or protocol_of(target) != "file":
        return False
    make_folder(folder)
    make_folder(target)
    name = f".probe-{uuid.uuid4().hex}"
    probe, renamed = Path(folder.removeprefix("file://")) / name, Path(target.removeprefix("file://")) / name
    with explained(f"{target} cannot be written"):
        probe.mkdir()
        try:
            probe.rename(renamed)
        except OSError as exc:
            probe.rmdir()
            if exc.errno != errno.EXDEV:
                raise
            return False
        renamed.rmdir()
        return True


def remove_empty_folder(folder: str) -> None:
    """Remove a local folder if it is empty; does nothing on S3, which has no folders."""
    if protocol_of(folder) == "file":
        with contextlib.suppress(OSError):
            Path(folder.removeprefix("file://")).rmdir()


def fetch_folder(location: str, target: Path, wanted: Callable[[str], bool]) -> None:
    """Copy the wanted files of a folder, without subfolders, to a local one.

    Args:
        location: the folder.
        target: the local folder, which must exist.
        wanted: returns True for the names of the files to copy.

    Raises:
        StorageError: the storage refused, or there is no such folder.
    """
    filesystem, path = filesystem_of(location)
    with explained(f"{location} cannot be read"):
        names = [posixpath.basename(name) for name in filesystem.ls(path, detail=False)]
        for name in filter(wanted, names):
            filesystem.get_file(join(path, name), str(target / name))


def put_folder(source: Path, location: str) -> None:
    """Copy the files of a local folder, without subfolders, to a location, which is created.

    Raises:
        StorageError: the storage refused.
    """
    filesystem, path = filesystem_of(location)
    make_folder(location)
    with explained(f"{location} cannot be written"):
        for file in sorted(source.iterdir()):
            if file.is_file():
                filesystem.put_file(str(file), join(path, file.name))
