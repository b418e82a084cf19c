from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from msmtfn.model.runtime.int8 import int8_matmul_is_exact
from tests.integration.job import ROOT


@pytest.mark.slow
@pytest.mark.long
def test_encode_measures_both_encodings_and_the_unpadded_one_in_lower_precision(tmp_path: Path) -> None:
    precisions = ["bf16", "int8"] if int8_matmul_is_exact() else ["bf16"]
    command = [sys.executable, "-m", "tests.benchmarks", "encode", "--network", "demo"]
    command += ["--round-sec", "2", "40", "--num-calls", "2", "--json", str(tmp_path / "figures.json")]
    command += ["--device", "cpu", *(f"--{precision}" for precision in precisions)]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert job.returncode == 0, job.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["rounds"] for row in figures["encode"]] == ["2 s", "40 s", "mix"]
    assert [row["audio_sec"] for row in figures["encode"][:2]] == [2.0, 40.0]
    assert max(row["largest_difference"] for row in figures["encode"]) < 1e-5
    for row in figures["encode"]:
        assert row["ratio"] == pytest.approx(row["padded_sec"] / row["unpadded_sec"], rel=0.2)
        for precision in precisions:
            assert row[f"{precision}_ratio"] == pytest.approx(row["padded_sec"] / row[f"{precision}_sec"], rel=0.2)
            assert 0 < row[f"{precision}_difference"] < 0.05
    assert figures["versions"]["torch"] == importlib.metadata.version("torch")
    assert figures["machine"]["instructions"]


def run_benchmark(figures: Path, *arguments: str) -> dict[str, Any]:
    """Run a benchmark and return the content of its JSON file."""
    job = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *arguments, "--json", str(figures)],
        cwd=ROOT,
        env={**os.environ, "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    content: dict[str, Any] = json.loads(figures.read_text())
    return content


@pytest.mark.slow
@pytest.mark.long
def test_prepare_measures_every_step_and_all_steps_together(tmp_path: Path) -> None:
    figures = run_benchmark(tmp_path / "figures.json", "prepare", "--num-calls", "4")
    rows = {row["step"]: row for row in figures["prepare"]}
    assert list(rows)[:5] == ["fetch", "decode", "rounds", "cut", "tokens"]
    whole = rows["all, in this process"]["PCM, ms a call"]
    assert 0 < sum(rows[step]["PCM, ms a call"] for step in list(rows)[:5]) < 3 * whole
    assert figures["machine"]["processor"]


@pytest.mark.slow
@pytest.mark.long
def test_score_compares_the_graph_with_a_loop(tmp_path: Path) -> None:
    figures = run_benchmark(
        tmp_path / "figures.json", "score", "--network", "demo", "--num-calls", "6", "--num-scorers", "2"
    )
    (row,) = figures["score"]
    assert (row["calls"], row["rounds"]) == (6, 20)
    assert row["ratio"] == pytest.approx(row["job_sec"] / row["loop_sec"], rel=0.2)
    assert min(row["startup_sec"], row["ray_sec"]) > 0


@pytest.mark.slow
def test_a_length_out_of_range_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "encode", "--round-sec", "41"]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert job.returncode == 2
    assert "round_sec is (41.0,)" in job.stdout + job.stderr


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3000)
def test_whatever_is_killed_every_call_is_in_the_leads_once_with_the_same_values(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.benchmarks", "faults", "--num-calls", "80"]
    command += ["--runs-per-fault", "1", "--logs", str(tmp_path / "logs"), "--json", str(tmp_path / "figures.json")]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2900, check=False)
    assert job.returncode == 0, job.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["faults"]
    assert [row["killed"] for row in rows] == ["driver", "worker", "child", "scorer", "node", "s3"]
    assert all((row["runs"], row["lost"], row["doubled"], row["differing"]) == (1, 0, 0, 0) for row in rows)
    assert rows[0]["commands"] == 2  # a killed driver does not restart by itself
