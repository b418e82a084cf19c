"""Lock a day, so that one run at a time works on it; the lock of a dead run expires.

A lock is a file in the leads (`work.py` says why there) that its holder rewrites every few seconds. Another run that
wants the day watches the file for the length of a lease: if it changes, the holder is alive; if not, the lock is
abandoned and is taken over. No clocks are compared. Locks are numbered, and the highest number is valid. A run takes
over by creating the next number, which the storage lets only one run do. A holder that was merely suspended notices the
loss before it publishes.

Numbering restarts once the day is free, so every holder writes a unique name (`owner`) into its lock. It renews only a
lock with that name and never recreates a deleted one: a holder that has lost a day cannot get it back.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from msmtfn import storage
from msmtfn.daily.work import CONTROL_FOLDER
from msmtfn.errors import JobError, LockedError, StorageError
from msmtfn.storage import conditional
from msmtfn.storage.untrusted import inside, parse_object, printable, read_text

logger = logging.getLogger(__name__)

RENEW_SEC: Final = 5.0
LEASE_SEC: Final = 30.0
"""Time after which an unchanged lock counts as abandoned."""
POLL_SEC: Final = 1.0
MAX_ATTEMPTS: Final = 5
"""Number of failed attempts to create a lock, although none is visible, before the path counts as blocked."""
CONTENT_LENGTH: Final = 511
MAX_LOCK_BYTES: Final = 2**16
MAX_PID: Final = 2**22  # Linux's upper limit (PID_MAX_LIMIT)


@dataclass(frozen=True, kw_only=True, slots=True)
class LockTimes:
    """Interval between two renewals of a lock, and age at which it counts as abandoned, in seconds."""

    renew_sec: float = RENEW_SEC
    lease_sec: float = LEASE_SEC


@dataclass(frozen=True, slots=True)
class _Locks:
    """The locks of a day: the files of a folder whose names start with a prefix."""

    folder: str
    prefix: str

    def path_of(self, number: int) -> str:
        return storage.join(self.folder, f"{self.prefix}{number:08d}.json")

    def numbers(self) -> list[int]:
        """Return the numbers of the locks, the holder's last; files with other names are ignored."""
        pattern = re.compile(rf"{re.escape(self.prefix)}([0-9]{{8,15}})\.json")
        names = [file.rpartition("/")[2] for file in storage.list_files(self.folder, ".json")]
        numbers = sorted(int(found[1]) for name in names if (found := pattern.fullmatch(name)))
        return [number for number in numbers if self.path_of(number).rpartition("/")[2] in names]


@contextlib.contextmanager
def lock_day(leads: str, date: dt.date, times: LockTimes | None = None) -> Iterator[Callable[[], None]]:
    """Hold a day.

    Args:
        leads: root folder of all leads.
        date: the day.
        times: interval and lease of the lock; all runs on the same leads must use the same.

    Yields:
        A check to call before the day is published: it raises `LockedError` if another run took the day over.

    Raises:
        LockedError: another run is working on the day.
        StorageError: the storage refused.
    """
    times = times or LockTimes()
    locks = _locks_of(leads, date)
    owner = uuid.uuid4().hex
    number = _acquire(locks, owner, date, times)
    released = threading.Event()
    renewer = threading.Thread(
        target=_renew, args=(locks.path_of(number), owner, released, times), daemon=True, name="lock-of-the-day"
    )
    renewer.start()

    def check() -> None:
        if locks.numbers()[-1:] != [number] or not _is_of(owner, read_text(locks.path_of(number), MAX_LOCK_BYTES)):
            raise LockedError(
                f"another run has taken over {date}, because this one did not renew its lock for "
                f"{times.lease_sec:g} s; this run published nothing and leaves the day to the other"
            )

    try:
        yield check
    finally:
        released.set()
        renewer.join()
        # A lock that cannot be released now expires after a lease, and the next run takes it over.
        with contextlib.suppress(JobError):
            if _is_of(owner, read_text(locks.path_of(number), MAX_LOCK_BYTES)):
                storage.delete(locks.path_of(number))
        storage.remove_empty_folder(locks.folder)


def find_holder(leads: str, date: dt.date) -> str | None:
    """Return the process that holds a day, as its lock names it; None if nobody does.

    Nothing is waited for, so a process of another machine may be dead.
    """
    locks = _locks_of(leads, date)
    numbers = locks.numbers()
    text = read_text(locks.path_of(numbers[-1]), MAX_LOCK_BYTES) if numbers else None
    holder = _parse(text)
    return None if text is None or _is_dead(holder) else _name(holder)


def _locks_of(leads: str, date: dt.date) -> _Locks:
    return _Locks(inside(leads, CONTROL_FOLDER), f"lock-{date.isoformat()}-")


def _acquire(locks: _Locks, owner: str, date: dt.date, times: LockTimes) -> int:
    """Create a lock and return its number."""
    for _ in range(MAX_ATTEMPTS):
        numbers = locks.numbers()
        if numbers:
            _wait_until_abandoned(locks.path_of(numbers[-1]), date, times)
        number = (numbers[-1] if numbers else 0) + 1
        location = locks.path_of(number)
        if storage.create_text(location, _content(owner)):
            for older in numbers:
                storage.delete(locks.path_of(older))
            return number
        time.sleep(min(POLL_SEC, times.renew_sec))
    raise StorageError(
        f"{date} cannot be locked: {location} can be neither created nor read; remove what is there (a folder, a "
        "link, a pipe), or run the same command again if other runs compete for the day"
    )


def _wait_until_abandoned(location: str, date: dt.date, times: LockTimes) -> None:
    """Return when a lock is gone or its holder is dead.

    Raises:
        LockedError: the holder lives.
    """
    first = read_text(location, MAX_LOCK_BYTES)
    holder = _parse(first)
    if first is None or _is_dead(holder):
        return
    logger.info(
        "%s is locked by %s; waiting up to %g s to see whether that is alive", date, _name(holder), times.lease_sec
    )
    deadline = time.monotonic() + times.lease_sec
    while time.monotonic() < deadline:
        time.sleep(min(POLL_SEC, times.renew_sec))
        now = read_text(location, MAX_LOCK_BYTES)
        if now is None:
            return
        if now != first:
            raise LockedError(f"another run is working on {date}: {_name(holder)}; the day is left to it")
    logger.warning(
        "%s: %s has not renewed its lock for %g s; taking the day over", date, _name(holder), times.lease_sec
    )


def _renew(location: str, owner: str, released: threading.Event, times: LockTimes) -> None:
    while not released.wait(times.renew_sec):
        # A storage outage shorter than a lease does not cost the lock. If the day is taken over, the check before
        # publishing raises.
        with contextlib.suppress(JobError):
            conditional.overwrite(location, _content(owner), partial(_is_of, owner))


def _content(owner: str) -> str:
    """Return a lock's content, always of the same length, so that it can be overwritten in place."""
    about = {"machine": _machine(), "pid": os.getpid(), "owner": owner, "renewed_at": time.time()}
    return json.dumps(about).ljust(CONTENT_LENGTH) + "\n"


def _is_of(owner: str, text: str | None) -> bool:
    return _parse(text).get("owner") == owner


def _parse(text: str | None) -> dict[str, Any]:
    """Return a lock's description of its holder; empty if it cannot be parsed."""
    try:
        return parse_object(text or "")
    except ValueError:
        return {}


def _is_dead(holder: dict[str, Any]) -> bool:
    """Return True if the holder was a process of this machine that has ended, so that a rerun need not wait."""
    pid = holder.get("pid")
    if holder.get("machine") != _machine() or type(pid) is not int or not 0 < pid <= MAX_PID:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _name(holder: dict[str, Any]) -> str:
    machine = str(holder.get("machine", "?")).partition(" ")[0]
    return f"process {printable(holder.get('pid', '?'))} on {printable(machine)}"


def _machine() -> str:
    """Return the machine's name and the PID namespace of this process, which differs between containers."""
    spaces = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {spaces.readlink() if spaces.exists() else ''}"
