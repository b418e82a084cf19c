"""The lock of a day, held by real processes, on local disk and on a real S3 server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from msmtfn import storage
from msmtfn.daily import lock
from msmtfn.daily.lock import LockTimes, lock_day
from msmtfn.errors import LockedError
from tests.daily.parts import DATE

TIMES = LockTimes(renew_sec=0.2, lease_sec=2.0)

HOLDER = """
import datetime as dt, sys, time
from msmtfn.daily.lock import LockTimes, lock_day
with lock_day(sys.argv[1], dt.date.fromisoformat(sys.argv[2]), LockTimes(renew_sec=0.2, lease_sec=2.0)):
    print("held", flush=True)
    time.sleep(600)
"""


def start_holder(leads: str) -> subprocess.Popen[str]:
    """A process that holds the day until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, leads, DATE.isoformat()], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def files(leads: str) -> list[str]:
    return storage.list_files(storage.join(leads, "_runs"), ".json")


def test_a_day_is_held_by_one_run_and_free_after_it(place: str) -> None:
    with lock_day(place, DATE, TIMES) as check:
        with pytest.raises(LockedError, match="another run is at work"), lock_day(place, DATE, TIMES):
            pass
        check()
    assert files(place) == []
    with lock_day(place, DATE, TIMES) as check:
        check()


def test_another_day_is_another_lock(place: str) -> None:
    with lock_day(place, DATE, TIMES) as check, lock_day(place, DATE.replace(day=4), TIMES) as check_other:
        check()
        check_other()
        assert len(files(place)) == 2


def test_a_run_that_ends_with_an_error_leaves_no_lock(place: str) -> None:
    with pytest.raises(RuntimeError, match="broken"), lock_day(place, DATE, TIMES):
        raise RuntimeError("broken")
    assert files(place) == []


def test_of_many_that_want_a_day_at_once_one_gets_it(place: str) -> None:
    held = threading.Barrier(4, timeout=60)

    def want(_: int) -> bool:
        held.wait()
        try:
            with lock_day(place, DATE, TIMES) as check:
                time.sleep(3 * TIMES.lease_sec)
                check()
                return True
        except LockedError:
            return False

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(want, range(4))) == [False, False, False, True]


def test_the_lock_of_a_killed_run_of_this_machine_is_taken_over_at_once(tmp_path: Path) -> None:
    holder = start_holder(str(tmp_path))
    with pytest.raises(LockedError, match=f"process {holder.pid} on"), lock_day(str(tmp_path), DATE, TIMES):
        pass
    holder.kill()
    holder.wait()
    with lock_day(str(tmp_path), DATE, LockTimes(renew_sec=0.2, lease_sec=3600.0)) as check:
        check()


def test_the_lock_of_a_dead_run_of_another_machine_is_taken_over_after_a_lease(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = start_holder(place)
    holder.kill()
    holder.wait()
    monkeypatch.setattr(lock, "_machine", lambda: "another")
    started = time.monotonic()
    with lock_day(place, DATE, TIMES) as check:
        check()
        assert time.monotonic() - started >= TIMES.lease_sec
    assert files(place) == []


def test_a_run_that_slept_finds_out_that_it_lost_the_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = LockTimes(renew_sec=3600.0, lease_sec=3600.0)  # as one that is stopped renews nothing
    with lock_day(str(tmp_path), DATE, never) as asleep:
        monkeypatch.setattr(lock, "_machine", lambda: "another")
        with lock_day(str(tmp_path), DATE, TIMES) as check:
            check()
            with pytest.raises(LockedError, match="another run has taken"):
                asleep()
        with pytest.raises(LockedError, match="another run has taken"):
            asleep()


def test_a_stopped_process_loses_the_day_and_does_not_get_it_back_when_it_wakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = start_holder(str(tmp_path))
    holder.send_signal(signal.SIGSTOP)
    try:
        with lock_day(str(tmp_path), DATE, TIMES) as check:
            holder.send_signal(signal.SIGCONT)
            time.sleep(5 * TIMES.renew_sec)
            check()
            assert len(files(str(tmp_path))) == 1
    finally:
        holder.kill()
        holder.wait()
