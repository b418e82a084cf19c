"""Generate a corpus of labelled sales calls in Mandarin for which the best possible accuracy is known."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console, Group, RenderableType
from rich.progress import MofNCompleteColumn
from rich.table import Table
from rich.text import Text

from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.corpora.simulation.ceilings import READERS
from msmtfn.corpora.simulation.corpus import write_corpus
from msmtfn.corpora.simulation.plan import SimulationConfig
from msmtfn.errors import UsageError
from msmtfn.labels import TASKS
from msmtfn.progress import LineLog, TimeLeft, show_bar

logger = logging.getLogger("msmtfn.simulate_calls")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Generate a corpus of labelled sales calls in Mandarin: manifests and recordings of three splits.

    What words and voices reveal of the intent is drawn from a known distribution.

    ceilings.json holds the best accuracy that any network can therefore reach.

    The same options give the same bytes, with any number of workers.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    out: Path
    """Folder of the corpus: new, empty, or with this same corpus, complete or unfinished."""
    workers: int = 0
    """Number of processes that synthesise speech; 0 starts one per core."""
    simulation: SimulationConfig = field(default_factory=SimulationConfig)
    """Size and content of the corpus."""

    def __post_init__(self) -> None:
        """Check the values of the options.

        Raises:
            UsageError: an option is out of range.
        """
        if self.workers < 0:
            raise UsageError(f"--workers is {self.workers}; it must be at least 1, or 0 for one per core")


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_simulate, program, arguments), job="simulate_calls")


def _simulate(program: str, arguments: Sequence[str]) -> None:
    options = tyro.cli(Arguments, prog=program, args=arguments, config=PARSER_OPTIONS)
    _run(options, SafeConsole())


def _run(arguments: Arguments, console: Console) -> None:
    num_workers = min(arguments.workers or len(os.sched_getaffinity(0)), arguments.simulation.calls)
    started = time.monotonic()
    with _show_progress(console, arguments.simulation.calls) as report:
        success = write_corpus(arguments.out, arguments.simulation, num_workers=num_workers, report=report)
    console.print(_summarize(arguments.out, success, time.monotonic() - started, num_workers))


@contextmanager
def _show_progress(console: Console, num_calls: int) -> Iterator[Callable[[int], None]]:
    """Show progress as a bar on a terminal, else in the log."""
    time_left = TimeLeft(num_calls)

    def describe(done: int) -> str:
        return f"{time_left.rate(done):.1f} calls/s, {time_left.describe(done)}"

    if console.is_terminal:
        with show_bar(console, "generating", num_calls, MofNCompleteColumn()) as show:
            yield lambda done: show(describe(done), done)
        return
    log = LineLog(logger)
    yield lambda done: log.show(f"{done} of {num_calls} calls made, {describe(done)}", is_last=done == num_calls)


def _summarize(out: Path, success: Mapping[str, Any], seconds: float, num_workers: int) -> RenderableType:
    """Return a summary of the corpus and of the accuracy that is possible on it."""
    splits = [
        f"{name} {sum(split['intents'].values())} ("
        + ", ".join(f"{intent} {count}" for intent, count in split["intents"].items())
        + ")"
        for name, split in success["splits"].items()
    ]
    minutes = 60 * success["audio_hours"] / success["calls"]
    facts = {
        "calls": f"{success['calls']:,} of {success['customers']:,} customers, {success['rounds']:,} rounds",
        "splits": ", ".join(splits),
        "audio": f"{success['audio_hours']:.2f} hours, {minutes:.2f} minutes per call",
        "wording": f"{success['fresh_test_turns']:.0%} of the customers' turns in test share no sentence with training",
        "time": f"{seconds:.1f} seconds, {num_workers} workers",
        "folder": str(out),
    }
    lines = Text("\n".join(f"  {name:<9} {value}" for name, value in facts.items()))
    ceilings = success["ceilings"]
    return Group(
        Text("Simulated calls", style="bold"),
        lines,
        _make_table("Best possible accuracy (%)", ceilings["best_possible"]),
        _make_table("Accuracy of the same readers on this test split (%)", ceilings["best_reader_of"]["test"]),
    )


def _make_table(title: str, ceilings: Mapping[str, Mapping[str, float]]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("task")
    for reader in READERS:
        table.add_column(reader.replace("_", " "), justify="right")
    for task in TASKS:
        table.add_row(task, *(f"{100 * ceilings[task][reader]:.1f}" for reader in READERS))
    return table
