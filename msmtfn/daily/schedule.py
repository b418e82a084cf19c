"""Find the days that are due, and estimate a day's duration from earlier days."""

from __future__ import annotations

import datetime as dt
import statistics
from dataclasses import dataclass
from typing import Any

from msmtfn import storage
from msmtfn.daily.publish import NUM_EARLIER, SUCCESS_FILE, day_folder, published_before, read_success
from msmtfn.errors import ManifestError


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of a day.

    Attributes:
        seconds: from the start of the scoring to the published day.
        audio_hours: of the recordings.
        num_days: earlier days that it is made from.
    """

    seconds: float
    audio_hours: float
    num_days: int


def newest_unscored_day(manifests: str, leads: str) -> dt.date | None:
    """Return the newest day that has a manifest folder but no published leads; None if all are published.

    Raises:
        ManifestError: there is no day at all.
        StorageError: the storage refused.
    """
    days = storage.list_days(storage.absolute(manifests), follow_links=True)
    if not days:
        raise ManifestError(f"{manifests} has no folder date=YYYY-MM-DD; check --manifests, or give --date")
    return next((day for day in reversed(days) if read_success(storage.absolute(leads), day) is None), None)


def other_unscored_days(manifests: str, leads: str, date: dt.date, number: int = NUM_EARLIER) -> list[dt.date]:
    """Return the days just before a day that have a manifest but no leads, because they came late or failed.

    Args:
        manifests: the root of all manifests.
        leads: the root of all leads.
        date: the day.
        number: of days that are looked at.
    """
    before = [day for day in storage.list_days(storage.absolute(manifests), follow_links=True) if day < date][-number:]
    return [day for day in before if not storage.exists(storage.join(day_folder(leads, day), SUCCESS_FILE))]


def days_between(manifests: str, first: dt.date | None, last: dt.date | None) -> list[dt.date]:
    """Return the days of a range, both ends included, that have a manifest folder, in order.

    Raises:
        ManifestError: there is none.
        StorageError: the storage refused.
    """
    days = storage.list_days(storage.absolute(manifests), follow_links=True)
    chosen = [day for day in days if (first is None or first <= day) and (last is None or day <= last)]
    if not chosen:
        held = f"it has {days[0]} to {days[-1]}" if days else "it has no folder date=YYYY-MM-DD"
        raise ManifestError(
            f"{manifests} has no day from {first or 'the first'} to {last or 'the last'}; {held}; check --manifests, "
            "--from and --to"
        )
    return chosen


def estimate_day(leads: str, date: dt.date, num_calls: int) -> Estimate | None:
    """Estimate the cost of a number of calls from the days published before.

    The stages are taken to start, and then a call to cost, as on the median day. Days that were finished by a second
    run, whose seconds are not those of all calls, are left out.

    Returns:
        The estimate; None where no earlier day tells.
    """
    told = [success for success in published_before(leads, date) if _tells(success)]
    if not told:
        return None
    startup = statistics.median(map(_startup, told))
    seconds = statistics.median((success["seconds"] - _startup(success)) / success["calls"] for success in told)
    hours = statistics.median(success["audio_hours"] / success["calls"] for success in told)
    return Estimate(startup + seconds * num_calls, hours * num_calls, len(told))


def _startup(success: dict[str, Any]) -> float:
    return float(success.get("startup_seconds", 0.0))


def _tells(success: dict[str, Any]) -> bool:
    has_all = {"calls", "seconds", "audio_hours"} <= success.keys()
    return bool(has_all and success["calls"] and not success.get("calls_resumed") and "retried" not in success)
