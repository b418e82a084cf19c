"""Whether every call ends in the leads exactly once, whatever is killed while the day is scored.

The job is `jobs/score_daily.py` itself, on a Ray cluster of two nodes and an S3 server of its own. In each trial one
thing is killed at a random moment of the run; where the job ends without success, the same command is given again, as
an operator would. Then the published day is compared with that of an undisturbed run.
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
STRUCK_ONLY_AFTER: Final = 0.2
"""Share of an undisturbed run's time before which nothing is killed: until then the job imports its libraries."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FaultsConfig:
    """Calls, and what happens while they are scored."""

    num_calls: int = 300
    """Calls of the day, of a second each."""
    runs_per_fault: int = 5
    """Disturbed runs of each kind."""
    faults: tuple[Fault, ...] = FAULTS
    """What is killed; a child is a process in which calls are prepared, and `s3` stays away for 20 s."""
    seed: int = 0
    """Of the moments and of the process that is chosen."""
    cpus_per_node: int = 2
    """Logical CPUs of each of the two nodes."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        for name in ("num_calls", "runs_per_fault", "cpus_per_node"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


@dataclass(frozen=True, slots=True)
class _Stage:
    config: FaultsConfig
    cluster: RayCluster
    server: S3Server
    place: str
    model: Path
    logs: Path
    job: Path

    def start_job(self, name: str) -> subprocess.Popen[bytes]:
        """Start the job, with leads of a name."""
        command = [sys.executable, str(self.job), "--date", DATE.isoformat(), "--model", str(self.model)]
        command += ["--manifests", f"{self.place}/manifests", "--leads", f"{self.place}/{name}"]
        command += ["--batch-calls", "4", "--block-calls", "8"]
        with (self.logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                env={**self.cluster.environment, "RAY_ADDRESS": self.cluster.address},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def leads(self, name: str) -> list[dict[str, Any]]:
        """The published rows, ordered by call."""
        columns = ["call_id", "status", "lead_rank", *TASKS]
        rows = read_leads(f"{self.place}/{name}", DATE).to_table(columns=columns).sort_by("call_id")
        result: list[dict[str, Any]] = rows.to_pylist()
        return result


def run_faults(config: FaultsConfig, job: Path, logs: Path) -> list[dict[str, Any]]:
    """Disturb runs of the job and compare what they publish; a row for each kind of fault.

    Args:
        config: what to disturb, and how often.
        job: the job's script.
        logs: a folder for the jobs' logs.

    Raises:
        JobError: an undisturbed run fails, or a disturbed one does not succeed in the end.
    """
    rng = np.random.default_rng(config.seed)
    with _stage(config, job, logs) as stage:
        started = time.monotonic()
        if _finished(stage.start_job("warm-up")) != 0:
            raise JobError(f"the undisturbed run failed; {logs}/warm-up.log says why")
        logger.info("warm-up: %.1f s", time.monotonic() - started)
        started = time.monotonic()
        if _finished(stage.start_job("undisturbed")) != 0:
            raise JobError(f"the undisturbed run failed; {logs}/undisturbed.log says why")
        usual_sec = time.monotonic() - started
        logger.info("undisturbed: %.1f s", usual_sec)
        expected = stage.leads("undisturbed")
        return [_runs_with(fault, stage, expected, usual_sec, rng) for fault in config.faults]


def compare_leads(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> dict[str, int]:
    """Count the calls that are lost, doubled or other than expected: in status, rank or a probability."""
    times = Counter(row["call_id"] for row in rows)
    by_id = {row["call_id"]: row for row in expected}
    return {
        "lost": len(by_id.keys() - times.keys()),
        "doubled": sum(number > 1 for number in times.values()),
        "differing": sum(row["call_id"] not in by_id or _differs(row, by_id[row["call_id"]]) for row in rows),
    }


def _differs(row: dict[str, Any], expected: dict[str, Any]) -> bool:
    if any(row[name] != expected[name] for name in ("status", "lead_rank")):
        return True
    return row["status"] == SCORED and any(
        abs(row[task][name] - probability) > TOLERANCE for task in TASKS for name, probability in expected[task].items()
    )


def _runs_with(
    fault: Fault, stage: _Stage, expected: list[dict[str, Any]], usual_sec: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Runs that are disturbed by one kind of fault; one that was over before it was struck does not count."""
    total: Counter[str] = Counter()
    started = time.monotonic()
    number = 0
    while total["runs"] < stage.config.runs_per_fault:
        name = f"{fault.replace(' ', '-')}-{number:02d}"
        number += 1
        at_sec = usual_sec * rng.uniform(STRUCK_ONLY_AFTER, 1.0)
        codes = _disturbed_run(fault, stage, name, at_sec, rng)
        if codes is None:
            logger.info("%s: over before it was struck", name)
            continue
        found = compare_leads(stage.leads(name), expected)
        logger.info("%s: struck at %.1f s, exit codes %s, %s", name, at_sec, codes, found)
        total.update({"runs": 1, "commands": len(codes), **found})
        storage.delete(f"{stage.place}/{name}")
    return {"killed": fault, **total, "seconds": round(time.monotonic() - started)}


def _disturbed_run(fault: Fault, stage: _Stage, name: str, at_sec: float, rng: np.random.Generator) -> list[int] | None:
    """Exit codes of the commands that it took to publish the day; None where nothing was struck."""
    process = stage.start_job(name)
    has_struck = _strike(fault, stage, process, time.monotonic() + at_sec, rng)
    codes = [_finished(process)]
    while codes[-1] != 0 and len(codes) < MAX_COMMANDS:
        codes.append(_finished(stage.start_job(name)))
    if codes[-1] != 0:
        raise JobError(f"{name}: the job ends with the exit codes {codes}; {stage.logs / name}.log says why")
    if fault == "node" and has_struck:
        stage.cluster.start(1)
    return codes if has_struck else None


def _strike(fault: Fault, stage: _Stage, job: subprocess.Popen[bytes], moment: float, rng: np.random.Generator) -> bool:
    """Kill something once its moment has come; False where the job was over first."""
    while job.poll() is None:
        if time.monotonic() >= moment and _kill(fault, stage, job, rng):
            return True
        time.sleep(WAIT_SEC)
    return False


def _kill(fault: Fault, stage: _Stage, job: subprocess.Popen[bytes], rng: np.random.Generator) -> bool:
    match fault:
        case "driver":
            job.send_signal(signal.SIGKILL)
        case "node":
            stage.cluster.kill(1)
        case "s3":
            stage.server.kill()
            time.sleep(OUTAGE_SEC)
            stage.server.start()
        case _:
            victims = stage.cluster.workers(PROCESS_NAMES[fault])
            if not victims:
                return False
            kill_process(victims[rng.integers(len(victims))])
    return True


def _finished(job: subprocess.Popen[bytes]) -> int:
    try:
        return job.wait(MAX_JOB_SEC)
    except subprocess.TimeoutExpired:
        job.kill()
        job.wait()
        raise JobError(f"the job did not end within {MAX_JOB_SEC:g} s") from None


@contextlib.contextmanager
def _stage(config: FaultsConfig, job: Path, logs: Path) -> Iterator[_Stage]:
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as name:
        folder = Path(name)
        server = S3Server(folder / "s3")
        place = "s3://trials"
        for variable in [each for each in os.environ if each.startswith("AWS_")]:
            del os.environ[variable]
        os.environ.update(server.environment)
        server.start()
        try:
            server.wait_until_up(place)
            storage.put_folder(write_calls(folder / "calls", config.num_calls), f"{place}/manifests")
            storage.put_folder(folder / "calls" / f"date={DATE}", f"{place}/manifests/date={DATE}")
            model = make_small_model(config.seed)
            save_model(model.network, model.tokenizer, folder / "model", "# A small network, untrained\n")
            with running_cluster(folder, logs, config.cpus_per_node, server.environment) as cluster:
                yield _Stage(config, cluster, server, place, folder / "model", logs, job)
        finally:
            server.kill()


def write_calls(folder: Path, number: int) -> Path:
    """Write a day of some calls of a second each, with its manifest; the result is the folder."""
    day = folder / f"date={DATE}"
    day.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"call-{index:04d}" for index in range(number)]
    for name in names:
        sf.write(folder / f"{name}.wav", 0.1 * rng.standard_normal(SAMPLE_RATE), SAMPLE_RATE)
    pq.write_table(pa.table({"call_id": names, "uri": [f"{name}.wav" for name in names]}), day / "calls.parquet")
    return folder
