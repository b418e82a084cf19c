"""How the job grows: seconds and memory with the number of calls, and the rate with the number of scorers.

The first is `jobs/score_daily.py` itself on a Ray of its own, watched from outside. In the second the scorers wait
instead of computing, so that the schedule is measured and not this machine's cores.
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
"""That a waiting scorer takes for a call."""
CALLS_PER_SCORER: Final = 200
SAMPLE_SEC: Final = 0.5
HELD: Final = ("Pss_Anon:", "Pss_Shmem:")
SPILLED: Final = "Spilled "
"""What the node's log says when the object store is written to disk."""


@dataclass(slots=True)
class Footprint:
    """The most memory that a job's processes held, in bytes; what several share counts once, by shares.

    Pages of files are left out: they are the libraries', which the system can take away at any time, and a share of
    theirs grows whenever another process ends.

    Attributes:
        driver: of the job's own process.
        workers: of all of Ray's workers and their children together.
        largest: of the largest of them.
    """

    driver: int = 0
    workers: int = 0
    largest: int = 0


def measure_scale(num_calls: Sequence[int], num_scorers: Sequence[int], job: Path, seed: int) -> list[dict[str, Any]]:
    """Score days of more and more calls of two seconds by the job, then days by more and more waiting scorers.

    Args:
        num_calls: of each day of the job's.
        num_scorers: of each run with scorers that wait; it has as many logical CPUs.
        job: `score_daily.py`.
        seed: of samples and text.

    Returns:
        A row a run. The seconds count from the first batch at a scorer, what came before stands beside them.

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
            rows.append(_wait_for(number, model, folder, seed))
            logger.info("%s", rows[-1])
        return rows


class WaitingScorer(Scorer):
    """Says after a while that every class is equally likely."""

    def probabilities(self, calls: Sequence[CallRounds]) -> dict[str, npt.NDArray[np.float32]]:
        """Wait as long as the calls take, and say nothing of them."""
        time.sleep(WAIT_SEC * len(calls))
        return {
            task: np.full((len(calls), len(classes)), 1 / len(classes), np.float32) for task, classes in TASKS.items()
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
    if process.returncode or success is None:
        raise JobError(f"the job ended with {process.returncode}: {log.read_text(encoding='utf-8')[-2000:]}")
    return {
        "work": "small network",
        "calls": num_calls,
        "scorers": 1,
        "seconds": round(num_calls / success["calls_per_sec"], 1),
        "startup_sec": success["startup_seconds"],
        "calls_per_sec": success["calls_per_sec"],
        "driver_mib": _mib(footprint.driver),
        "workers_mib": _mib(footprint.workers),
        "largest_worker_mib": _mib(footprint.largest),
        "spilled": has_spilled(ray_folder),
    }


def _wait_for(num_scorers: int, model: Model, folder: Path, seed: int) -> dict[str, Any]:
    num_calls = CALLS_PER_SCORER * num_scorers
    root = write_day(folder / f"waits-{num_scorers}", [[CALL_SEC]] * num_calls, np.random.default_rng(seed), "PCM_16")
    task = make_task(root, folder / f"run-{num_scorers}", num_calls)
    preparer = Preparer(PrepareConfig(), model.network.config, model.tokenizer, str(root))
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
    """Look at a job until it ends."""
    most = Footprint()
    while process.poll() is None:
        driver, workers = _memory_of(process.pid)
        most.driver = max(most.driver, driver)
        most.workers = max(most.workers, sum(workers))
        most.largest = max(most.largest, *workers, 0)
        time.sleep(SAMPLE_SEC)
    return most


def _memory_of(pid: int) -> tuple[int, list[int]]:
    """Bytes of a job's process, and of each of Ray's workers below it and their children."""
    import psutil  # noqa: PLC0415 - it comes with the tests' packages

    def held(process: psutil.Process) -> int:
        with contextlib.suppress(OSError):  # it has ended
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
            return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(HELD))
        return 0

    def workers(process: psutil.Process) -> Iterator[psutil.Process]:
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.cmdline()[:1] and child.cmdline()[0].startswith("ray::"):
                    yield child
                    yield from child.children(recursive=True)

    with contextlib.suppress(psutil.Error):
        job = psutil.Process(pid)
        return held(job), [held(worker) for worker in workers(job)]
    return 0, []


def has_spilled(ray_folder: Path) -> bool:
    """Whether a node whose files are in this folder has written its object store to disk, by its log."""
    logs = ray_folder.glob("ray/session_*/logs/raylet*")
    return any(SPILLED in log.read_text(encoding="utf-8", errors="replace") for log in logs if not log.is_symlink())


def _mib(size: int) -> int:
    return round(size / 2**20)
