"""Child process of the sandbox, in which calls are prepared one at a time.

It exits when its parent is gone. If a call takes too long, a C thread of `faulthandler`, which needs neither the
interpreter nor the parent, writes the stack to stderr, to show where the call hung, and exits the process.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import pickle
import sys
from multiprocessing.connection import Connection

from msmtfn.calls.memory import limited_memory
from msmtfn.errors import RejectCode
from msmtfn.features.sandbox import BatchPreparer, SandboxConfig, table_from_bytes, table_to_bytes


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


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    serve(Connection(int(sys.argv[1])))
