"""A day of rubbish through the job: `python -m tests.rubbish.run --seed 0 --recordings 2000 --rows 500`.

Plants mutated recordings and mutated rows, prepares them in one process whose every open file is written down, then
runs `score_daily.py` on the same day, and says of each row what became of it, and whether it may.
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
OF_THE_C_LIBRARY: Final = {"/sys/devices/system/cpu/online"}
"""What glibc reads by itself, when a thread first asks it for memory."""

PREPARE_SEC: Final = 3600.0
JOB_SEC: Final = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Plant a day of rubbish and see what becomes of it."""

    seed: int = 0
    """Of all that is left to chance."""
    recordings: int = 2000
    """Recordings that are mutated, lie, or bear odd names."""
    rows: int = 500
    """Rows of the manifest that are mutated."""
    job: bool = True
    """Run the whole job, too, and not only its preparing."""


@dataclass(slots=True)
class Report:
    """What became of the rubbish.

    Attributes:
        planted: rows.
        outcomes: of the preparing, by row.
        kinds: what each row is.
        wrong: what must not be, in words.
        figures: of the runs.
    """

    planted: int
    outcomes: dict[int, str]
    kinds: dict[int, str]
    wrong: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def run_rubbish(options: Options, folder: Path) -> Report:
    """Plant the day in a folder, prepare it, score it, and compare."""
    root, outside = folder / "manifests", folder / "outside" / "secret.wav"
    with _server() as (address, asked):
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
            report.wrong.append(f"{len(kinds)} rows were planted, {len(report.outcomes)} came out of the preparing")
        if options.job:
            _score(report, root, model, folder / "leads")
        after = _snapshot(folder)
        changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
        report.wrong += [f"{path} was touched" for path in changed]
        report.wrong += [f"the server was asked for {path}" for path in asked]
    return report


def _plant(
    options: Options, root: Path, outside: Path, address: str
) -> tuple[dict[int, str], dict[int, frozenset[str]]]:
    """Write the day; the results say of each row what it is and what may become of it."""
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
    for number, each in enumerate(recordings, start=1):
        tables[0].append({**common, "planted": number, "call_id": f"recording-{number}", "uri": each.uri})
        kinds[number], allowed[number] = each.kind, each.outcomes
    for number, row in enumerate(rows, start=len(kinds)):
        tables[1].append({**common, "planted": number, "call_id": f"row-{number}", **row.values})
        kinds[number], allowed[number] = row.kind, row.outcomes
    for index, table in enumerate([pa.Table.from_pylist(tables[0], schema=SCHEMA), *as_tables(tables[1])]):
        pq.write_table(table, day / f"part-{index}.parquet")
    return kinds, allowed


def _prepare(report: Report, root: Path, model: Path, folder: Path) -> None:
    """Prepare the day in a process of its own, under strace where there is one."""
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
            report.wrong.append(f"the preparing ended with {child.returncode}: {child.stderr[-3000:]}")
            return
        said = json.loads(result.read_text())
        report.outcomes = dict(said["outcomes"])
        if len(report.outcomes) != len(said["outcomes"]):
            report.wrong.append("a row came out of the preparing twice")
        opened = [("open", path) for path in _traced_files(trace)] if traced else []
        report.wrong += [
            f"{event}: {what}" for event, what in [*said["events"], *opened] if not _is_named(event, what, root)
        ]
        report.figures |= {name: said[name] for name in ("seconds", "slowest_batch_sec", "peak_mb")}
        report.figures |= {"opened": len(said["events"]), "opened_by_strace": len(opened) if traced else None}
    _check_log(report, child.stderr, "preparing")


def _is_named(event: str, what: str, root: Path) -> bool:
    """Whether it is the reading of a file that stands below the root itself, no link to another one."""
    if event == "open" and what in OF_THE_C_LIBRARY:
        return True
    return event == "open" and Path(what).is_relative_to(root) and os.path.realpath(what) == what


def _strace_works() -> bool:
    if shutil.which("strace") is None:
        return False
    return (
        subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, check=False).returncode == 0
    )


def _traced_files(trace: Path) -> Iterator[str]:
    """What was opened, or done otherwise, while calls were prepared: a path, or the line where it is no reading."""
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
    """Run the job as a person would, and find every row in the leads once, as it was prepared."""
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
        report.wrong.append(f"the job ended with {job.returncode}: {job.stderr[-3000:]}")
        return
    success, rows = read_day(leads)
    outcomes = {row["planted"]: row["error_code"] or row["status"] for row in rows}
    if len(rows) != report.planted or outcomes.keys() != report.kinds.keys():
        report.wrong.append(
            f"{report.planted} rows were planted, {len(rows)} are in the leads, {len(outcomes)} different"
        )
    for number, outcome in outcomes.items():
        if outcome != report.outcomes.get(number):
            report.wrong.append(
                f"{report.kinds[number]} (row {number}) is {outcome} in the leads, "
                f"was {report.outcomes.get(number)} before"
            )
    report.figures |= {"scored": success["scored"], "rejected": success["rejected_by_reason"]}


def _check_log(report: Report, log: str, name: str) -> None:
    report.wrong += [f"the log of the {name} holds '{secret}'" for secret in (TRANSCRIPT, CUSTOMER) if secret in log]


def _snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of all that stands in a folder, but for the leads."""
    found = {}
    for place, folders, files in os.walk(folder):
        if place == str(folder) and "leads" in folders:
            folders.remove("leads")
        for name in [*folders, *files]:
            path = os.path.join(place, name)  # noqa: PTH118  the names are odd
            status = os.lstat(path)
            is_folder = Path(path).is_dir()
            found[path] = (status.st_mode, 0 if is_folder else status.st_size, 0 if is_folder else status.st_mtime_ns)
    return found


@contextlib.contextmanager
def _server() -> Iterator[tuple[str, list[str]]]:
    """The address of a server on this machine that nobody may ask, and what it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def table_of(report: Report) -> Table:
    """What became of each kind."""
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
    """Run; the result is the exit code: 1 where anything is wrong."""
    options, console = tyro.cli(Options), Console(width=160)
    with tempfile.TemporaryDirectory(prefix="msmtfn-rubbish-") as folder:
        report = run_rubbish(options, Path(os.path.realpath(folder)))
    console.print(table_of(report))
    console.print(report.figures)
    for line in report.wrong[:100]:
        console.print(f"wrong: {line}", markup=False, highlight=False)
    console.print(f"{len(report.wrong)} things are wrong")
    return 1 if report.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
