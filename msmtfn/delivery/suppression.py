"""Find the customers whom nobody should ring: who is not to be called, gave no consent, or refused lately."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from msmtfn.delivery.published import PublishedDay, read_batches

DO_NOT_CALL: Final = "do_not_call"
NO_CONSENT: Final = "no_consent"
REFUSED: Final = "refused"
SUPPRESSING: Final = (DO_NOT_CALL, NO_CONSENT, REFUSED)
"""Reasons in `unranked_reason` that hold for the customer, not only for the call; the first one that applies counts."""

CUSTOMER_ID: Final = pa.field("customer_id", pa.string())
UNRANKED_REASON: Final = pa.field("unranked_reason", pa.string())


def find_suppressed(day: PublishedDay, before: Iterable[PublishedDay], customers: pa.Array) -> dict[str, str]:
    """Return the reason of each customer who is to be left alone.

    Args:
        day: the day.
        before: earlier days; of these only refusals count, since the manifest of the day says what else holds now.
        customers: ids of the customers to look for, so that memory depends on these alone.
    """
    reasons: dict[str, str] = {}
    customers = customers.drop_null()  # a call without a customer says nothing of another one
    _collect(reasons, day, SUPPRESSING, customers)
    for earlier in before:
        _collect(reasons, earlier, (REFUSED,), customers)
    return reasons


def _collect(reasons: dict[str, str], day: PublishedDay, counted: tuple[str, ...], customers: pa.Array) -> None:
    if not (day.has(CUSTOMER_ID.name) and day.has(UNRANKED_REASON.name)):
        return
    for rows in read_batches(day, [CUSTOMER_ID, UNRANKED_REASON]):
        found = rows.filter(pc.is_in(rows[UNRANKED_REASON.name], pa.array(counted)))
        found = found.filter(pc.is_in(found[CUSTOMER_ID.name], customers))
        for customer, reason in zip(*(column.to_pylist() for column in found.columns), strict=True):
            known = reasons.get(customer)
            if known is None or SUPPRESSING.index(reason) < SUPPRESSING.index(known):
                reasons[customer] = reason
