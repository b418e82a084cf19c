"""The lock of a day, held by real processes, on local disk and on a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from msmtfn import storage
from msmtfn.daily import lock
from msmtfn.daily.lock import LockTimes, find_holder, lock_day
from msmtfn.errors import LockedError, StorageError
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
        with pytest.raises(LockedError, match="another run is working"), lock_day(place, DATE, TIMES):
            pass
        check()
    assert files(place) == []
    with lock_day(place, DATE, TIMES) as check:
        check()


def test_the_holder_of_a_day_is_named_without_waiting_for_it(place: str) -> None:
    assert find_holder(place, DATE) is None
    with lock_day(place, DATE, TIMES):
        assert find_holder(place, DATE) == f"process {os.getpid()} on {socket.gethostname()}"
        assert find_holder(place, DATE.replace(day=4)) is None
    assert find_holder(place, DATE) is None


def test_another_day_is_another_lock(place: str) -> None:
    with lock_day(place, DATE, TIMES) as check, lock_day(place, DATE.replace(day=4), TIMES) as check_other:
        check()
        check_other()
        assert len(files(place)) == 2


def test_a_run_that_ends_with_an_error_leaves_no_lock(place: str) -> None:
    with pytest.raises(RuntimeError, match="broken"), lock_day(place, DATE, TIMES):
        raise RuntimeError("broken")
    assert files(place) == []


def test_one_of_many_concurrent_runs_gets_the_day(place: str) -> None:
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
    assert find_holder(str(tmp_path), DATE) is None
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


# ---- what others may have put there

FAST = LockTimes(renew_sec=0.01, lease_sec=0.1)
IN_THE_WAY: dict[str, Callable[[Path], object]] = {
    "folder": Path.mkdir,
    "dangling link": lambda path: path.symlink_to("missing"),
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to(__file__),
}


def lock_file(leads: Path, number: str = "00000001") -> Path:
    (leads / "_runs").mkdir(exist_ok=True)
    return leads / "_runs" / f"lock-{DATE}-{number}.json"


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_a_lock_that_cannot_be_taken_is_an_error_in_one_line(tmp_path: Path, kind: str) -> None:
    IN_THE_WAY[kind](lock_file(tmp_path))
    with (
        pytest.raises(StorageError, match=r"lock-2026-03-02-00000001\.json [^\n]+$"),
        lock_day(str(tmp_path), DATE, FAST),
    ):
        pass
    assert StorageError.exit_code == 1


@pytest.mark.parametrize("kind", IN_THE_WAY)
def test_a_folder_of_runs_that_is_none_is_an_error_in_one_line(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / "_runs").write_text("a file")
    else:
        IN_THE_WAY[kind](tmp_path / "_runs")
    with pytest.raises(StorageError, match=r"_runs[^\n]+$"), lock_day(str(tmp_path), DATE, FAST):
        pass


@pytest.mark.parametrize("number", ["abc", "-0000001", "", "1", "0000000000000001", "١٢٣٤٥٦٧٨", "99999999999999999999"])
def test_a_file_with_an_odd_name_is_no_lock_and_stays(tmp_path: Path, number: str) -> None:
    odd = lock_file(tmp_path, number)
    odd.write_text("{}")
    with lock_day(str(tmp_path), DATE, FAST) as check:
        check()
    assert odd.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "null",
        "[" * 60_000,
        '{"pid": ' * 8_000,
        *(f'{{"machine": MACHINE, "pid": {pid}}}' for pid in ("true", "-1", "0", "1e400", "9" * 30, '"x"', "[]")),
        '{"machine": {"a": ["b"]}, "pid": 1}',
    ],
)
def test_a_lock_with_odd_content_has_an_unknown_holder_and_is_taken_over_after_a_lease(
    tmp_path: Path, content: str
) -> None:
    lock_file(tmp_path).write_text(content.replace("MACHINE", json.dumps(lock._machine())))
    started = time.monotonic()
    with lock_day(str(tmp_path), DATE, FAST) as check:
        check()
    assert time.monotonic() - started >= FAST.lease_sec


def test_a_holder_is_named_without_control_characters(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lock_file(tmp_path).write_text(json.dumps({"machine": "\x1b]0;evil\x07\nnext", "pid": "\x1b[31m"}))
    caplog.set_level("INFO")
    with lock_day(str(tmp_path), DATE, FAST):
        pass
    assert "process \\x1b[31m on \\x1b]0;evil\\x07\\nnext" in caplog.text
    assert "\x1b" not in caplog.text
