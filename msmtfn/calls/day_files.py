"""Find the Parquet files of a day, whatever wrote them: beside each other, in parts, or in partitions."""

from __future__ import annotations

import logging
from typing import Final

from msmtfn import storage
from msmtfn.errors import ManifestError

SUFFIX: Final = ".parquet"
HIDDEN: Final = ("_", ".")
"""First characters of what writers keep beside the data, such as `_SUCCESS`, `_temporary` and `.part-0.parquet.crc`."""

logger = logging.getLogger(__name__)


def find_day_files(folder: str) -> list[str]:
    """Return all Parquet files of a day in the order of their paths, including those of folders in it.

    Folders in it are partitions (`hour=10/`) or the parts of one table (`calls.parquet/part-00000.snappy.parquet`).
    Hidden files and folders are left out. Symbolic links are followed, since the manifests are the caller's own; a
    folder that several links lead to is read once.

    Raises:
        ManifestError: there is none.
        StorageError: the storage refused.
    """
    files, others = _walk(folder, set())
    if not files:
        beside = f", only files of other names, such as {others[0]}" if others else ""
        raise ManifestError(f"{folder} holds no *{SUFFIX}{beside}; check --manifests and --date")
    if others:
        logger.warning("%d files are left out, since their names do not end in %s: %s", len(others), SUFFIX, others[0])
    return sorted(files)


def _walk(folder: str, seen: set[str]) -> tuple[list[str], list[str]]:
    """Return the visible files at and below a folder: those of Parquet, and all others."""
    seen.add(storage.resolve(folder))
    visible = storage.list_files(folder, "")
    files = [file for file in visible if file.endswith(SUFFIX)]
    others = [file for file in visible if not file.endswith(SUFFIX)]
    for below in storage.list_folders(folder, follow_links=True):
        if not below.rpartition("/")[2].startswith(HIDDEN) and storage.resolve(below) not in seen:
            more_files, more_others = _walk(below, seen)
            files += more_files
            others += more_others
    return files, others
