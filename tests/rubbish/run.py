"""A day of malformed input for the job: `python -m tests.rubbish.run --seed 0 --recordings 2000 --rows 500`.

Writes mutated recordings and manifest rows, prepares them in a process whose file accesses are recorded, then runs
`score_daily.py` on the same day, and checks whether the outcome of every row is an allowed one.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import tyro
from rich.console import Console
from rich.table import Table
from transformers import BertTokenizer

from msmtfn.model.checkpoint import save_model
from tests.conftest import TINY_VOCABULARY, make_tiny_network
from tests.integration.job import DATE, ROOT, read_day
from tests.rubbish.prepare import BEGIN, END, MAX_DURATION_SEC
from tests.rubbish.recordings import base_recordings, write_recordings
from tests.rubbish.rows import CUSTOMER, FINE, GOOD_URI, SCHEMA, TRANSCRIPT, as_tables, make_rows, turn

TRACED: Final = (
    "open,openat,openat2,creat,execve,execveat,connect,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,rmdir,"
    "link,linkat,symlink,symlinkat,truncate,chmod,fchmodat,mknod,mknodat"
)
OPENED_BY_LIBC: Final = {"/sys/devices/system/cpu/online"}
"""Files that glibc reads when a thread first allocates memory."""

PREPARE_SEC: Final = 3600.0
JOB_SEC: Final = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Write a day of malformed input and check the outcome of every row."""

    seed: int = 0
    """Random seed."""
    recordings: int = 2000
    """Number of recordings that are mutated, have false headers or odd names."""
    rows: int = 500
    """Number of mutated manifest rows."""
    job: bool = True
    """Run the whole job too, not only the preparation."""


@dataclass(slots=True)
class Report:
    """The outcomes of a day of malformed input.

    Attributes:
        planted: number of rows.
        outcomes: outcome of the preparation by row.
        kinds: description of the fault by row.
        wrong: problems, in words.
        figures: figures of the runs.
    """

    planted: int
    outcomes: dict[int, str]
    kinds: dict[int, str]
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def run_rubbish(options: Options, folder: Path) -> Report:
    """Write the day to a folder, prepare it, score it and compare the outcomes."""
    root, outside = folder / "manifests", folder / "outside" / "secret.wav"
    with _server() as (address, requested):
        kinds, allowed = _plant(options, root, outside, address)
        model = folder / "model"
        tokenizer = BertTokenizer(vocab={token: number for number, token in enumerate(TINY_VOCABULARY)})
        save_model(make_tiny_network(), tokenizer, model, "# Tiny\n")
        before = _snapshot(folder)
        report = Report(len(kinds), {}, kinds)
        _prepare(report, root, model, folder)
        for number, outcome in report.outcomes.items():
            if outcome not in allowed[number]:
                report.wrong.append(
                    f"{kinds[number]} (row {number}) became {outcome}, not one of {sorted(allowed[number])}"
                )
        if sorted(report.outcomes) != sorted(kinds):
            report.wrong.append(f"{len(kinds)} rows were planted, but the preparation returned {len(report.outcomes)}")
        if options.job:
            _score(report, root, model, folder / "leads")
        after = _snapshot(folder)
        changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        report.wrong += [f"{path} was changed" for path in changed]
        report.wrong += [f"the server received a request for {path}" for path in requested]
    return report


def _plant(
    options: Options, root: Path, outside: Path, address: str
) -> tuple[dict[int, str], dict[int, frozenset[str]]]:
    """Write the day; return the kind and the allowed outcomes of every row."""
    day = root / f"date={DATE}"
    day.mkdir(parents=True)
    outside.parent.mkdir()
    good = base_recordings()["wav"]
    for path in (outside, root / GOOD_URI):
        path.write_bytes(good)
    recordings = write_recordings(root, outside, address, options.recordings, options.seed)
    rows = make_rows(options.rows, options.seed)
    common: dict[str, Any] = {"uri": GOOD_URI, "customer_id": CUSTOMER, "turns": [turn()]}
    tables = [[{**common, "planted": 0, "call_id": "good"}], []]
    kinds, allowed = {0: "a good call"}, {0: FINE}
    for number, recording in enumerate(recordings, start=1):
        tables[0].append({**common, "planted": number, "call_id": f"recording-{number}", "uri": recording.uri})
        kinds[number], allowed[number] = recording.kind, recording.outcomes
    for number, row in enumerate(rows, start=len(kinds)):
        tables[1].append({**common, "planted": number, "call_id": f"row-{number}", **row.values})
        kinds[number], allowed[number] = row.kind, row.outcomes
    for index, table in enumerate([pa.Table.from_pylist(tables[0], schema=SCHEMA), *as_tables(tables[1])]):
        pq.write_table(table, day / f"part-{index}.parquet")
    return kinds, allowed


def _prepare(report: Report, root: Path, model: Path, folder: Path) -> None:
    """Prepare the day in a separate process, under strace if it works."""
    with tempfile.TemporaryDirectory(prefix="rubbish-") as scratch:
        result, trace = Path(scratch) / "result.json", Path(scratch) / "trace"
        command = [sys.executable, "-m", "tests.rubbish.prepare", str(root), str(model), str(result)]
        traced = _strace_works()
        if traced:
            command = ["strace", "-f", "-qq", "-xx", "-s", "8192", "-e", f"trace={TRACED}", "-o", str(trace), *command]
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_EC2_METADATA_DISABLED": "0",
        }
        child = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=PREPARE_SEC, check=False
        )
        if child.returncode or not result.exists():
            report.wrong.append(f"the preparation ended with exit code {child.returncode}: {child.stderr[-3000:]}")
            return
        content = json.loads(result.read_text())
        report.outcomes = dict(content["outcomes"])
        if len(report.outcomes) != len(content["outcomes"]):
            report.wrong.append("the preparation returned a row twice")
        opened = [("open", path) for path in _traced_files(trace)] if traced else []
        report.wrong += [
            f"{event}: {target}"
            for event, target in [*content["events"], *opened]
            if not _is_allowed(event, target, root)
        ]
        report.figures |= {name: content[name] for name in ("seconds", "slowest_batch_sec", "peak_mb")}
        report.figures |= {"opened": len(content["events"]), "opened_by_strace": len(opened) if traced else None}
    _check_log(report, child.stderr, "preparation")


def _is_allowed(event: str, target: str, root: Path) -> bool:
    """Return whether the event opens a file below the root, and not through a symbolic link."""
    if event == "open" and target in OPENED_BY_LIBC:
        return True
    return event == "open" and Path(target).is_relative_to(root) and os.path.realpath(target) == target


def _strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, check=False).returncode == 0
    )


def _traced_files(trace: Path) -> Iterator[str]:
    """Yield the path of every file opened for reading during the preparation, and the trace line of any other call."""
    begin, end = ("".join(f"\\x{byte:02x}" for byte in marker.encode()) for marker in (BEGIN, END))
    lines = trace.read_text().partition(f'"{begin}"')[2].partition(f'"{end}"')[0]
    for line in lines.splitlines()[1:-1]:
        call = re.search(r'^\d+ +(open|openat)\([^"]*"((?:\\x[0-9a-f]{2})*)", ([A-Z_|]+)', line)
        if " = -1 " in line or (line.endswith("<unfinished ...>") and call is None):
            continue
        if call is None or any(flag in call[3] for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC")):
            if "exited with" not in line and "+++" not in line and "resumed>" not in line:
                yield line
            continue
        yield os.fsdecode(bytes.fromhex(call[2].replace("\\x", "")))


def _score(report: Report, root: Path, model: Path, leads: Path) -> None:
    """Run the job, and check that every row is in the leads once with the outcome of its preparation."""
    command = [sys.executable, str(ROOT / "jobs" / "score_daily.py"), "--date", str(DATE), "--manifests", str(root)]
    command += ["--leads", str(leads), "--model", str(model), "--max-rejected-share", "1"]
    command += ["--max-duration-sec", str(MAX_DURATION_SEC)]
    environment = {**os.environ, "RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    job = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=JOB_SEC, check=False
    )
    report.figures["job_seconds"] = round(time.monotonic() - started, 1)
    _check_log(report, job.stdout + job.stderr, "job")
    if job.returncode:
        report.wrong.append(f"the job ended with exit code {job.returncode}: {job.stderr[-3000:]}")
        return
    success, rows = read_day(leads)
    outcomes = {row["planted"]: row["error_code"] or row["status"] for row in rows}
    if len(rows) != report.planted or outcomes.keys() != report.kinds.keys():
        report.wrong.append(
            f"{report.planted} rows were planted, but the leads have {len(rows)}, of which {len(outcomes)} are distinct"
        )
    for number, outcome in outcomes.items():
        if outcome != report.outcomes.get(number):
            report.wrong.append(
                f"{report.kinds[number]} (row {number}) is {outcome} in the leads, "
                f"but was {report.outcomes.get(number)} after the preparation"
            )
    report.figures |= {"scored": success["scored"], "rejected": success["rejected_by_reason"]}


def _check_log(report: Report, log: str, name: str) -> None:
    report.wrong += [f"the log of the {name} contains '{secret}'" for secret in (TRANSCRIPT, CUSTOMER) if secret in log]


def _snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and modification time of everything in a folder except the leads."""
    entries = {}
    for parent, folders, files in os.walk(folder):
        if parent == str(folder) and "leads" in folders:
            folders.remove("leads")
        for name in [*folders, *files]:
            path = os.path.join(parent, name)  # noqa: PTH118 - pathlib would normalise the odd names
            status = os.lstat(path)
            is_folder = Path(path).is_dir()
            entries[path] = (status.st_mode, 0 if is_folder else status.st_size, 0 if is_folder else status.st_mtime_ns)
    return entries


@contextlib.contextmanager
def _server() -> Iterator[tuple[str, list[str]]]:
    """Run a server that must receive no request; yield its address and the paths requested from it."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", requested
        server.shutdown()


def table_of(report: Report) -> Table:
    """Count the outcomes of every kind of fault in a table."""
    table = Table(title=f"{report.planted} rows", title_justify="left")
    outcomes = sorted(set(report.outcomes.values()))
    for heading in ("what was planted", *outcomes):
        table.add_column(heading, justify="left" if heading.startswith("what") else "right")
    by_kind: dict[str, Counter[str]] = {}
    for number, outcome in report.outcomes.items():
        kind = report.kinds[number].partition(":")[0]
        by_kind.setdefault(kind, Counter())[outcome] += 1
    for kind, counts in by_kind.items():
        table.add_row(kind, *(str(counts[outcome]) for outcome in outcomes))
    return table


def main() -> int:
    """Run the check and return the exit code, 1 if anything is wrong."""
    options, console = tyro.cli(Options), Console(width=160)
    with tempfile.TemporaryDirectory(prefix="msmtfn-rubbish-") as folder:
        report = run_rubbish(options, Path(os.path.realpath(folder)))
    console.print(table_of(report))
    console.print(report.figures)
    for line in report.wrong[:100]:
        console.print(f"wrong: {line}", markup=False, highlight=False)
    console.print(f"{len(report.wrong)} problems")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
