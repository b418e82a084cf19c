"""Prepare a day of malformed input in this process and record everything it opens: `python -m tests.rubbish.prepare`.

Python's audit events report what Python opens, connects to, starts and removes. What native libraries do is visible to
strace only, under which `run` starts this module if strace works.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from msmtfn.calls.audio import AudioConfig
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.model.checkpoint import load_model
from tests.integration.job import DATE
from tests.rubbish.recordings import base_recordings
from tests.rubbish.rows import turn

BATCH_CALLS: Final = 16
HANG_SEC: Final = 240.0
"""Time limit of a batch: if it takes longer, its traceback is printed and the process exits."""

MAX_DURATION_SEC: Final = 600.0
BEGIN, END = "/rubbish-begins", "/rubbish-ends"
"""Paths of files that do not exist: attempts to open them mark the start and end of the preparation for strace."""

WATCHED: Final = (
    *("open", "os.listdir", "os.scandir", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "os.link"),
    *("os.symlink", "os.chmod", "os.chown", "os.utime", "os.exec", "os.posix_spawn", "os.fork", "os.system"),
    *("subprocess.Popen", "socket.connect", "socket.sendto", "socket.bind", "socket.getaddrinfo", "pickle.find_class"),
)


def main() -> None:
    """Prepare the manifest below a root folder; write outcomes, events and figures to a JSON file."""
    root, model_folder, result = sys.argv[1:]
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    for name in ("numba", "torch", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    manifest = open_manifest(root, DATE)
    batches = [
        pa.Table.from_batches([batch]).slice(start, BATCH_CALLS)
        for batch in iter_calls(manifest)
        for start in range(0, len(batch), BATCH_CALLS)
    ]
    model = load_model(Path(model_folder))
    config = PrepareConfig(audio=AudioConfig(max_duration_sec=MAX_DURATION_SEC))
    preparer = Preparer(config, model.processor, manifest.root)
    _warm_up(preparer, batches[0].schema, Path(root))
    events: list[tuple[str, str]] = []
    outcomes: list[tuple[int, str]] = []
    slowest = 0.0
    _mark(BEGIN)
    sys.addaudithook(lambda event, arguments: _record(events, event, arguments))
    started = time.monotonic()
    for batch in batches:
        faulthandler.dump_traceback_later(HANG_SEC, exit=True)
        before = time.monotonic()
        prepared = preparer.prepare_batch(batch, ["planted"])
        slowest = max(slowest, time.monotonic() - before)
        codes = prepared["error_code"].to_pylist()
        outcomes += zip(prepared["planted"].to_pylist(), (code or "scored" for code in codes), strict=True)
    faulthandler.cancel_dump_traceback_later()
    seconds, recorded = time.monotonic() - started, list(events)
    _mark(END)
    Path(result).write_text(
        json.dumps(
            {
                "outcomes": outcomes,
                "events": recorded,
                "seconds": round(seconds, 1),
                "slowest_batch_sec": round(slowest, 1),
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


def _warm_up(preparer: Preparer, schema: pa.Schema, root: Path) -> None:
    """Prepare a good recording of every format, so that libraries have loaded what they load on first use."""
    folder = root / "warm"
    folder.mkdir()
    rows = []
    for number, (name, data) in enumerate(base_recordings().items()):
        path = folder / f"{number}.{name}"
        path.write_bytes(data)
        rows.append({"row_id": number, "call_id": str(number), "uri": str(path), "turns": [turn()]})
    preparer.prepare_batch(pa.Table.from_pylist(rows, schema=schema), ["row_id"])
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _mark(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.close(os.open(name, os.O_RDONLY))


def _record(events: list[tuple[str, str]], event: str, arguments: tuple[Any, ...]) -> None:
    if event in WATCHED and not (event == "open" and isinstance(arguments[0], int)):
        events.append((event, os.fsdecode(arguments[0]) if event == "open" else repr(arguments)))


if __name__ == "__main__":
    main()
