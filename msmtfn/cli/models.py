"""Manage the versions of a model: list them, promote one, or roll back to the previous one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import tyro

from msmtfn import storage
from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.model.location import read_current
from msmtfn.registry.records import VersionRecord
from msmtfn.registry.versions import list_records, promote, roll_back


@dataclass(frozen=True, kw_only=True, slots=True)
class List:
    """List all versions, the decision on each of them, and which one is current."""

    models: str
    """Root of the versions, as passed to the train command's --register: a local folder or an s3:// address."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollback(List):
    """Make the previously current version current again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Promote(List):
    """Make a version current, whatever the decision on it was."""

    version: str
    """Name of the version, as `list` shows it."""


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_run, program, arguments))


def _run(program: str, arguments: Sequence[str]) -> None:
    command = tyro.cli(
        List | Promote | Rollback, prog=program, args=arguments, description=__doc__, config=PARSER_OPTIONS
    )
    root = storage.absolute(command.models)
    match command:
        case Promote():
            lines = [f"{storage.join(root, promote(root, command.version).version)} is current"]
        case Rollback():
            lines = [f"{storage.join(root, roll_back(root).version)} is current"]
        case _:
            lines = _describe_all(root)
    for line in lines:
        SafeConsole().print(line, highlight=False, soft_wrap=True)


def _describe_all(root: str) -> list[str]:
    """Return one line per version, the oldest first."""
    current = read_current(root)
    current_version = None if current is None else current.version
    return [_describe(record, current_version) for record in list_records(root)] or [f"{root} has no version yet"]


def _describe(record: VersionRecord, current: str | None) -> str:
    name = f"{record.version} (current)" if record.version == current else record.version
    return f"{name}  {record.describe()}"
