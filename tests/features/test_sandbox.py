"""Calls that crash, hang or exhaust the memory of the real sandbox process that prepares them."""

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
from msmtfn.features.sandbox import UNSETTLED, SandboxConfig, SandboxedPreparer, end_children

ADDED = pa.schema(
    [
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("pid", pa.int64()),
        ("samples", pa.large_list(pa.int16())),
    ]
)
pa.array([0])  # pyarrow imports pandas at the first array: in the child as it starts, not within the time limit
LIMITS = SandboxConfig(max_prepare_sec=2.0, max_prepare_bytes=200 * 2**20)
MEGABYTE = 2**20


class MisbehavingPreparer:
    """Preparer that does with each call what its column `deed` says."""

    def __init__(self, marks: Path) -> None:
        self.marks = marks

    def prepare_batch(self, batch: pa.Table, passthrough: Sequence[str]) -> pa.Table:
        (row,) = batch.to_pylist()
        try:
            code = getattr(self, row["deed"])()
        except CallError as error:
            code = str(error.code)
        added = {"status": "rejected" if code else None, "error_code": code, "error_detail": None, "pid": os.getpid()}
        columns = [pa.array([added.get(field.name, [1, 2])], field.type) for field in ADDED]
        return pa.table([*batch.select(passthrough).columns, *columns], [*passthrough, *ADDED.names])

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
        ctypes.PyDLL(None).sleep(600)  # holds the GIL, so that no Python thread or signal handler runs

    def exhausts_memory(self) -> str | None:
        allocated: list[bytes] = []
        try:
            while len(allocated) < 2000:
                allocated.append(b"x" * MEGABYTE)
        except MemoryError:
            (self.marks / str(len(allocated))).touch()
            return str(RejectCode.AUDIO_OUT_OF_MEMORY)
        return None


@pytest.fixture
def sandboxed(tmp_path: Path) -> Iterator[SandboxedPreparer]:
    yield SandboxedPreparer(MisbehavingPreparer(tmp_path), LIMITS, ["row_id"], ADDED)
    end_children()
    assert not sandbox_processes()


def sandbox_processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "msmtfn.features.sandbox_child" in child.cmdline()]


def prepare(sandboxed: SandboxedPreparer, *deeds: str) -> list[dict[str, Any]]:
    rows = sandboxed.prepare_batch(pa.table({"row_id": range(len(deeds)), "deed": deeds}))
    assert rows.schema.names == ["row_id", *ADDED.names]
    assert rows["row_id"].to_pylist() == list(range(len(deeds)))
    result: list[dict[str, Any]] = rows.to_pylist()
    return result


def test_calls_are_prepared_in_one_child_process(sandboxed: SandboxedPreparer) -> None:
    rows = prepare(sandboxed, "nothing", "nothing") + prepare(sandboxed, "nothing")
    assert [row["samples"] for row in rows] == [[1, 2]] * 3
    assert len({row["pid"] for row in rows}) == 1
    assert rows[0]["pid"] != os.getpid()


def test_a_call_that_crashes_its_process_is_tried_twice_and_then_unsettled(
    sandboxed: SandboxedPreparer, tmp_path: Path
) -> None:
    before, crashing, after = prepare(sandboxed, "nothing", "exits", "nothing")
    assert (crashing["status"], crashing["error_code"], crashing["samples"]) == (UNSETTLED, "worker_crashed", [])
    assert len(list(tmp_path.iterdir())) == 2
    assert before["status"] is after["status"] is None


def test_a_call_whose_process_dies_once_is_prepared(sandboxed: SandboxedPreparer) -> None:
    assert [row["status"] for row in prepare(sandboxed, "exits_once", "nothing")] == [None, None]


@pytest.mark.parametrize("deed", ["loops", "hangs_in_c"])
def test_a_call_that_hangs_is_rejected_after_the_time_limit(
    sandboxed: SandboxedPreparer, deed: str, capfd: Any
) -> None:
    prepare(sandboxed, "nothing")
    started = time.monotonic()
    hanging, after = prepare(sandboxed, deed, "nothing")
    assert 2.0 <= time.monotonic() - started < 30
    assert (hanging["status"], hanging["error_code"]) == ("rejected", "audio_timeout")
    assert hanging["error_detail"] == "not prepared within 2 s (--max-prepare-sec)"
    assert after["status"] is None
    assert f"in {deed}" in capfd.readouterr().err  # where it hung


def test_a_call_that_exceeds_the_memory_limit_is_rejected_and_the_next_gets_a_new_process(
    sandboxed: SandboxedPreparer, tmp_path: Path
) -> None:
    before, greedy, after = prepare(sandboxed, "nothing", "exhausts_memory", "nothing")
    assert greedy["error_code"] == "audio_out_of_memory"
    (allocated,) = tmp_path.iterdir()
    assert 100 < int(allocated.name) <= 200
    assert before["pid"] == greedy["pid"] != after["pid"]


def test_the_child_exits_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, pyarrow as pa, tests.features.test_sandbox as t; from pathlib import Path\n"
        f"preparer = t.MisbehavingPreparer(Path({str(tmp_path)!r}))\n"
        "sandboxed = t.SandboxedPreparer(preparer, t.LIMITS, ['row_id'], t.ADDED)\n"
        "print(t.prepare(sandboxed, 'nothing')[0]['pid'], flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    pid = int(parent.communicate(timeout=60)[0])
    assert parent.returncode == -9
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


def test_a_child_that_dies_while_starting_is_replaced(sandboxed: SandboxedPreparer, tmp_path: Path) -> None:
    def kill_first() -> None:
        while not (children := sandbox_processes()):
            time.sleep(0.001)
        children[0].kill()

    killer = threading.Thread(target=kill_first)
    killer.start()
    (row,) = prepare(sandboxed, "nothing")
    killer.join()
    assert row["status"] is None


def test_a_child_that_cannot_start_raises_and_rejects_no_call(sandboxed: SandboxedPreparer) -> None:
    sandboxed.task = b"no pickle"
    with pytest.raises(ChildProcessError, match=r"did not start \(1\)"):
        prepare(sandboxed, "nothing")


def test_invalid_limits_are_refused() -> None:
    for seconds in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="max_prepare_sec"):
            SandboxConfig(max_prepare_sec=seconds)
    with pytest.raises(ValueError, match="max_prepare_bytes is 0"):
        SandboxConfig(max_prepare_bytes=0)
