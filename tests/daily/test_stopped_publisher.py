"""Real processes, stopped past their lease at every storage step of a publication, and woken after a newer one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from msmtfn import storage
from msmtfn.daily import publish as module
from msmtfn.daily.lock import LockTimes, lock_day
from msmtfn.daily.publication import publications_in
from msmtfn.daily.publish import day_folder, publish_day, read_leads, read_success, tidy_day
from msmtfn.daily.work import default_work, run_folder
from msmtfn.errors import LockedError
from msmtfn.storage import conditional
from tests.daily.parts import DATE, RECORD, SCHEMA, publish, rejected, scored, write_parts

TIMES = LockTimes(renew_sec=0.2, lease_sec=1.5)
FOUR_CALLS = [[scored(0, 10.0), scored(1, 90.0)], [scored(2, 50.0), rejected(3)]]
WAIT_SEC = 120.0
FINISHED, LOST = 0, 4

STOPPED_PUBLISHER = """
import itertools, os, signal, sys
from dataclasses import replace
from msmtfn import storage
from msmtfn.errors import LockedError
from msmtfn.daily import publish
from msmtfn.daily.lock import LockTimes, lock_day
from tests.daily.parts import RECORD, DATE, SCHEMA

leads, run, stops_before = sys.argv[1], sys.argv[2], int(sys.argv[3])
steps = itertools.count()
counting = [False]

def stopping(step):
    def run_step(*arguments):
        if counting[0] and next(steps) == stops_before:
            counting[0] = False
            os.kill(os.getpid(), signal.SIGSTOP)
        return step(*arguments)
    return run_step

for name in ("list_files", "write_parquet", "write_text", "rename_folder", "delete", "etag_of", "replace_text"):
    setattr(storage, name, stopping(getattr(storage, name)))
publish.ROWS_PER_FILE = 2
try:
    with lock_day(leads, DATE, LockTimes(renew_sec=3600.0, lease_sec=3600.0)) as check:
        counting[0] = True
        publish.publish_day(leads, DATE, run, SCHEMA, 4, replace(RECORD, run_id="asleep"), check)
        counting[0] = False
except LockedError as exc:
    sys.exit(exc.exit_code)
"""


def start_and_stop(leads: str, run: str, stops_before: int) -> subprocess.Popen[bytes]:
    """A publisher that has stopped itself before a step, or has ended since it has fewer."""
    command = [sys.executable, "-c", STOPPED_PUBLISHER, leads, run, str(stops_before)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + WAIT_SEC
    while time.monotonic() < deadline:
        pid, status = os.waitpid(process.pid, os.WNOHANG | os.WUNTRACED)
        if pid and not os.WIFSTOPPED(status):
            process.returncode = os.waitstatus_to_exitcode(status)
        if pid:
            return process
        time.sleep(0.05)
    raise TimeoutError("the publisher neither stopped nor ended")


@pytest.mark.slow
@pytest.mark.parametrize("is_replaced", [pytest.param(False, marks=pytest.mark.long), True])
def test_a_publisher_stopped_past_its_lease_does_not_harm_a_newer_publication(
    place: str, monkeypatch: pytest.MonkeyPatch, is_replaced: bool
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 2)
    monkeypatch.setattr(conditional, "WAIT_SEC", 0.5)
    for stops_before in range(100):
        leads = f"{place}/{stops_before}"
        if is_replaced:
            publish(leads, FOUR_CALLS, "old")
        asleep = start_and_stop(leads, write_parts(leads, "asleep", FOUR_CALLS), stops_before)
        if asleep.returncode is not None:
            assert asleep.returncode == FINISHED
            assert stops_before > 10
            return
        write_parts(leads, "newer", FOUR_CALLS)
        try:
            try:
                publish_newer(leads, asleep)
            except LockedError:  # stopped within the swap itself, where POSIX cannot tell whether it will rename
                if leads.startswith("s3://"):
                    raise
                wake(asleep)
                publish_newer(leads, asleep)
        finally:
            asleep.kill()
            asleep.wait()
        assert_whole_and_tidy(leads)


def publish_newer(leads: str, asleep: subprocess.Popen[bytes]) -> None:
    """Take the day over, publish it, and wake who is asleep."""
    with lock_day(leads, DATE, TIMES) as check:
        run = run_folder(default_work(leads), "newer")
        publish_day(leads, DATE, run, SCHEMA, 4, replace(RECORD, run_id="newer"), check)
        wake(asleep)
        check()


def wake(asleep: subprocess.Popen[bytes]) -> None:
    """Let a stopped publisher go on to its end: it has lost the day, or had published before it slept."""
    asleep.send_signal(signal.SIGCONT)
    assert asleep.wait(WAIT_SEC) in (FINISHED, LOST)


def assert_whole_and_tidy(leads: str) -> None:
    """See that the newer day is published and whole, and that the next run finds nothing to clear away."""
    rows = read_leads(leads, DATE).to_table(columns=["run_id", "lead_rank"]).to_pylist()
    assert [(row["run_id"], row["lead_rank"]) for row in rows] == [("newer", rank) for rank in (1, 2, 3, None)]
    with lock_day(leads, DATE, TIMES) as check:
        tidy_day(leads, DATE, check)
    success = read_success(leads, DATE)
    assert success is not None
    assert list(publications_in(day_folder(leads, DATE))) == [success.publication]
    assert storage.list_files(f"{leads}/_runs", "") == []
