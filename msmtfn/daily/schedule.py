"""Find the days that are due, and estimate a day's duration from earlier days."""

from __future__ import annotations

import datetime as dt
import statistics
from dataclasses import dataclass

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.daily.publish import NUM_EARLIER, SUCCESS_FILE, day_folder, read_earlier_successes, read_success
from msmtfn.daily.success import Success


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected cost of a day.

    Attributes:
        seconds: from the start of the scoring to the published day.
        audio_hours: of the recordings.
        num_days: number of earlier days that it is made from.
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
    return next(
        (day for day in reversed(find_days(manifests)) if read_success(storage.absolute(leads), day) is None), None
    )


def other_unscored_days(manifests: str, leads: str, date: dt.date, number: int = NUM_EARLIER) -> list[dt.date]:
    """Return the days just before a day that have a manifest but no leads, because they came late or failed.

    Args:
        manifests: the root of all manifests.
        leads: the root of all leads.
        date: the day.
        number: maximum number of days to look at.
    """
    before = [day for day in storage.list_days(storage.absolute(manifests), follow_links=True) if day < date][-number:]
    return [day for day in before if not storage.exists(storage.join(day_folder(leads, day), SUCCESS_FILE))]


def estimate_day(leads: str, date: dt.date, num_calls: int) -> Estimate | None:
    """Estimate the cost of a number of calls from the days published before.

    The stages are taken to start, and then a call to cost, as on the median day. Days that were finished by a second
    run, whose seconds are not those of all calls, are left out.

    Returns:
        The estimate; None if no earlier day is comparable.
    """
    earlier = [success for success in read_earlier_successes(leads, date) if _is_comparable(success)]
    if not earlier:
        return None
    startup = statistics.median(map(_startup, earlier))
    seconds = statistics.median((success.seconds - _startup(success)) / success.calls for success in earlier)
    hours = statistics.median(success.audio_hours / success.calls for success in earlier)
    return Estimate(startup + seconds * num_calls, hours * num_calls, len(earlier))


def _startup(success: Success) -> float:
    return success.startup_seconds or 0.0


def _is_comparable(success: Success) -> bool:
    return success.calls > 0 and not success.calls_resumed and success.retried is None
