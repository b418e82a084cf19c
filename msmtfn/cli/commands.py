"""Dispatch to the commands of msmtfn."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msmtfn
from msmtfn.cli.command import describe_error, print_result, start_log
from msmtfn.cli.environment import explain_import_failure
from msmtfn.errors import JobError

COMMANDS: Final = {
    "score-daily": "score a day of recorded calls and publish the leads",
    "transcribe-daily": "transcribe a day of recorded calls and publish the transcripts",
    "report": "make the page and the customers of a published day again",
    "export": "export a published day for HubSpot, Salesforce or as CSV",
    "outcomes": "compare the leads with what became of them",
    "train": "train the network on labelled calls",
    "evaluate": "evaluate a model, or run the paper's ablations",
    "calibrate": "calibrate a model on labelled calls",
    "models": "list, promote and roll back versions of a model",
    "simulate-calls": "generate a corpus of labelled sales calls",
    "train-recogniser": "train the demo's recogniser on simulated calls",
    "import": "import a published corpus: MOSI, MOSEI, MELD, MarketCalls or EmoDB",
}
"""Commands and their summaries."""

LONGER_NAMES: Final = {"import": "import-corpus"}
"""Other names of commands whose own name Python reserves; they name module and script."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `msmtfn` and return its exit code.

    Args:
        arguments: name of the command and its options; by default those of the process.
    """
    listed = "\n".join(f"  {name:<18}{summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="msmtfn",
        usage="msmtfn [-h] [--version] COMMAND ...",
        description=f"Rank yesterday's sales calls by how likely the customer is to buy.\n\ncommands:\n{listed}",
        epilog="`msmtfn COMMAND --help` lists a command's options; `msmtfn score-daily --demo` shows it at work.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"msmtfn {msmtfn.__version__}")
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    arguments = sys.argv[1:] if arguments is None else arguments
    command = parser.parse_args(arguments[:1]).command
    return _run(command, f"msmtfn {command}", arguments[1:])


def run_script(path: str) -> int:
    """Run the command that a script in `jobs/` is named after, with the process's arguments, and return its exit code.

    Args:
        path: `__file__` of the script; `score_daily.py` runs `score-daily`.
    """
    return _run(Path(path).stem.replace("_", "-"), Path(path).name, sys.argv[1:])


def module_name(command: str) -> str:
    """Return the name of a command's module in `msmtfn.cli` and of its script: its own, with underscores."""
    return LONGER_NAMES.get(command, command).replace("-", "_")


def _run(command: str, program: str, arguments: Sequence[str]) -> int:
    name = module_name(command)
    try:
        module = importlib.import_module(f"msmtfn.cli.{name}")
    except Exception as exc:
        error = exc if isinstance(exc, JobError) else explain_import_failure(exc)
        start_log()
        code, cause = describe_error(error or exc)
        print_result(name, code, error=cause)
        return code
    exit_code: int = module.main(program, arguments)
    return exit_code
