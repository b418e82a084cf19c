"""The scaling of the job: time and memory by the number of calls, and the rate by the number of scorers.

The first runs `jobs/score_daily.py` on its own Ray instance and samples its memory from outside. In the second the
scorers sleep instead of computing, so that the measurement is of the scheduling and not of this machine's cores.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from msmtfn.daily.publish import read_success
from msmtfn.engine import start_engine
from msmtfn.errors import JobError
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import Model, pack_network, save_model
from msmtfn.model.small import make_small_model
from msmtfn.scoring.pipeline import PipelineConfig, score_calls
from tests.benchmarks.mix import DATE, write_day
from tests.benchmarks.score import make_task

logger = logging.getLogger(__name__)

CALL_SEC: Final = 2.0
WAIT_SEC: Final = 0.1
"""Time that a waiting scorer takes per call."""
CALLS_PER_SCORER: Final = 200
SAMPLE_SEC: Final = 0.5
COUNTED_MEMORY: Final = ("Pss_Anon:", "Pss_Shmem:")
SPILLED: Final = "Spilled "
"""Text in the log of a node that has spilled objects to disk."""


@dataclass(slots=True)
class Footprint:
    """The peak memory of a job's processes, in bytes.

    Memory shared by several processes is divided among them (the proportional set size, PSS). File-backed pages, which
    are those of the libraries, are left out: the kernel can evict them at any time, and a process's share of them grows
    whenever another process ends.

    Attributes:
        driver: peak of the job's own process.
        workers: peak of the sum over all Ray workers and their children.
        largest: peak of the largest of these.
    """

    driver: int = 0
    workers: int = 0
    largest: int = 0


def measure_scale(num_calls: Sequence[int], num_scorers: Sequence[int], job: Path, seed: int) -> list[dict[str, Any]]:
    """Score days of two-second calls with the job, then with scorers that wait.

    Args:
        num_calls: numbers of calls of the days that the job scores.
        num_scorers: numbers of waiting scorers, each for one run with as many logical CPUs.
        job: path of `score_daily.py`.
        seed: random seed of samples and text.

    Returns:
        A row per run. `seconds` starts with the first batch at a scorer; `startup_sec` is the time before.

    Raises:
        JobError: the job failed.
    """
    model = make_small_model(seed)
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as name:
        folder = Path(name)
        save_model(model.network, model.tokenizer, folder / "model", "# A small network, untrained\n")
        rows = []
        for number in num_calls:
            rows.append(_score_day(number, folder, job, seed))
            logger.info("%s", rows[-1])
        for number in num_scorers:
            rows.append(_run_waiting_scorers(number, model, folder, seed))
            logger.info("%s", rows[-1])
        return rows


class WaitingScorer(Scorer):
    """A scorer that sleeps instead of encoding, and gives all classes the same probability."""

    def encode_calls(self, calls: Sequence[CallRounds]) -> Tensor:
        """Sleep for the time of the calls and return vectors of zeros."""
        time.sleep(WAIT_SEC * len(calls))
        return torch.zeros(sum(len(call.samples) for call in calls), 2, self.network.config.hidden_size)

    def classify(self, vectors: Tensor, rounds_per_call: list[int]) -> dict[str, npt.NDArray[np.float32]]:
        """Return uniform probabilities."""
        num_calls = len(rounds_per_call)
        return {
            task: np.full((num_calls, len(classes)), 1 / len(classes), np.float32) for task, classes in TASKS.items()
        }


def _score_day(num_calls: int, folder: Path, job: Path, seed: int) -> dict[str, Any]:
    root, leads, ray_folder = (folder / f"{name}-{num_calls}" for name in ("calls", "leads", "ray"))
    write_day(root, [[CALL_SEC]] * num_calls, np.random.default_rng(seed), "PCM_16")
    command = [sys.executable, str(job), "--date", str(DATE), "--model", str(folder / "model")]
    command += ["--manifests", str(root), "--leads", str(leads)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    log = folder / "job.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, env={**inherited, "RAY_TMPDIR": str(ray_folder)}, stdout=file, stderr=subprocess.STDOUT
        )
    footprint = _watch(process)
    success = read_success(str(leads), DATE)
    if process.returncode or success is None or success.calls_per_sec is None:
        raise JobError(f"the job ended with exit code {process.returncode}: {log.read_text(encoding='utf-8')[-2000:]}")
    return {
        "work": "small network",
        "calls": num_calls,
        "scorers": 1,
        "seconds": round(num_calls / success.calls_per_sec, 1),
        "startup_sec": success.startup_seconds,
        "calls_per_sec": success.calls_per_sec,
        "driver_mib": _mib(footprint.driver),
        "workers_mib": _mib(footprint.workers),
        "largest_worker_mib": _mib(footprint.largest),
        "spilled": has_spilled(ray_folder),
    }


def _run_waiting_scorers(num_scorers: int, model: Model, folder: Path, seed: int) -> dict[str, Any]:
    num_calls = CALLS_PER_SCORER * num_scorers
    root = write_day(folder / f"waits-{num_scorers}", [[CALL_SEC]] * num_calls, np.random.default_rng(seed), "PCM_16")
    task = make_task(root, folder / f"run-{num_scorers}", num_calls)
    preparer = Preparer(PrepareConfig(), model.processor, str(root))
    with start_engine(num_cpus=num_scorers):
        started = time.perf_counter()
        figures = score_calls(
            task,
            preparer,
            pack_network(model.network),
            ScorerConfig(),
            PipelineConfig(num_scorers=num_scorers),
            lambda _done, _rejected: None,
            make_scorer=WaitingScorer,
        )
        seconds = time.perf_counter() - started - (figures.startup_sec or 0.0)
    return {
        "work": f"wait {WAIT_SEC:g} s",
        "calls": num_calls,
        "scorers": num_scorers,
        "seconds": round(seconds, 1),
        "startup_sec": round(figures.startup_sec or 0.0, 1),
        "calls_per_sec": round(num_calls / seconds, 1),
    }


def _watch(process: subprocess.Popen[bytes]) -> Footprint:
    """Sample the memory of a job until it ends."""
    peak = Footprint()
    while process.poll() is None:
        driver, workers = _memory_of(process.pid)
        peak.driver = max(peak.driver, driver)
        peak.workers = max(peak.workers, sum(workers))
        peak.largest = max(peak.largest, *workers, 0)
        time.sleep(SAMPLE_SEC)
    return peak


def _memory_of(pid: int) -> tuple[int, list[int]]:
    """Return the bytes of a job's process, and of every Ray worker below it and its children."""
    import psutil  # noqa: PLC0415 - it comes with the tests' packages

    def memory_of(process: psutil.Process) -> int:
        with contextlib.suppress(OSError):  # the process has ended
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(COUNTED_MEMORY))
        return 0

    def workers(process: psutil.Process) -> Iterator[psutil.Process]:
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::"):
                    yield child
                    yield from child.children(recursive=True)

    with contextlib.suppress(psutil.Error):
        job = psutil.Process(pid)
        return memory_of(job), [memory_of(worker) for worker in workers(job)]
    return 0, []


def has_spilled(ray_folder: Path) -> bool:
    """Return whether the logs of the node with this folder say that it spilled objects to disk."""
    logs = ray_folder.glob("ray/session_*/logs/raylet*")
    return any(SPILLED in log.read_text(encoding="utf-8", errors="replace") for log in logs if not log.is_symlink())


def _mib(size: int) -> int:
    return round(size / 2**20)
