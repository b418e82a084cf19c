"""Keep what one recording does to its process away from the others: it is prepared in a process that may be ended.

A decoder may crash, eat all memory or never return, and against the last neither an exception nor a signal handler
helps where it stands in C code. So the engine's worker hands its calls, one at a time, to a child of its own
(`guarded`), waits as long as a call may take, and ends the child where it must. A call that never returns is rejected
the first time; one whose child died is tried once more, for the death may have come from elsewhere.

The engine's workers import this module and little else: the network's libraries are the child's.
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

from msmtfn.errors import RejectCode
from msmtfn.leads.schema import REJECTED
from msmtfn.rows import ROW_ID

logger = logging.getLogger(__name__)

UNSETTLED: Final = "unsettled"
"""Status of a call of which nothing is known yet: another try, in another process or at another time, may tell."""

TRIES: Final = 2
START_SEC: Final = 300.0
"""A child imports the network's libraries first, on a machine that may be busy."""

GRACE_SEC: Final = 5.0
"""How much later than the child itself, which may be past all help, its parent ends a call that takes too long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardConfig:
    """What the preparation of one call may cost."""

    max_prepare_sec: float = 600.0
    """Seconds to fetch, decode and cut one call; more reject it."""
    max_prepare_bytes: int = 8 * 2**30
    """Memory to prepare one call, in bytes; more reject it. Held on Linux only."""

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: one is out of range.
        """
        if not 0 < self.max_prepare_sec < math.inf:
            raise ValueError(f"max_prepare_sec is {self.max_prepare_sec}; give a number of seconds above 0")
        if self.max_prepare_bytes < 1:
            raise ValueError(f"max_prepare_bytes is {self.max_prepare_bytes}; give a number of bytes, 1 or more")


class BatchPreparer(Protocol):
    """Prepares batches of calls; goes to the child as a pickle."""

    def prepare_batch(self, batch: pa.Table, passed: Sequence[str]) -> pa.Table:
        """Add the columns of the prepared calls to those that pass through."""


class GuardedPreparer:
    """Prepares batches of calls as another preparer does, in a process that may die of them."""

    def __init__(
        self, preparer: BatchPreparer, config: GuardConfig, passed: Sequence[str], prepared: pa.Schema
    ) -> None:
        """Wrap a preparer.

        Args:
            preparer: does the work.
            config: what a call may cost.
            passed: the columns that pass through.
            prepared: the columns that the preparer adds.
        """
        self.config = config
        self.passed = list(passed)
        self.prepared = prepared
        self.task = pickle.dumps((preparer, self.passed, config))
        self.key = hashlib.sha256(self.task).digest()

    def prepare_batch(self, batch: pa.Table) -> pa.Table:
        """Prepare calls.

        Args:
            batch: rows of the manifest.

        Returns:
            One row for each row of the batch, in order. `status` is `UNSETTLED` where another try may help.

        Raises:
            ChildProcessError: no child could be started.
        """
        with _lock:
            rows = [self._prepare_row(batch.slice(index, 1)) for index in range(len(batch))]
        return pa.concat_tables(rows)

    def _prepare_row(self, row: pa.Table) -> pa.Table:
        for _ in range(TRIES):
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
        said = {"status": status, "error_code": str(code), "error_detail": detail}
        passed = row.select(self.passed)
        columns = [
            pa.array([[] if _is_list(field.type) and field.name != "rounds" else said.get(field.name)], field.type)
            for field in self.prepared
        ]
        return pa.table([*passed.columns, *columns], schema=pa.schema([*passed.schema, *self.prepared]))


class _Child:
    """One child process; it serves one guarded preparer."""

    def __init__(self, guarded: GuardedPreparer) -> None:
        self.key = guarded.key
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                [
                    sys.executable,
                    "-P",
                    "-X",
                    "faulthandler",
                    "-m",
                    "msmtfn.features.sandbox_child",
                    str(theirs.fileno()),
                ],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        try:
            self.connection.send_bytes(guarded.task)
            is_ready = self.connection.poll(START_SEC) and self.connection.recv_bytes() is not None
        except (EOFError, OSError):
            is_ready = False
        if not is_ready:
            self.end()
            raise ChildProcessError(
                f"the process that prepares calls did not start ({self.process.returncode}); its log says why"
            )

    @property
    def is_alive(self) -> bool:
        return self.process.poll() is None

    def prepare(self, row: pa.Table, limit_sec: float) -> pa.Table:
        """Have one row prepared.

        Raises:
            TimeoutError: that took too long; the child is ended.
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
        """Kill the process, if it has not ended."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)  # it may be on its way out, and its own exit code tells more
            return
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, on a dead mount
            self.process.wait(GRACE_SEC)


# The engine makes a new copy of the preparer for each of its tasks, but keeps the process.
_children: list[_Child] = []
_lock = threading.Lock()


def _child_for(guarded: GuardedPreparer) -> _Child:
    """The living child of this process that serves a guarded preparer; one at a time is kept."""
    for child in _children:
        if child.key == guarded.key and child.is_alive:
            return child
    end_children()
    for tries_left in reversed(range(TRIES)):
        try:
            _children.append(_Child(guarded))
            break
        except ChildProcessError as exc:
            if not tries_left:
                raise
            logger.warning("%s", exc)
    return _children[0]


@atexit.register
def end_children() -> None:
    """End the child processes of this one."""
    while _children:
        _children.pop().end()


def table_to_bytes(table: pa.Table) -> pa.Buffer:
    """A table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def table_from_bytes(data: bytes | pa.Buffer) -> pa.Table:
    """The table of an Arrow stream, without a copy."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
