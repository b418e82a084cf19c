from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from msmtfn.cli.environment import explain_import_failure
from msmtfn.compat.versions import installed_version, required_version

ROOT = Path(__file__).parents[2]
SYMBOL = "undefined symbol: torch_exception_get_what_without_backtrace"
DOES_NOT_LOAD = f'raise OSError("libtorchaudio.so: {SYMBOL}")\n'


def run_job(name: str, *arguments: str, stand_ins: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of `jobs/` with stand-ins that shadow installed packages."""
    environment = {**os.environ, "PYTHONPATH": f"{stand_ins}:{ROOT}"}
    command = [sys.executable, str(ROOT / "jobs" / name), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def write_package(folder: Path, name: str, version: str, content: str) -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text(content)
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    "job",
    [
        "score_daily.py",
        pytest.param("train.py", marks=[pytest.mark.slow, pytest.mark.long]),
        pytest.param("evaluate.py", marks=[pytest.mark.slow, pytest.mark.long]),
    ],
)
def test_a_torchaudio_incompatible_with_torch_ends_a_job_with_one_line(job: str, tmp_path: Path) -> None:
    write_package(tmp_path, "torchaudio", "2.10.99", DOES_NOT_LOAD)
    ended = run_job(job, "--demo", stand_ins=tmp_path)
    assert ended.returncode == 1
    (line,) = [line for line in ended.stderr.splitlines() if "ERROR" in line]
    assert f"torch {installed_version('torch')} and torchaudio 2.10.99 do not work together" in line
    assert SYMBOL in line
    assert f"pip install '{required_version('torch')}' '{required_version('torchaudio')}'" in line
    assert "Traceback" not in ended.stderr
    (last,) = ended.stdout.splitlines()
    assert json.loads(last) == {"job": job.removesuffix(".py"), "exit_code": 1, "error": line.partition(": ")[2]}


def test_a_ray_without_its_extras_ends_a_job_with_one_line(tmp_path: Path) -> None:
    write_package(tmp_path, "ray", "2.60.0", '__path__ = []\n__version__ = "2.60.0"\n')
    ended = run_job("score_daily.py", "--demo", stand_ins=tmp_path)
    assert ended.returncode == 1
    message = json.loads(ended.stdout)["error"]
    assert "ray 2.60.0 do not work together" in message
    assert "pip install 'pyarrow" in message
    assert "'ray[data,default,train]" in message
    assert "Traceback" not in ended.stderr


def test_compatible_packages_explain_no_failure() -> None:
    assert explain_import_failure(ImportError("a bug")) is None


def test_requirements_are_in_pips_syntax() -> None:
    assert required_version("torch").startswith("torch==")
    assert required_version("torchaudio").startswith("torchaudio==")
    assert required_version("no-such-package") == "no-such-package"
    assert installed_version("no-such-package") == "(not installed)"
