"""The project with the newest allowed version of every package, and the package that breaks it, if any."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from tests.integration.job import ROOT
from tests.test_lock import normal, read_lock

EXTRAS = "aws,demo,media,train"
IMPORTS = (
    "import av, boto3, matplotlib, ray.data, ray.train.torch, s3fs, scipy, soundfile, torch, torchaudio, torchmetrics"
)


def run(*command: object, cwd: Path = ROOT, timeout: float = 540) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, timeout=timeout)


def installed(python: Path) -> dict[str, str]:
    listed = run(python, "-m", "pip", "list", "--format", "json")
    return {normal(package["name"]): package["version"] for package in json.loads(listed.stdout)}


def failure_of(python: Path, folder: Path) -> str | None:
    """Run the imports and the demo; return a description of what fails, or None."""
    for command in ((python, "-c", IMPORTS), (python, ROOT / "jobs" / "score_daily.py", "--demo")):
        process = run(*command, cwd=folder)
        if process.returncode:
            return f"{command[-1]} ends with {process.returncode}:\n{process.stdout[-1000:]}\n{process.stderr[-3000:]}"
    return None


def find_culprit(packages: Iterable[str], pin: Callable[[str], None], works: Callable[[], bool]) -> str | None:
    """Pin one package after the other; return the one after which everything works again, or None."""
    for package in packages:
        pin(package)
        if works():
            return package
    return None


def test_the_culprit_is_the_package_whose_locked_version_fixes_the_failure() -> None:
    newest = {"a", "b", "c"}
    assert find_culprit("abc", newest.remove, lambda: "b" not in newest) == "b"
    assert find_culprit("c", lambda _: None, lambda: False) is None


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_newest_version_of_every_package_works(tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = run(python, "-m", "pip", "install", "--quiet", f"{ROOT}[{EXTRAS}]")
    assert install.returncode == 0, f"the newest versions cannot be installed together: {install.stderr}"
    failure = failure_of(python, tmp_path)
    if failure is None:
        return
    lock = read_lock("requirements-dev.txt")
    newer = [name for name, version in installed(python).items() if name in lock and version not in lock[name]]

    def pin(package: str) -> None:
        version = max(lock[package])
        run(python, "-m", "pip", "install", "--quiet", "--no-deps", f"{package}=={version}")

    culprit = find_culprit(newer, pin, lambda: failure_of(python, tmp_path) is None)
    pytest.fail(f"newer than the lock: {', '.join(newer)}; the one that breaks the project: {culprit}\n{failure}")
