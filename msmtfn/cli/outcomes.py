"""Compare the leads with what became of them, as a file of the CRM says."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import pyarrow as pa
import tyro
from rich.table import Table

from msmtfn import storage
from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.delivery.figures import FIGURES_FILE
from msmtfn.delivery.lift import measure_outcomes
from msmtfn.delivery.outcomes import UNUSED_FILE, KnownOutcomes, join_outcomes
from msmtfn.errors import UsageError
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps

MAX_DAYS: Final = 3_660

logger = logging.getLogger("msmtfn.outcomes")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Compare the leads of the last weeks with what became of them.

    Shows how many of the leads were converted: by decile and band of the lead score, among the first of each day, and
    by agent, domain, language and codec, with a warning where a group differs from the others or is too small.

    Writes two tables: outcomes.parquet with these figures, which the page shows (--report-outcomes), and unused.parquet
    with the rows of the file that are not used, and why.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    outcomes: str
    """Parquet or CSV file: a local path or an s3:// address. Its columns are call_id or customer_id, converted (true or
    false), and if known the date of the outcome (YYYY-MM-DD)."""
    leads: str
    """Root of the leads: a local folder or an s3:// address."""
    out: str
    """Folder or s3:// address for the two tables, which are replaced."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """Last day of leads to look at; by default the last published one."""
    days: int = 28
    """Number of days of leads to look at, the last one included."""
    first: tuple[int, ...] = (10, 50, 100)
    """Numbers of first leads of a day whose conversion is shown."""

    def __post_init__(self) -> None:
        """Check the numbers, and that nothing is written among what is read.

        Raises:
            UsageError: a number is out of range, or the locations overlap.
        """
        if not 1 <= self.days <= MAX_DAYS:
            raise UsageError(f"--days is {self.days}; it must be between 1 and {MAX_DAYS}")
        if any(number < 1 for number in self.first):
            raise UsageError(f"--first is {min(self.first)}; it must be 1 or more")
        inputs = [NamedLocation("--outcomes", self.outcomes), NamedLocation("--leads", self.leads)]
        outputs = [storage.join(self.out, name) for name in (FIGURES_FILE, UNUSED_FILE)]
        refuse_overlaps(inputs, [NamedLocation("--out", output) for output in outputs])


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_run, program, arguments), job="outcomes")


def _run(program: str, arguments: Sequence[str]) -> None:
    options = tyro.cli(Arguments, prog=program, args=arguments, config=PARSER_OPTIONS)
    known = join_outcomes(options.outcomes, options.leads, options.last_date, options.days)
    out = storage.absolute(options.out)
    storage.make_folder(out)
    storage.write_parquet(storage.join(out, UNUSED_FILE), known.unused)
    if len(known.unused):
        logger.warning("%d rows are not used: %s; see %s", len(known.unused), known.unused_by_reason, UNUSED_FILE)
    figures = measure_outcomes(known, options.first)
    storage.write_parquet(storage.join(out, FIGURES_FILE), figures)
    console = SafeConsole()
    console.print(_summary(known, out), highlight=False, soft_wrap=True)
    console.print(_make_table(figures))


def _summary(known: KnownOutcomes, out: str) -> str:
    unused = "".join(f", {reason} {number}" for reason, number in known.unused_by_reason.items())
    return (
        f"Outcomes of {len(known.leads):,} leads, of {known.scored:,} scored from {known.first_date} to "
        f"{known.last_date}; {len(known.unused):,} rows not used{unused}: {out}"
    )


def _make_table(figures: pa.Table) -> Table:
    table = Table(title="Conversion (%; 95 % intervals)", title_justify="left")
    for column in ("measure", "slice", "leads", "converted", "%", "from", "to", "lift", "mean score", "warning"):
        table.add_column(column, justify="left" if column in ("measure", "slice", "warning") else "right")
    for row in figures.to_pylist():
        shares = (f"{100 * row[name]:.1f}" for name in ("conversion", "low", "high"))
        lift = "-" if row["lift"] is None else f"{row['lift']:.2f}"
        warning = (row["warning"] or "").replace("_", " ")
        if row["p_adjusted"] is not None and warning:
            warning += f" (p {row['p_adjusted']:.1g})"
        counts = (f"{row[name]:,}" for name in ("leads", "converted"))
        table.add_row(row["measure"], row["slice"], *counts, *shares, lift, f"{row['mean_score']:.1f}", warning)
    return table
