from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import msmtfn
from msmtfn.cli import COMMANDS, main
from msmtfn.cli.commands import module_name

ROOT = Path(__file__).parents[2]


def test_the_help_names_every_command_without_importing_pytorch_or_ray() -> None:
    program = "import sys; from msmtfn.cli import main\ntry: main(['--help'])\nfinally: print(sorted(sys.modules))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {name} " in output for name in COMMANDS)
    assert "'torch'" not in output
    assert "'ray'" not in output


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"msmtfn {msmtfn.__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["score"], ["--demo"]])
def test_an_unknown_command_is_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main(arguments)
    assert "usage: msmtfn" in capsys.readouterr().err


def test_every_command_has_a_script_and_a_module() -> None:
    for name in map(module_name, COMMANDS):
        assert (ROOT / "jobs" / f"{name}.py").is_file()
        assert callable(importlib.import_module(f"msmtfn.cli.{name}").main)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_names_no_value_that_is_none(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [command, *({"train": ["paper"], "models": ["list"]}.get(command, [])), "--help"]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(arguments)
    shown = capsys.readouterr().out
    assert "--" in shown
    assert "{None}" not in shown


@pytest.mark.parametrize("position", range(3))
def test_ablations_has_options_of_its_own(position: int, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--corpus", "missing", "--help"]
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["evaluate", *arguments[:position], "--ablations", *arguments[position:]])
    shown = capsys.readouterr().out
    assert shown.startswith("usage: msmtfn evaluate --ablations ")
    assert "--seeds" in shown


def test_options_are_passed_to_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--model", "demo", "--out", "report"]) == 2
    assert '"job": "evaluate", "exit_code": 2' in capsys.readouterr().out.splitlines()[-1]
