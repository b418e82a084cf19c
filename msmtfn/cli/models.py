"""Versions of a model: list them, make one current, go back to the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import tyro
from rich.console import Console

from msmtfn import storage
from msmtfn.cli.command import run_command
from msmtfn.model.registry import list_records, promote, read_current, roll_back


@dataclass(frozen=True, kw_only=True, slots=True)
class List:
    """Show all versions, what was decided about each, and which is current."""

    models: str
    """Root of the versions, as given to train.py --register: a folder or an s3:// address."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback(List):
    """Make the version current that was so before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promote(List):
    """Make a version current, whatever was decided about it."""

    version: str
    """Its name, as `list` shows it."""


def main(program: str, arguments: Sequence[str]) -> int:
    """Run a command and return its exit code.

    Args:
        program: the command's name in its help.
        arguments: its options.
    """
    return run_command(partial(_run, program, arguments))


def _run(program: str, arguments: Sequence[str]) -> None:
    command = tyro.cli(List | Promote | Rollback, prog=program, args=arguments, description=__doc__)
    root = storage.absolute(command.models)
    match command:
        case Promote():
            lines = [f"{storage.join(root, promote(root, command.version).version)} is current"]
        case Rollback():
            lines = [f"{storage.join(root, roll_back(root).version)} is current"]
        case _:
            lines = _lines(root)
    for line in lines:
        Console().print(line, highlight=False, soft_wrap=True)


def _lines(root: str) -> list[str]:
    """A line a version, the oldest first."""
    current = read_current(root)
    is_current = None if current is None else current.version
    return [_line(record, is_current) for record in list_records(root)] or [f"{root} has no version yet"]


def _line(record: Mapping[str, Any], current: str | None) -> str:
    mark = " (current)" if record["version"] == current else ""
    decision = record["decision"]
    if decision is None:
        return f"{record['version']}{mark}  not finished"
    figures = f"{100 * decision['candidate']:.1f} % of {decision['calls']:,} held-out calls named rightly"
    if decision["compared_with"] is not None:
        figures += f", {decision['compared_with']} {100 * decision['present']:.1f} %"
    verdict = "passed" if decision["passed"] else "did not pass"
    return f"{record['version']}{mark}  {record.get('added_at', '')}  {verdict}: {figures}; {decision['reason']}"
