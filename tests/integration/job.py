"""Helpers for the tests of whole jobs: running a job in its own process, and writing days of calls."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

ROOT = Path(__file__).parents[2]
DATE = dt.date(2026, 11, 21)
SAMPLE_RATE = 8000


def start_job(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `score_daily.py` in a separate process, with its own Ray instance unless `environment` sets RAY_ADDRESS."""
    command = [sys.executable, str(ROOT / "jobs" / "score_daily.py"), *map(str, arguments)]
    return subprocess.Popen(
        command,
        env={**os.environ, "RAY_ADDRESS": "local", **environment},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_job(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `score_daily.py` and wait until it ends."""
    process = start_job(*arguments, **environment)
    output, log = process.communicate(timeout=540)
    return subprocess.CompletedProcess(process.args, process.returncode, output, log)


def write_manifest(root: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema | None = None) -> Path:
    """Write the manifest of `DATE` below `root`, and return `root`."""
    folder = root / f"date={DATE}"
    folder.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), folder / "calls.parquet")
    return root


def write_short_calls(root: Path, number: int) -> Path:
    """Write a day of one-second calls below `root`, and return `root`."""
    root.mkdir()
    rng = np.random.default_rng(0)
    names = [f"call-{index:03d}" for index in range(number)]
    for name in names:
        sf.write(root / f"{name}.wav", 0.1 * rng.standard_normal(SAMPLE_RATE), SAMPLE_RATE)
    return write_manifest(root, [{"call_id": name, "uri": f"{name}.wav"} for name in names])


def read_day(leads: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the `_SUCCESS` of `DATE`, and the rows of the files that it lists, in order."""
    day = leads / f"date={DATE}"
    success: dict[str, Any] = json.loads((day / "_SUCCESS").read_text())
    tables = [pq.read_table(day / name, partitioning=None) for name in success["files"]]
    return success, [row for table in tables for row in table.to_pylist()]
