"""Export the leads or the customers of a published day as a file that a CRM imports."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import tyro

from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.delivery.deliver import check_customer_days
from msmtfn.delivery.export import Product, export_calls, export_customers
from msmtfn.delivery.published import open_day
from msmtfn.errors import UsageError
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps
from msmtfn.storage.untrusted import escape_controls


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Export the leads or the customers of a published day as a file that a CRM imports.

    The first column is unique, so that importing a file twice changes nothing:
    - Of leads it is the day and the call, one row per scored call.
    - Of customers (--customers) it is the customer's id, so that every morning updates the same records.

    Cells that a spreadsheet would take for a formula begin with an apostrophe.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    product: tyro.conf.Positional[Product]
    """hubspot, salesforce, or csv for anything else."""
    leads: str
    """Root of the leads: a local folder or an s3:// address."""
    date: dt.date
    """The day, which must be published."""
    out: str
    """File to write, in place of what is there: a local path or an s3:// address."""
    customers: str | None = None
    """Root of the tables of customers; with it the rows are the customers, not the leads."""
    customer_days: int = 14
    """Number of days, the day itself included, in which a refusal holds; a table of customers has its own."""
    excel: bool = False
    """Begin the file with a byte order mark, by which Excel recognises UTF-8."""
    first: int | None = None
    """Number of rows to export, the best ones; by default all."""

    def __post_init__(self) -> None:
        """Check the number of rows, and that the file is not to be written among what is read.

        Raises:
            UsageError: the number is not positive, or the file lies there.
        """
        if self.first is not None and self.first < 1:
            raise UsageError(f"--first is {self.first}; it must be 1 or more")
        check_customer_days(self.customer_days)
        roots = {"--leads": self.leads, "--customers": self.customers}
        inputs = [NamedLocation(option, root) for option, root in roots.items() if root is not None]
        refuse_overlaps(inputs, [NamedLocation("--out", self.out)])


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_run, program, arguments), job="export")


def _run(program: str, arguments: Sequence[str]) -> None:
    options = tyro.cli(Arguments, prog=program, args=arguments, config=PARSER_OPTIONS)
    day = open_day(options.customers or options.leads, options.date)
    if options.customers is None:
        number = export_calls(
            day, options.product, options.out, options.customer_days, for_excel=options.excel, first=options.first
        )
        line = f"{number} leads of {options.date} are in {options.out}"
    else:
        number, nameless = export_customers(
            day, options.product, options.out, for_excel=options.excel, first=options.first
        )
        line = f"{number} customers of {options.date} are in {options.out}"
        if nameless:
            line += f"; {nameless} calls without a customer_id were left out"
    SafeConsole().print(escape_controls(line), highlight=False, soft_wrap=True)
