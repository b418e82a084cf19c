"""`jobs/simulate_calls.py` as run by a user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("espeakng_loader")

ROOT = Path(__file__).parents[2]


def run_job(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "jobs" / "simulate_calls.py"), *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_a_corpus_is_made_and_summarised_with_its_ceilings(tmp_path: Path) -> None:
    job = run_job("--out", tmp_path / "corpus", "--calls", 10, "--split", 6, 1, 3, "--brief", "--workers", 2)
    assert job.returncode == 0, job.stderr
    assert "10 of 10 calls made" in job.stderr
    for text in ("10 of", "training 6", "validation 1", "test 3", "both without order", "91.3", "73.6", "49.5", "78.5"):
        assert text in job.stdout
    assert len(list((tmp_path / "corpus").rglob("*.wav"))) == 10

    again = run_job("--out", tmp_path / "corpus", "--calls", 10, "--split", 6, 1, 3, "--brief")
    assert again.returncode == 0, again.stderr
    assert "calls made" not in again.stderr


class TestErrors:
    """Errors: the job ends with an exit code and one line that says what to do."""

    def test_a_folder_with_other_content_is_a_usage_error(self, tmp_path: Path) -> None:
        (tmp_path / "diary.txt").write_text("mine")
        job = run_job("--out", tmp_path)
        assert job.returncode == 2
        assert job.stderr.splitlines()[-1].endswith("give an empty folder")

    def test_a_folder_that_cannot_be_written_fails_the_job(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("no folder")
        job = run_job("--out", tmp_path / "file" / "corpus")
        assert job.returncode == 1
        assert "check its permissions and the free space" in job.stderr.splitlines()[-1]

    def test_splits_that_do_not_add_up_are_a_usage_error(self, tmp_path: Path) -> None:
        job = run_job("--out", tmp_path, "--calls", 20, "--split", 10, 5, 4)
        assert job.returncode == 2
        assert "add up to 20" in job.stdout + job.stderr
        assert "Traceback" not in job.stderr

    def test_a_negative_number_of_workers_is_a_usage_error(self, tmp_path: Path) -> None:
        job = run_job("--out", tmp_path, "--workers", -1)
        assert job.returncode == 2
        assert "--workers is -1" in job.stderr.splitlines()[-1]
