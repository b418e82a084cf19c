"""Deliver a published day: its table of customers and its page, both made of the leads alone, at any time again.

They stand outside the leads, whose folder engines read whole.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from msmtfn.delivery.customers import publish_customers
from msmtfn.delivery.page import PageOptions, write_page
from msmtfn.delivery.published import open_day
from msmtfn.delivery.recordings import check_template
from msmtfn.delivery.words import Language
from msmtfn.errors import UsageError
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps

logger = logging.getLogger(__name__)

MAX_LEADS: Final = 100_000
MAX_DAYS: Final = 366


@dataclass(frozen=True, kw_only=True, slots=True)
class DeliveryConfig:
    """Options of what is made of a published day for people, and where it goes."""

    report: str | None = None
    """Root of the pages, one per day at <report>/date=YYYY-MM-DD/index.html: a local folder or an s3:// address."""
    customers: str | None = None
    """Root of the tables of customers, published like the leads as <customers>/date=YYYY-MM-DD/*.parquet."""
    customer_days: int = 14
    """Number of days, the day itself included, in which a customer's calls count and a refusal holds."""
    report_language: Language = "en"
    """Language in which the page opens; the reader can switch it."""
    report_leads: int = 10_000
    """Number of ranked leads on the page, the best ones; counts are always those of the whole day."""
    recording_url_template: str | None = None
    """Address at which a browser finds a recording, such as https://recordings.example/{call_id}.
    It may also name {uri}, {path} (the uri without its scheme), {file} (its last part) and {date}; values are
    percent-encoded. Without it the page has no player."""
    report_outcomes: str | None = None
    """Folder that msmtfn outcomes wrote to (its --out), so that the page shows what became of the last weeks' leads."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: one is out of range.
        """
        check_customer_days(self.customer_days)
        if not 1 <= self.report_leads <= MAX_LEADS:
            raise UsageError(f"--report-leads is {self.report_leads}; it must be between 1 and {MAX_LEADS}")
        if self.recording_url_template is not None:
            check_template(self.recording_url_template)

    def refuse_overlaps(self, leads: str, inputs: Iterable[NamedLocation] = ()) -> None:
        """Check that nothing is delivered into the leads, into an input, or to one place twice.

        Raises:
            UsageError: two locations overlap.
        """
        roots = {"--report": self.report, "--customers": self.customers}
        outputs = [NamedLocation(option, root) for option, root in roots.items() if root is not None]
        read = [NamedLocation("--leads", leads)]
        if self.report_outcomes is not None:
            read.append(NamedLocation("--report-outcomes", self.report_outcomes))
        refuse_overlaps([*inputs, *read], outputs)


def check_customer_days(number: int) -> None:
    """Check a number of days.

    Raises:
        UsageError: it is out of range.
    """
    if not 1 <= number <= MAX_DAYS:
        raise UsageError(f"--customer-days is {number}; it must be between 1 and {MAX_DAYS}")


def deliver_day(
    leads: str,
    date: dt.date,
    config: DeliveryConfig,
    check: Callable[[], None] = lambda: None,
    *,
    again: bool = False,
) -> None:
    """Publish the table of customers and write the page of a published day, as far as the configuration asks for them.

    Args:
        leads: root of all leads.
        date: the day.
        config: what to make, and where.
        check: raises `LockedError` if another run has taken the day over.
        again: publish the customers again even if their table is of these very leads.

    Raises:
        JobError: the leads cannot be read, or something cannot be written; the day itself stays published.
    """
    if config.customers is None and config.report is None:
        return
    day = open_day(leads, date)
    if config.customers is not None:
        success = publish_customers(config.customers, day, config.customer_days, again=again, check=check)
        logger.info("%s: %d customers are published in %s", date, success.unknown["customers"], config.customers)
    if config.report is not None:
        check()
        options = PageOptions(
            language=config.report_language,
            max_leads=config.report_leads,
            num_days=config.customer_days,
            template=config.recording_url_template,
            outcomes=config.report_outcomes,
        )
        logger.info("%s: the page is %s", date, write_page(leads, day, config.report, options))
