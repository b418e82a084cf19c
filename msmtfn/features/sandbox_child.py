"""Child process of the sandbox, in which calls are prepared one at a time.

It exits when its parent is gone. If a call takes too long, a C thread of `faulthandler`, which needs neither the
interpreter nor the parent, writes the stack to stderr, to show where the call hung, and exits the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import pickle
import re
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from msmtfn.errors import RejectCode
from msmtfn.features.sandbox import BatchPreparer, SandboxConfig, table_from_bytes, table_to_bytes

PROCESS_STATUS: Final = Path("/proc/self/status")


def serve(connection: Connection) -> None:
    """Prepare the calls received from the parent until it closes the connection."""
    with contextlib.suppress(EOFError, ConnectionError):
        preparer: BatchPreparer
        config: SandboxConfig
        preparer, passthrough, config = pickle.loads(connection.recv_bytes())  # noqa: S301 - from our parent
        connection.send_bytes(b"")
        while True:
            row = table_from_bytes(connection.recv_bytes())
            faulthandler.dump_traceback_later(config.max_prepare_sec, exit=True)
            with limited_memory(config.max_prepare_bytes):
                prepared = preparer.prepare_batch(row, passthrough)
            faulthandler.cancel_dump_traceback_later()
            connection.send_bytes(table_to_bytes(prepared))
            if prepared["error_code"][0].as_py() == RejectCode.AUDIO_OUT_OF_MEMORY:
                return  # the next call gets a fresh process, with all memory released


@contextlib.contextmanager
def limited_memory(num_bytes: int) -> Iterator[None]:
    """Limit the memory that this process may allocate in addition; beyond it, allocations fail as if out of memory."""
    if not PROCESS_STATUS.exists():
        yield
        return
    import resource  # noqa: PLC0415 - does not exist on Windows

    # RLIMIT_DATA rather than RLIMIT_AS, since the address space includes shared and merely reserved memory.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    found = re.search(r"^VmData:\s+(\d+) kB$", PROCESS_STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    limit = num_bytes + (int(found[1]) * 1024 if found else 0)
    limits = [value for value in (limit, soft, hard) if value != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(Connection(int(sys.argv[1])))
