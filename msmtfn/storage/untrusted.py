"""Read files of shared folders as untrusted input: with size limits, and without following links out of the root."""

from __future__ import annotations

import errno
import json
import stat
from pathlib import Path
from typing import Any, Final

from msmtfn import storage
from msmtfn.errors import StorageError

MAX_TEXT_BYTES: Final = 2**24
MAX_DEPTH: Final = 64
"""Maximum nesting of a JSON file; Python's own limit depends on how deep the caller is."""


class LinkError(StorageError):
    """Symbolic link that leads out of the job's folders."""


def inside(root: str, *names: str) -> str:
    """Join names to a root, after checking that none of them is a symbolic link.

    The root itself may be a link, since the operator chose it. S3 has no links.

    Raises:
        LinkError: a name is a link.
    """
    if storage.protocol_of(root) == "file":
        for number in range(1, len(names) + 1):
            below = storage.join(root, *names[:number])
            if Path(below.removeprefix("file://")).is_symlink():
                raise LinkError(
                    f"{below} is a symbolic link, and no link below {root} is followed; replace it by what it points to"
                )
    return storage.join(root, *names)


def read_text(location: str, max_bytes: int = MAX_TEXT_BYTES) -> str | None:
    """Read a small text file that anybody may have written; None if there is none.

    Raises:
        StorageError: the storage refused, or it is a link, a folder, a pipe, too large, or not text.
    """
    try:
        data = storage.read_at_most(location, max_bytes)
    except FileNotFoundError:
        return None
    except storage.FileTooLargeError as exc:
        raise StorageError(f"{location} cannot be read: it has {exc}; check what wrote it, and remove it") from exc
    except OSError as exc:
        reason = "it is a symbolic link" if exc.errno == errno.ELOOP else (exc.strerror or str(exc))
        raise StorageError(
            f"{location} cannot be read: {' '.join(reason.split())}; check the location, its permissions, the endpoint "
            "and the credentials"
        ) from exc
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise StorageError(f"{location} is not UTF-8 text; find out what wrote it, or remove it") from exc


def read_object(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> dict[str, Any]:
    """Read a JSON object from a file on this machine, a link included.

    Raises:
        ValueError: the file holds no JSON object, or one that is nested too deeply, or is too large.
        OSError: there is no such file, or it is a pipe, a device or a folder.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(f"{path.name} is not a regular file")
    if status.st_size > max_bytes:
        raise ValueError(f"{path.name} has {status.st_size} bytes; at most {max_bytes} are read")
    return parse_object(path.read_text(encoding="utf-8"))


def parse_object(text: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        ValueError: it is none, or is nested too deeply.
    """
    try:
        content = json.loads(text)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    if not isinstance(content, dict):
        raise ValueError("it is not an object")
    if _is_deeper(content, MAX_DEPTH):
        raise ValueError("it is nested too deeply")
    return content


def _is_deeper(value: object, depth: int) -> bool:
    """Return True if lists and objects are nested more than `depth` deep."""
    if not isinstance(value, dict | list):
        return False
    values = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_is_deeper(inner, depth - 1) for inner in values)


def printable(text: object, max_characters: int = 80) -> str:
    """Return untrusted text with its control characters escaped, cut to one short line."""
    shown = escape_controls(str(text)[:max_characters])
    return shown + ("…" if len(str(text)) > max_characters else "")


def escape_controls(text: str, kept: str = "") -> str:
    """Return text with its control characters, direction marks and unusual spaces escaped, except those in `kept`."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in kept else ascii(char)[1:-1] for char in text)
