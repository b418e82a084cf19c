"""Describe on the terminal what was made of a day: where its page is, and what its table of customers holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from msmtfn import storage
from msmtfn.daily.publish import day_folder, read_success
from msmtfn.delivery.deliver import DeliveryConfig
from msmtfn.delivery.page import PAGE_FILE
from msmtfn.storage.untrusted import escape_controls


def describe_deliveries(config: DeliveryConfig, date: dt.date) -> Iterator[str]:
    """Yield one line for the customers and one for the page, as far as there are such."""
    if config.customers is not None:
        root = storage.absolute(config.customers)
        success = read_success(root, date)
        counts = {} if success is None else success.unknown
        reasons = counts.get("customers_unranked_by_reason") or {}
        unranked = "".join(f", {reason} {number}" for reason, number in sorted(reasons.items()))
        line = f"Customers: {counts.get('customers')}, ranked {counts.get('customers_ranked')}{unranked}"
        yield escape_controls(f"{line}: {day_folder(root, date)}")
    if config.report is not None:
        yield escape_controls(f"Page: {storage.join(day_folder(storage.absolute(config.report), date), PAGE_FILE)}")
