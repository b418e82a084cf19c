"""Fault injection: every call must be in the leads exactly once, whatever is killed while the day is scored.

The trials run `jobs/score_daily.py` itself on their own two-node Ray cluster and S3 server. Every trial kills one thing
at a random moment of the run. If the job fails, the same command is run again, as an operator would do. The published
day is then compared with that of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from msmtfn import storage
from msmtfn.daily.publish import read_leads
from msmtfn.errors import JobError
from msmtfn.labels import TASKS
from msmtfn.leads.schema import SCORED
from msmtfn.model.checkpoint import save_model
from msmtfn.model.small import make_small_model
from tests.faults.ray_cluster import RayCluster, kill_process, running_cluster
from tests.faults.s3_server import S3Server

logger = logging.getLogger(__name__)

Fault = Literal["driver", "worker", "child", "scorer", "node", "s3"]
FAULTS: Final[tuple[Fault, ...]] = ("driver", "worker", "child", "scorer", "node", "s3")
PROCESS_NAMES: Final[dict[Fault, str]] = {
    "worker": "ray::MapBatches(",
    "child": "msmtfn.features.sandbox_child",
    "scorer": "ray::MapWorker(",
}
DATE: Final = dt.date(2026, 11, 21)
SAMPLE_RATE: Final = 8000
OUTAGE_SEC: Final = 20.0
WAIT_SEC: Final = 0.02
MAX_COMMANDS: Final = 5
MAX_JOB_SEC: Final = 900.0
TOLERANCE: Final = 1e-5
EARLIEST_FAULT_SHARE: Final = 0.2
"""Share of an undisturbed run's time before which nothing is killed, because the job is still importing libraries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultsConfig:
    """Options of the fault trials."""

    num_calls: int = 300
    """Number of calls in the day, of one second each."""
    runs_per_fault: int = 5
    """Number of disturbed runs for every kind of fault."""
    faults: tuple[Fault, ...] = FAULTS
    """Kinds of faults: what is killed. A child is a sandbox process that prepares calls; `s3` is down for 20 s."""
    seed: int = 0
    """Random seed of the moments and of the processes that are killed."""
    cpus_per_node: int = 2
    """Number of logical CPUs of each of the two nodes."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: a value is out of range.
        """
        for name in ("num_calls", "runs_per_fault", "cpus_per_node"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class _TestBed:
    """A cluster and an S3 server with a day of calls and a model, on which the job can run."""

    config: FaultsConfig
    cluster: RayCluster
    server: S3Server
    root: str
    model: Path
    logs: Path
    job: Path

    def start_job(self, name: str) -> subprocess.Popen[bytes]:
        """Start the job with its leads in the folder `name`."""
        command = [sys.executable, str(self.job), "--date", DATE.isoformat(), "--model", str(self.model)]
        command += ["--manifests", f"{self.root}/manifests", "--leads", f"{self.root}/{name}"]
        command += ["--batch-calls", "4", "--block-calls", "8"]
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env={**self.cluster.environment, "RAY_ADDRESS": self.cluster.address},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def leads(self, name: str) -> list[dict[str, Any]]:
        """Read the published rows, sorted by call."""
        columns = ["call_id", "status", "lead_rank", *TASKS]
        rows = read_leads(f"{self.root}/{name}", DATE).to_table(columns=columns).sort_by("call_id")
        result: list[dict[str, Any]] = rows.to_pylist()
        return result


def run_faults(config: FaultsConfig, job: Path, logs: Path) -> list[dict[str, Any]]:
    """Disturb runs of the job and compare the days that they publish with an undisturbed one.

    Args:
        config: kinds and number of faults.
        job: path of the job's script.
        logs: folder for the jobs' logs.

    Returns:
        A row for every kind of fault.

    Raises:
        JobError: an undisturbed run fails, or a disturbed one does not succeed even when repeated.
    """
    rng = np.random.default_rng(config.seed)
    with _test_bed(config, job, logs) as bed:
        started = time.monotonic()
        if _wait_for_exit(bed.start_job("warm-up")) != 0:
            raise JobError(f"the undisturbed run failed; see {logs}/warm-up.log")
        logger.info("warm-up: %.1f s", time.monotonic() - started)
        started = time.monotonic()
        if _wait_for_exit(bed.start_job("undisturbed")) != 0:
            raise JobError(f"the undisturbed run failed; see {logs}/undisturbed.log")
        usual_sec = time.monotonic() - started
        logger.info("undisturbed: %.1f s", usual_sec)
        expected = bed.leads("undisturbed")
        return [_disturb_runs(fault, bed, expected, usual_sec, rng) for fault in config.faults]


def compare_leads(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> dict[str, int]:
    """Count the calls that are lost, duplicated, or differ in status, rank or a probability."""
    num_rows = Counter(row["call_id"] for row in rows)
    by_id = {row["call_id"]: row for row in expected}
    return {
        "lost": len(by_id.keys() - num_rows.keys()),
        "doubled": sum(number > 1 for number in num_rows.values()),
        "differing": sum(row["call_id"] not in by_id or _differs(row, by_id[row["call_id"]]) for row in rows),
    }


def _differs(row: dict[str, Any], expected: dict[str, Any]) -> bool:
    if any(row[name] != expected[name] for name in ("status", "lead_rank")):
        return True
    return row["status"] == SCORED and any(
        abs(row[task][name] - probability) > TOLERANCE for task in TASKS for name, probability in expected[task].items()
    )


def _disturb_runs(
    fault: Fault, bed: _TestBed, expected: list[dict[str, Any]], usual_sec: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Disturb runs by one kind of fault; a run that ends before the fault does not count."""
    total: Counter[str] = Counter()
    started = time.monotonic()
    number = 0
    while total["runs"] < bed.config.runs_per_fault:
        name = f"{fault.replace(' ', '-')}-{number:02d}"
        number += 1
        at_sec = usual_sec * rng.uniform(EARLIEST_FAULT_SHARE, 1.0)
        codes = _disturb_run(fault, bed, name, at_sec, rng)
        if codes is None:
            logger.info("%s: ended before the fault", name)
            continue
        differences = compare_leads(bed.leads(name), expected)
        logger.info("%s: fault at %.1f s, exit codes %s, %s", name, at_sec, codes, differences)
        total.update({"runs": 1, "commands": len(codes), **differences})
        storage.delete(f"{bed.root}/{name}")
    return {"killed": fault, **total, "seconds": round(time.monotonic() - started)}


def _disturb_run(fault: Fault, bed: _TestBed, name: str, at_sec: float, rng: np.random.Generator) -> list[int] | None:
    """Run the job until the day is published; return the exit codes, or None if it ended before the fault."""
    process = bed.start_job(name)
    has_struck = _strike(fault, bed, process, time.monotonic() + at_sec, rng)
    codes = [_wait_for_exit(process)]
    while codes[-1] != 0 and len(codes) < MAX_COMMANDS:
        codes.append(_wait_for_exit(bed.start_job(name)))
    if codes[-1] != 0:
        raise JobError(f"{name}: the job keeps failing, with exit codes {codes}; see {bed.logs / name}.log")
    if fault == "node" and has_struck:
        bed.cluster.start(1)
    return codes if has_struck else None


def _strike(fault: Fault, bed: _TestBed, job: subprocess.Popen[bytes], moment: float, rng: np.random.Generator) -> bool:
    """Inject the fault at the given moment; return False if the job ended first."""
    while job.poll() is None:
        if time.monotonic() >= moment and _kill(fault, bed, job, rng):
            return True
        time.sleep(WAIT_SEC)
    return False


def _kill(fault: Fault, bed: _TestBed, job: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
    match fault:
        case "driver":
            job.send_signal(signal.SIGKILL)
        case "node":
            bed.cluster.kill(1)
        case "s3":
            bed.server.kill()
            time.sleep(OUTAGE_SEC)
            bed.server.start()
        case _:
            victims = bed.cluster.workers(PROCESS_NAMES[fault])
            if not victims:
                return False
            kill_process(victims[rng.integers(len(victims))])
    return True


def _wait_for_exit(job: subprocess.Popen[bytes]) -> int:
    try:
        return job.wait(MAX_JOB_SEC)
    except subprocess.TimeoutExpired:
        job.kill()
        job.wait()
        raise JobError(f"the job did not end within {MAX_JOB_SEC:g} s") from None


@contextlib.contextmanager
def _test_bed(config: FaultsConfig, job: Path, logs: Path) -> Iterator[_TestBed]:
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as path:
        folder = Path(path)
        server = S3Server(folder / "s3")
        root = "s3://trials"
        for variable in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[variable]
        os.environ.update(server.environment)
        server.start()
        try:
            server.wait_until_up(root)
            storage.put_folder(write_calls(folder / "calls", config.num_calls), f"{root}/manifests")
            storage.put_folder(folder / "calls" / f"date={DATE}", f"{root}/manifests/date={DATE}")
            model = make_small_model(config.seed)
            save_model(model.network, model.tokenizer, folder / "model", "# A small network, untrained\n")
            with running_cluster(folder, logs, config.cpus_per_node, server.environment) as cluster:
                yield _TestBed(config, cluster, server, root, folder / "model", logs, job)
        finally:
            server.kill()


def write_calls(folder: Path, number: int) -> Path:
    """Write a day of one-second calls with its manifest, and return `folder`."""
    day = folder / f"date={DATE}"
    day.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"call-{index:04d}" for index in range(number)]
    for name in names:
        sf.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(SAMPLE_RATE), SAMPLE_RATE)
    pq.write_table(pa.table({"call_id": names, "uri": [f"{name}.wav" for name in names]}), day / "calls.parquet")
    return folder
