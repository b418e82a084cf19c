"""Compare-and-swap of small files: replace what was read, and nothing that was written after it.

On S3 the server compares: a PUT with `If-Match` and the ETag that was read, or `If-None-Match: *` where there was no
object. POSIX can compare only by the writers' agreement: they hold an exclusive `flock` while they compare and rename.
The kernel gives the lock back when its holder dies. One who is stopped inside keeps it, which is as it must be, since
nothing else can tell whether it will rename; so others give up after `WAIT_SEC`, and the file stays as it was.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msmtfn import storage
from msmtfn.errors import LockedError, StorageError
from msmtfn.storage.untrusted import read_text

logger = logging.getLogger(__name__)

WAIT_SEC: Final = 30.0
POLL_SEC: Final = 0.05
MAX_OVERWRITTEN_BYTES: Final = 2**16
_NO_FLOCK: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@dataclass(frozen=True, slots=True)
class Seen:
    """Content and version of a file when it was read.

    Attributes:
        text: its content; None where there was no file.
        etag: ETag of that version on S3.
    """

    text: str | None
    etag: str | None = None


def see(location: str) -> Seen:
    """Read a file that is to be swapped.

    Raises:
        StorageError: the storage refused, or it is no small text file.
    """
    # The ETag comes first, so that a write between the two reads makes the swap fail.
    etag = storage.etag_of(location) if storage.protocol_of(location) == "s3" else None
    return Seen(read_text(location), etag)


def swap(location: str, seen: Seen, text: str, confirm: Callable[[], None] = lambda: None) -> bool:
    """Write a file if it is still what was seen; of several that try at once, one succeeds.

    Args:
        location: location of the file.
        seen: result of `see`.
        text: the new content, which no other writer writes.
        confirm: called last before the comparison; what it raises keeps the file as it was.

    Returns:
        Whether it was written; if not, the file is another by now.

    Raises:
        LockedError: another process holds the file and does not release it.
        StorageError: the storage refused; whether the file was written is not known.
    """
    if storage.protocol_of(location) == "s3":
        confirm()
        return storage.replace_text(location, text, seen.etag)
    with exclusive(location):
        confirm()
        if read_text(location) != seen.text:
            return False
        storage.write_text(location, text)
        return True


@contextlib.contextmanager
def exclusive(location: str) -> Iterator[None]:
    """Hold an exclusive lock on a local file.

    Raises:
        LockedError: another process holds it for too long.
        StorageError: the storage refused.
    """
    path = Path(location.removeprefix("file://"))
    mutex = path.with_name(f".{path.name}.lock")
    descriptor = _lock(mutex)
    try:
        yield
    finally:
        if os.fstat(descriptor).st_size == 0:  # ours is empty; unlinked while it is held, see `_is_current`
            mutex.unlink(missing_ok=True)
        os.close(descriptor)


def supports_conditional_writes(folder: str) -> bool:
    """Return True if the storage honours conditional writes, tested on a probe object that is deleted afterwards.

    Raises:
        StorageError: the storage refused.
    """
    probe = storage.join(folder, f"probe-{uuid.uuid4().hex}.json")
    if storage.protocol_of(folder) == "file":
        storage.make_folder(folder)
        descriptor = _lock(Path(probe.removeprefix("file://")))
        try:
            return _try_flock(descriptor) is not None
        finally:
            Path(probe.removeprefix("file://")).unlink()
            os.close(descriptor)
    storage.write_text(probe, "first")
    try:
        etag = storage.etag_of(probe)
        wins = storage.replace_text(probe, "second", etag)
        return wins and not (storage.replace_text(probe, "third", etag) or storage.replace_text(probe, "fourth", None))
    except StorageError as exc:
        logger.warning("a conditional write was refused: %s", exc)
        return False
    finally:
        storage.delete(probe)


def warn_unless_conditional(folder: str) -> None:
    """Log a warning if the storage has no conditional writes, the last safeguard between two concurrent runs."""
    if not supports_conditional_writes(folder):
        logger.warning(
            "the storage of %s has no conditional writes (%s): two runs that finish at the same moment could "
            "overwrite each other's work; start one at a time",
            folder,
            "If-Match and If-None-Match" if storage.protocol_of(folder) == "s3" else "flock",
        )


def overwrite(location: str, text: str, is_ours: Callable[[str], bool]) -> bool:
    """Overwrite a file if it exists and is ours; a deleted file is never created again.

    Args:
        location: location of the file.
        text: the new content, as long as the old.
        is_ours: returns True if the old content may be replaced.

    Returns:
        Whether it was written.

    Raises:
        StorageError: the storage refused.
    """
    if storage.protocol_of(location) == "s3":
        seen = see(location)
        return seen.text is not None and is_ours(seen.text) and storage.replace_text(location, text, seen.etag)
    try:
        descriptor = os.open(location.removeprefix("file://"), os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise StorageError(f"{location} cannot be written: {exc.strerror}; check what is at that location") from exc
    # In the file that was read, which a rename or an unlink by others turns into one that nobody sees.
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        if not is_ours((file.read(MAX_OVERWRITTEN_BYTES) or b"").decode(errors="replace")):
            return False
        os.pwrite(file.fileno(), text.encode(), 0)
        return True


def _lock(mutex: Path) -> int:
    """Open and lock a file and return its descriptor."""
    deadline = time.monotonic() + WAIT_SEC
    while True:
        try:
            descriptor = os.open(mutex, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as exc:
            raise StorageError(
                f"{mutex} cannot be locked: {exc.strerror}; check what is at that location, and remove it"
            ) from exc
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise StorageError(f"{mutex} cannot be locked: it is not a file; remove it")
        # A file system without flock compares all the same; only a writer at the very same moment is not noticed.
        if _try_flock(descriptor) is not False and _is_current(mutex, descriptor):
            return descriptor
        os.close(descriptor)
        if time.monotonic() >= deadline:
            raise LockedError(
                f"another process holds {mutex} and does not release it, perhaps because it is stopped; nothing was "
                "done; resume or end that process, and run the same command again"
            )
        time.sleep(POLL_SEC)


def _try_flock(descriptor: int) -> bool | None:
    """Try to lock an open file; return True on success, None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno in _NO_FLOCK:
            return None
        return False
    return True


def _is_current(mutex: Path, descriptor: int) -> bool:
    """Return True if the path still names the open file, and not a newer one."""
    try:
        named = mutex.lstat()
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
