"""Import a published corpus: from its files as they are distributed to manifests and recordings."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import tyro
from rich.console import Console, Group, RenderableType
from rich.progress import MofNCompleteColumn
from rich.table import Table
from rich.text import Text

from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.corpora.published.corpus import PublishedCorpus
from msmtfn.corpora.published.emodb import read_emodb
from msmtfn.corpora.published.importing import import_corpus
from msmtfn.corpora.published.market_calls import read_market_calls
from msmtfn.corpora.published.meld import read_meld
from msmtfn.corpora.published.sentiment import read_mosei, read_mosi
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.errors import UsageError
from msmtfn.progress import LineLog, TimeLeft, show_bar

logger = logging.getLogger("msmtfn.import_corpus")

CorpusName = Literal["mosi", "mosei", "meld", "marketcalls", "emodb"]
READERS: Final[Mapping[CorpusName, Callable[[Path], PublishedCorpus]]] = {
    "mosi": read_mosi,
    "mosei": read_mosei,
    "meld": read_meld,
    "marketcalls": read_market_calls,
    "emodb": read_emodb,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Import a published corpus: from its files as they are distributed to manifests and recordings of three splits.

    A video or dialogue becomes one call, its utterances the turns; its labels are columns of the manifest.

    Numbers that differ from the published ones are warnings.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    corpus: tyro.conf.Positional[CorpusName]
    """CMU-MOSI, CMU-MOSEI, MELD, MarketCalls or EmoDB."""
    folder: tyro.conf.Positional[Path]
    """Folder of the corpus as it is distributed."""
    out: tyro.conf.Positional[Path]
    """Folder to write: new, empty, or with this same corpus, complete or unfinished."""
    text_only: bool = False
    """Read no clips and write silence instead, for networks that read only text."""
    workers: int = 0
    """Number of threads that decode; 0 starts one per core."""

    def __post_init__(self) -> None:
        """Check the values of the options.

        Raises:
            UsageError: an option is out of range, or the folder does not exist.
        """
        if self.workers < 0:
            raise UsageError(f"--workers is {self.workers}; it must be at least 1, or 0 for one per core")
        if not self.folder.is_dir():
            raise UsageError(f"{self.folder} is no folder; give the folder of the corpus")
        if self.out.resolve().is_relative_to(self.folder.resolve()):
            raise UsageError(f"{self.out} is in {self.folder}, which is only read; give another folder to write")


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_import, program, arguments), job="import")


def _import(program: str, arguments: Sequence[str]) -> None:
    options, console = tyro.cli(Arguments, prog=program, args=arguments, config=PARSER_OPTIONS), SafeConsole()
    started = time.monotonic()
    corpus = READERS[options.corpus](options.folder)
    with _show_progress(console, len(corpus.conversations)) as report:
        success = import_corpus(
            corpus,
            options.out,
            text_only=options.text_only,
            num_workers=options.workers or len(os.sched_getaffinity(0)),
            report=report,
        )
    console.print(_summarize(options.out, success, time.monotonic() - started))


@contextmanager
def _show_progress(console: Console, num_calls: int) -> Iterator[Callable[[int], None]]:
    """Show progress as a bar on a terminal, else in the log."""
    time_left = TimeLeft(num_calls)
    if console.is_terminal:
        with show_bar(console, "importing", num_calls, MofNCompleteColumn()) as show:
            yield lambda done: show(time_left.describe(done), done)
        return
    log = LineLog(logger)
    yield lambda done: log.show(
        f"{done} of {num_calls} calls written, {time_left.describe(done)}", is_last=done == num_calls
    )


def _summarize(out: Path, success: Mapping[str, Any], seconds: float) -> RenderableType:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in success["utterances"].items() if count)
    facts = {
        "calls": f"{success['calls']:,}",
        "clips": outcomes,
        "time": f"{seconds:.1f} seconds",
        "folder": str(out),
    }
    table = Table("fold", *SPLITS, title="Calls", title_justify="left")
    for fold, sizes in success["splits"].items():
        table.add_row(fold or "all", *(f"{sizes[split]:,}" for split in SPLITS))
    return Group(
        Text(success["corpus"], style="bold"),
        Text("\n".join(f"  {name:<9} {value}" for name, value in facts.items())),
        Text("\n".join(f"  WARNING   {each}" for each in success["differences"])),
        table,
    )
