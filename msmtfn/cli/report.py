"""Make the page and the table of customers of a published day again, without scoring anything."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import tyro

from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.cli.deliveries import describe_deliveries
from msmtfn.delivery.deliver import DeliveryConfig, deliver_day
from msmtfn.errors import UsageError


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Make the page of a published day, its table of customers, or both, from its leads.

    The page is one file for a browser: whom to call back, how sure that is, why, and where to listen.

    `msmtfn score-daily --report … --customers …` makes both right after a day is published.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 4 another run is publishing the same customers.
    """

    leads: str
    """Root of the leads: a local folder or an s3:// address."""
    date: dt.date
    """The day, which must be published."""
    delivery: Annotated[DeliveryConfig, tyro.conf.arg(name="")] = field(default_factory=DeliveryConfig)
    """What to make, and where."""

    def __post_init__(self) -> None:
        """Check that there is something to make, and that it does not overlap the leads.

        Raises:
            UsageError: there is not, or it does.
        """
        if self.delivery.report is None and self.delivery.customers is None:
            raise UsageError("nothing is to be made; set --report, --customers or both")
        self.delivery.refuse_overlaps(self.leads)


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_run, program, arguments), job="report")


def _run(program: str, arguments: Sequence[str]) -> None:
    options = tyro.cli(Arguments, prog=program, args=arguments, config=PARSER_OPTIONS)
    deliver_day(options.leads, options.date, options.delivery, again=True)
    for line in describe_deliveries(options.delivery, options.date):
        SafeConsole().print(line, highlight=False, soft_wrap=True)
