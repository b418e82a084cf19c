"""The wheel, installed in an empty environment and used in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.job import ROOT

TRY = """
from pathlib import Path
import msmtfn
assert Path(msmtfn.__file__).is_relative_to({venv!r}), msmtfn.__file__
score = msmtfn.CallClassifier.from_pretrained("demo").score_waveform([0.0] * 16000, 8000)
assert score.error_code is None, score
print(score.intent)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_brings_the_command_the_demo_and_the_front_door(tmp_path: Path) -> None:
    """The packages that it needs are those of this environment; the wheel is the only thing that is installed."""
    venv, folder = tmp_path / "venv", tmp_path / "empty"
    folder.mkdir()

    def run(*command: object) -> str:
        words = [str(word) for word in command]
        done = subprocess.run(words, cwd=folder, env={"HOME": str(folder)}, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("msmtfn-*.whl")
    run(sys.executable, "-m", "venv", venv)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    (site_packages,) = (venv / "lib").glob("python*/site-packages")
    packages = Path(pytest.__file__).parents[1]
    # Behind the environment's own packages, and without the project's, which its own path entry would add.
    (site_packages / "packages.pth").write_text(f"{packages}\n")
    assert "score-daily" in run(venv / "bin" / "msmtfn", "--help")
    assert run(python, "-c", TRY.format(venv=str(venv))).strip() in "ABCDE"
    last = run(venv / "bin" / "msmtfn", "score-daily", "--demo").splitlines()[-1]
    assert json.loads(last)["exit_code"] == 0
