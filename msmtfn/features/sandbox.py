"""Sandbox for the preparation of calls: a child process that may crash, hang or run out of memory.

A decoder may crash, use up all memory or never return; while it hangs in C code, neither an exception nor a signal
handler can interrupt it. So each Ray worker sends its calls, one at a time, to a child process of its own
(`sandbox_child`), waits for as long as a call may take, and kills the child if it must. A call that takes too long is
rejected at once; a call whose child died is tried once more, since something else may have killed the child.

The Ray workers import little more than this module: only the child needs the network's libraries.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path
from typing import Final, Protocol

import pyarrow as pa

from msmtfn.errors import RejectCode, require
from msmtfn.leads.schema import REJECTED
from msmtfn.rows import ROW_ID

logger = logging.getLogger(__name__)

UNSETTLED: Final = "unsettled"
"""Status of a call without a verdict: another attempt, in another process or at another time, may settle it."""

MAX_ATTEMPTS: Final = 2
"""Number of times a call is tried whose child process dies."""

START_TIMEOUT_SEC: Final = 300.0
"""Seconds a child may take to start: it imports the network's libraries, on a machine that may be busy."""

GRACE_SEC: Final = 5.0
"""Seconds the parent waits beyond the time limit, so that the child, which enforces it too, can exit by itself."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxConfig:
    """Limits on preparing one call."""

    max_prepare_sec: float = 600.0
    """Maximum seconds to fetch, decode and cut one call; a call that takes longer is rejected."""
    max_prepare_bytes: int = 8 * 2**30
    """Maximum memory to prepare one call, in bytes; a call that needs more is rejected. Enforced on Linux only."""

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: a limit is out of range.
        """
        seconds = self.max_prepare_sec
        require(0 < seconds < math.inf, "max_prepare_sec", seconds, "more than 0, and finite")
        require(self.max_prepare_bytes >= 1, "max_prepare_bytes", self.max_prepare_bytes, "at least 1")


class BatchPreparer(Protocol):
    """Object that prepares batches of calls; it is sent to the child as a pickle."""

    def prepare_batch(self, batch: pa.Table, passthrough: Sequence[str]) -> pa.Table:
        """Return the pass-through columns `passthrough` of a batch together with the columns of the prepared calls."""


class SandboxedPreparer:
    """Preparer that runs another preparer in a sandbox, a child process that may die."""

    def __init__(
        self, preparer: BatchPreparer, config: SandboxConfig, passthrough: Sequence[str], prepared: pa.Schema
    ) -> None:
        """Wrap a preparer.

        Args:
            preparer: the preparer to run in the sandbox.
            config: limits on preparing one call.
            passthrough: names of the pass-through columns.
            prepared: schema of the columns that the preparer adds.
        """
        self.config = config
        self.passthrough = list(passthrough)
        self.prepared = prepared
        self.task = pickle.dumps((preparer, self.passthrough, config))
        self.key = hashlib.sha256(self.task).digest()

    def prepare_batch(self, batch: pa.Table) -> pa.Table:
        """Prepare calls.

        Args:
            batch: rows of the manifest.

        Returns:
            One row per row of the batch, in order. `status` is `UNSETTLED` where another attempt may help.

        Raises:
            ChildProcessError: no child process could be started.
        """
        with _lock:
            rows = [self._prepare_row(batch.slice(index, 1)) for index in range(len(batch))]
        return pa.concat_tables(rows)

    def _prepare_row(self, row: pa.Table) -> pa.Table:
        for _ in range(MAX_ATTEMPTS):
            child = _child_for(self)
            try:
                return child.prepare(row, self.config.max_prepare_sec)
            except TimeoutError:
                logger.warning("row %d: took longer than %g s", row[ROW_ID][0].as_py(), self.config.max_prepare_sec)
                detail = f"not prepared within {self.config.max_prepare_sec:g} s (--max-prepare-sec)"
                return self._without_result(row, REJECTED, RejectCode.AUDIO_TIMEOUT, detail)
            except EOFError as exc:
                logger.warning("row %d: %s", row[ROW_ID][0].as_py(), exc)
        return self._without_result(row, UNSETTLED, RejectCode.WORKER_CRASHED, "")

    def _without_result(self, row: pa.Table, status: str, code: RejectCode, detail: str) -> pa.Table:
        verdict = {"status": status, "error_code": str(code), "error_detail": detail}
        passthrough = row.select(self.passthrough)
        columns = [
            pa.array([[] if _is_list(field.type) and field.name != "rounds" else verdict.get(field.name)], field.type)
            for field in self.prepared
        ]
        return pa.table([*passthrough.columns, *columns], schema=pa.schema([*passthrough.schema, *self.prepared]))


class _Child:
    """Child process that serves one sandboxed preparer."""

    def __init__(self, preparer: SandboxedPreparer) -> None:
        self.key = preparer.key
        self.connection, child_end = Pipe()
        with child_end:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [
                    sys.executable,
                    "-P",
                    "-X",
                    "faulthandler",
                    "-m",
                    "msmtfn.features.sandbox_child",
                    str(child_end.fileno()),
                ],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
                stdin=subprocess.DEVNULL,
                pass_fds=[child_end.fileno()],
            )
        try:
            self.connection.send_bytes(preparer.task)
            is_ready = self.connection.poll(START_TIMEOUT_SEC) and self.connection.recv_bytes() is not None
        except (EOFError, OSError):
            is_ready = False
        if not is_ready:
            self.end()
            raise ChildProcessError(
                f"the process that prepares calls did not start ({self.process.returncode}); its log has the cause"
            )

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def prepare(self, row: pa.Table, limit_sec: float) -> pa.Table:
        """Prepare one row in the child.

        Raises:
            TimeoutError: the call took too long, and the child was killed.
            EOFError: the child died.
        """
        started = time.monotonic()
        try:
            self.connection.send_bytes(table_to_bytes(row))
            if self.connection.poll(limit_sec + GRACE_SEC):
                return table_from_bytes(self.connection.recv_bytes())
        except (EOFError, OSError):
            pass
        self.end()
        if time.monotonic() - started >= limit_sec:
            raise TimeoutError
        raise EOFError(f"the process that prepared the call died ({self.process.returncode})")

    def end(self) -> None:
        """Close the connection and kill the process unless it exits by itself."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)  # it may be exiting already, and its own exit code says more than that of a kill
            return
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it may hang in the kernel, on a dead mount
            self.process.wait(GRACE_SEC)


# Ray unpickles a new copy of the preparer for every task but reuses the worker process, so the child is kept here, by
# the key of its preparer. At most one is kept.
_children: dict[bytes, _Child] = {}
_lock = threading.Lock()


def _child_for(preparer: SandboxedPreparer) -> _Child:
    """Return a living child of this process that serves a preparer, starting one if necessary."""
    child = _children.get(preparer.key)
    if child is None or not child.is_alive:
        end_children()
        child = _children[preparer.key] = _start_child(preparer)
    return child


def _start_child(preparer: SandboxedPreparer) -> _Child:
    """Start a child, with a second attempt if the first one dies while starting."""
    try:
        return _Child(preparer)
    except ChildProcessError as exc:
        logger.warning("%s; starting another one", exc)
        return _Child(preparer)


@atexit.register
def end_children() -> None:
    """End the child processes of this process."""
    while _children:
        _children.popitem()[1].end()


def table_to_bytes(table: pa.Table) -> pa.Buffer:
    """Serialise a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table_from_bytes(data: bytes | pa.Buffer) -> pa.Table:
    """Read the table of an Arrow stream without copying."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def _is_list(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_list(data_type) or pa.types.is_large_list(data_type))
