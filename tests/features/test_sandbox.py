"""Calls that kill, fill or hold up the real process in which they are prepared."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from msmtfn.errors import CallError, RejectCode
from msmtfn.features.sandbox import UNSETTLED, GuardConfig, GuardedPreparer, end_children

ADDED = pa.schema(
    [
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("pid", pa.int64()),
        ("samples", pa.large_list(pa.int16())),
    ]
)
LIMITS = GuardConfig(max_prepare_sec=2.0, max_prepare_bytes=200 * 2**20)
MEGABYTE = 2**20


class Poisoned:
    """Does with each call what its column `deed` says."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def prepare_batch(self, batch: pa.Table, passed: Sequence[str]) -> pa.Table:
        (row,) = batch.to_pylist()
        try:
            code = getattr(self, row["deed"])()
        except CallError as error:
            code = str(error.code)
        added = {"status": code and "rejected", "error_code": code, "error_detail": None, "pid": os.getpid()}
        columns = [pa.array([added.get(field.name, [1, 2])], field.type) for field in ADDED]
        return pa.table([*batch.select(passed).columns, *columns], [*passed, *ADDED.names])

    def nothing(self) -> None:
        pass

    def exits(self) -> None:
        (self.marks / str(time.monotonic_ns())).touch()
        os._exit(3)

    def exits_once(self) -> None:
        if not any(self.marks.iterdir()):
            self.exits()

    def loops(self) -> None:
        while True:
            pass

    def hangs_in_c(self) -> None:
        ctypes.PyDLL(None).sleep(600)  # with the interpreter's lock: no thread, no signal handler of Python's runs

    def eats(self) -> str | None:
        eaten: list[bytes] = []
        try:
            while len(eaten) < 2000:
                eaten.append(b"x" * MEGABYTE)
        except MemoryError:
            (self.marks / str(len(eaten))).touch()
            return str(RejectCode.AUDIO_OUT_OF_MEMORY)
        return None


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedPreparer]:
    yield GuardedPreparer(Poisoned(tmp_path), LIMITS, ["row_id"], ADDED)
    end_children()
    assert not guards()


def guards() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "msmtfn.features.sandbox_child" in child.cmdline()]


def prepare(guarded: GuardedPreparer, *deeds: str) -> list[dict[str, Any]]:
    rows = guarded.prepare_batch(pa.table({"row_id": range(len(deeds)), "deed": deeds}))
    assert rows.schema.names == ["row_id", *ADDED.names]
    assert rows["row_id"].to_pylist() == list(range(len(deeds)))
    result: list[dict[str, Any]] = rows.to_pylist()
    return result


def test_calls_are_prepared_in_one_other_process(guarded: GuardedPreparer) -> None:
    rows = prepare(guarded, "nothing", "nothing") + prepare(guarded, "nothing")
    assert [row["samples"] for row in rows] == [[1, 2]] * 3
    assert len({row["pid"] for row in rows}) == 1
    assert rows[0]["pid"] != os.getpid()


def test_a_call_that_ends_its_process_is_tried_once_more_and_then_unsettled(
    guarded: GuardedPreparer, tmp_path: Path
) -> None:
    before, deadly, after = prepare(guarded, "nothing", "exits", "nothing")
    assert (deadly["status"], deadly["error_code"], deadly["samples"]) == (UNSETTLED, "worker_crashed", [])
    assert len(list(tmp_path.iterdir())) == 2
    assert before["status"] is after["status"] is None


def test_a_process_that_dies_once_costs_nothing(guarded: GuardedPreparer) -> None:
    assert [row["status"] for row in prepare(guarded, "exits_once", "nothing")] == [None, None]


@pytest.mark.parametrize("deed", ["loops", "hangs_in_c"])
def test_a_call_that_never_returns_is_rejected_in_time(guarded: GuardedPreparer, deed: str, capfd: Any) -> None:
    prepare(guarded, "nothing")
    started = time.monotonic()
    hanging, after = prepare(guarded, deed, "nothing")
    assert 2.0 <= time.monotonic() - started < 30
    assert (hanging["status"], hanging["error_code"]) == ("rejected", "audio_timeout")
    assert hanging["error_detail"] == "not prepared within 2 s (--max-prepare-sec)"
    assert after["status"] is None
    assert f"in {deed}" in capfd.readouterr().err  # where it hung


def test_a_call_that_eats_memory_gets_no_more_than_the_limit_and_the_next_a_new_process(
    guarded: GuardedPreparer, tmp_path: Path
) -> None:
    before, greedy, after = prepare(guarded, "nothing", "eats", "nothing")
    assert greedy["error_code"] == "audio_out_of_memory"
    (eaten,) = tmp_path.iterdir()
    assert 100 < int(eaten.name) <= 200
    assert before["pid"] == greedy["pid"] != after["pid"]


def test_the_process_ends_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, pyarrow as pa, tests.features.test_sandbox as t; from pathlib import Path\n"
        f"guarded = t.GuardedPreparer(t.Poisoned(Path({str(tmp_path)!r})), t.LIMITS, ['row_id'], t.ADDED)\n"
        "print(t.prepare(guarded, 'nothing')[0]['pid'], flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    pid = int(parent.communicate(timeout=60)[0])
    assert parent.returncode == -9
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


def test_a_process_that_dies_as_it_starts_costs_nothing(guarded: GuardedPreparer, tmp_path: Path) -> None:
    def kill_first() -> None:
        while not (children := guards()):
            time.sleep(0.001)
        children[0].kill()

    killer = threading.Thread(target=kill_first)
    killer.start()
    (row,) = prepare(guarded, "nothing")
    killer.join()
    assert row["status"] is None


def test_a_process_that_cannot_start_is_no_fault_of_a_call(guarded: GuardedPreparer) -> None:
    guarded.task = b"no pickle"
    with pytest.raises(ChildProcessError, match=r"did not start \(1\)"):
        prepare(guarded, "nothing")


def test_limits_that_make_no_sense_are_refused() -> None:
    for seconds in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="max_prepare_sec"):
            GuardConfig(max_prepare_sec=seconds)
    with pytest.raises(ValueError, match="max_prepare_bytes is 0"):
        GuardConfig(max_prepare_bytes=0)
