"""The wheel, installed into a fresh environment and used in an empty folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.job import ROOT

SCORE_WITH_DEMO_MODEL = """
from pathlib import Path
import msmtfn
assert Path(msmtfn.__file__).is_relative_to({venv!r}), msmtfn.__file__
score = msmtfn.CallClassifier.from_pretrained("demo").score_waveform([0.0] * 16000, 8000)
assert score.error_code is None, score
print(score.intent)
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_wheel_provides_the_command_the_demo_and_the_python_api(tmp_path: Path) -> None:
    """Install only the wheel; its dependencies are the packages of this environment."""
    venv, folder = tmp_path / "venv", tmp_path / "empty"
    folder.mkdir()

    def run(*command: object) -> str:
        words = [str(word) for word in command]
        process = subprocess.run(
            words, cwd=folder, env={"HOME": str(folder)}, capture_output=True, text=True, check=False
        )
        assert process.returncode == 0, process.stdout + process.stderr
        return process.stdout

    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("msmtfn-*.whl")
    run(sys.executable, "-m", "venv", venv)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    (site_packages,) = (venv / "lib").glob("python*/site-packages")
    packages = Path(pytest.__file__).parents[1]
    # The .pth file adds this environment's packages after the new one's, but does not process their .pth files, which
    # would add the project itself.
    (site_packages / "packages.pth").write_text(f"{packages}\n")
    assert "score-daily" in run(venv / "bin" / "msmtfn", "--help")
    assert run(python, "-c", SCORE_WITH_DEMO_MODEL.format(venv=str(venv))).strip() in "ABCDE"
    last = run(venv / "bin" / "msmtfn", "score-daily", "--demo").splitlines()[-1]
    assert json.loads(last)["exit_code"] == 0
