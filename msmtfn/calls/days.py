"""Find the days of a root of manifests."""

from __future__ import annotations

import datetime as dt

from msmtfn import storage
from msmtfn.errors import ManifestError


def find_days(root: str, first: dt.date | None = None, last: dt.date | None = None) -> list[dt.date]:
    """List the days from `first` to `last`, both included, that have a folder in a root of manifests, in order.

    Raises:
        ManifestError: no day lies in that range.
        StorageError: the storage refused.
    """
    days = storage.list_days(storage.absolute(root), follow_links=True)
    if not days:
        raise ManifestError(f"{root} has no folder date=YYYY-MM-DD; check the folder")
    chosen = [day for day in days if (first is None or first <= day) and (last is None or day <= last)]
    if not chosen:
        raise ManifestError(
            f"{root} has no day from {first or 'the first'} to {last or 'the last'}; it has {days[0]} to {days[-1]}; "
            "check the folder and the dates"
        )
    return chosen
