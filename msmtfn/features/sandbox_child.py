"""The process in which calls are prepared one at a time, and which may die of one: the other side of `guard`.

It ends when its parent is gone. A call that takes too long ends it from a thread of C, which needs neither the
interpreter nor the parent, and leaves the stack on stderr: it tells where the call hung.
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
from msmtfn.features.sandbox import BatchPreparer, GuardConfig, table_from_bytes, table_to_bytes

PROCESS_STATUS: Final = Path("/proc/self/status")


def serve(connection: Connection) -> None:
    """Prepare the calls that come, until no more can come."""
    with contextlib.suppress(EOFError, ConnectionError):
        preparer: BatchPreparer
        config: GuardConfig
        preparer, passed, config = pickle.loads(connection.recv_bytes())  # noqa: S301 - from our parent
        connection.send_bytes(b"")
        while True:
            row = table_from_bytes(connection.recv_bytes())
            faulthandler.dump_traceback_later(config.max_prepare_sec, exit=True)
            with limited_memory(config.max_prepare_bytes):
                prepared = preparer.prepare_batch(row, passed)
            faulthandler.cancel_dump_traceback_later()
            connection.send_bytes(table_to_bytes(prepared))
            if prepared["error_code"][0].as_py() == RejectCode.AUDIO_OUT_OF_MEMORY:
                return  # what is left of the memory would be the next call's trouble


@contextlib.contextmanager
def limited_memory(num_bytes: int) -> Iterator[None]:
    """Let this process have so much more memory than it has; a request for more fails as one without memory does."""
    if not PROCESS_STATUS.exists():
        yield
        return
    import resource  # noqa: PLC0415 - there is none on Windows

    # Of the data, not of the address space, in which shared and reserved memory counts.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    found = re.search(r"^VmData:\s+(\d+) kB$", PROCESS_STATUS.read_text(encoding="utf-8"), re.MULTILINE)
    limit = num_bytes + (int(found[1]) * 1024 if found else 0)
    limits = [each for each in (limit, soft, hard) if each != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(Connection(int(sys.argv[1])))
