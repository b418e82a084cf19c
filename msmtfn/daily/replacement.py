"""Keep a published day from being replaced by a worse one, such as that of a broken model."""

from __future__ import annotations

from typing import Final

from msmtfn.daily.success import Success
from msmtfn.errors import PublishError

MAX_REJECTED_SHARE: Final = 0.2
"""Default of the maximum share of a day's calls that may be rejected."""


def refuse_worse(before: Success | None, after: Success, max_rejected_share: float) -> None:
    """Refuse to replace a published day by one that nobody could use while the published one is better.

    A day is refused if it has no calls with a result, or more rejects than allowed. The published day is better if it
    has calls with a result and a smaller share of rejects.

    Args:
        before: record of the published day; None if the day is not published.
        after: record of the day that is to replace it, with its counts.
        max_rejected_share: maximum share of rejects.

    Raises:
        PublishError: the day must not be replaced; the message says why, and how to replace it nevertheless.
    """
    if before is None or not before.scored or not after.calls:
        return
    is_bad = not after.scored or _rejected_share(after) > max_rejected_share
    if is_bad and _rejected_share(before) < _rejected_share(after):
        reasons = ", ".join(f"{reason} {number}" for reason, number in sorted(after.rejected_by_reason.items()))
        raise PublishError(
            f"{after.date}: {after.rejected} of {after.calls} calls were rejected ({reasons}), but only "
            f"{before.rejected} of {before.calls} in the published day, which stays; check the model {after.model!r} "
            "and the manifest; the same command with --force replaces the day nevertheless"
        )


def _rejected_share(success: Success) -> float:
    return success.rejected / max(success.calls, 1)
