from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.job import ROOT


def test_encode_measures_both_encodings_of_the_same_calls(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "benchmark.py"), "encode", "--network", "demo"]
    command += ["--round-sec", "2", "40", "--num-calls", "2", "--json", str(tmp_path / "figures.json")]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert job.returncode == 0, job.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["rounds"] for row in figures["encode"]] == ["2 s", "40 s", "mix"]
    assert [row["audio_sec"] for row in figures["encode"][:2]] == [2.0, 40.0]
    assert max(row["largest_difference"] for row in figures["encode"]) < 1e-5
    for row in figures["encode"]:
        assert row["ratio"] == pytest.approx(row["padded_sec"] / row["unpadded_sec"], rel=0.2)
    assert figures["versions"]["torch"].startswith("2.11.")


def test_a_length_out_of_range_is_wrong_usage() -> None:
    command = [sys.executable, str(ROOT / "jobs" / "benchmark.py"), "encode", "--round-sec", "41"]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert job.returncode == 2
    assert "round_sec is (41.0,)" in job.stdout + job.stderr


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3000)
def test_whatever_is_killed_every_call_is_in_the_leads_once_with_its_values(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / "benchmark.py"), "faults", "--num-calls", "80"]
    command += ["--runs-per-fault", "1", "--logs", str(tmp_path / "logs"), "--json", str(tmp_path / "figures.json")]
    job = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2900, check=False)
    assert job.returncode == 0, job.stderr
    rows = json.loads((tmp_path / "figures.json").read_text())["faults"]
    assert [row["killed"] for row in rows] == ["driver", "worker", "child", "scorer", "node", "s3"]
    assert all((row["runs"], row["lost"], row["doubled"], row["differing"]) == (1, 0, 0, 0) for row in rows)
    assert rows[0]["commands"] == 2  # a killed driver does not go on by itself
