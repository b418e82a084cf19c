"""One publication of a day: the names of its files, and the record that is written before the first of them.

    <leads>/date=YYYY-MM-DD/leads-<publication>-NNNNN.parquet            or transcripts-…, customers-…, below their own
    <leads>/_runs/publication-YYYY-MM-DD-<publication>.json      until the publication is done

By the record the next run finds what a publisher left that died or lost the day. Nothing is deleted from a day but
files of a publication that a `_SUCCESS` or such a record names.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
import uuid
from collections.abc import Collection
from typing import Final

from msmtfn import storage

PUBLICATION: Final = re.compile(r"[0-9a-f]{8}")
PUBLISHED_FILE: Final = re.compile(r"(?:leads|transcripts|customers)-([0-9a-f]{8})-[0-9]{5,9}\.parquet")
RUN: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})-[0-9a-f]{12}(-(after|retry)-[0-9a-f]{8})?")
"""Name of a run's folder."""


def new_publication() -> str:
    """Return a name that no other publication has."""
    return uuid.uuid4().hex[:8]


def file_name(publication: str, number: int, table: str = "leads") -> str:
    """Return the name of one file of a publication of leads, transcripts or customers."""
    return f"{table}-{publication}-{number:05d}.parquet"


def begin(runs: str, date: dt.date, publication: str) -> None:
    """Record a publication before its first file is written."""
    storage.write_text(_record_of(runs, date, publication), json.dumps({"publication": publication}) + "\n")


def begun(runs: str, date: dt.date) -> set[str]:
    """Return the publications of a day that were begun and not finished."""
    pattern = re.compile(rf"publication-{date.isoformat()}-([0-9a-f]{{8}})\.json")
    names = [file.rpartition("/")[2] for file in storage.list_files(runs, ".json")]
    return {found[1] for name in names if (found := pattern.fullmatch(name))}


def days_begun(runs: str) -> set[dt.date]:
    """Return the days that have a publication that was begun and not finished."""
    pattern = re.compile(r"publication-([0-9]{4}-[0-9]{2}-[0-9]{2})-[0-9a-f]{8}\.json")
    names = [file.rpartition("/")[2] for file in storage.list_files(runs, ".json")]
    days = set()
    for name in names:
        with contextlib.suppress(ValueError):  # a name like a record's, of a day that no calendar has
            days |= {dt.date.fromisoformat(found[1])} if (found := pattern.fullmatch(name)) else set()
    return days


def finish(runs: str, date: dt.date, publications: Collection[str]) -> None:
    """Delete the records of publications whose files are published, or gone."""
    for publication in sorted(publications):
        storage.delete(_record_of(runs, date, publication))


def publications_in(folder: str) -> dict[str, list[str]]:
    """Return the files in a day's folder that have names of ours, by publication."""
    found: dict[str, list[str]] = {}
    for file in storage.list_files(folder, ".parquet"):
        publication = publication_of(file.rpartition("/")[2])
        if publication is not None:
            found.setdefault(publication, []).append(file)
    return found


def delete_files(folder: str, publications: Collection[str]) -> None:
    """Delete the files of some publications from a day's folder."""
    if publications:
        for publication, files in publications_in(folder).items():
            for file in files if publication in publications else ():
                storage.delete(file)


def _record_of(runs: str, date: dt.date, publication: str) -> str:
    return storage.join(runs, f"publication-{date.isoformat()}-{publication}.json")


def is_publication(name: object) -> bool:
    """Return True if a name is one that `new_publication` gives."""
    return isinstance(name, str) and PUBLICATION.fullmatch(name) is not None


def publication_of(name: object) -> str | None:
    """Return the publication that a file's name carries; None if the file is not one of ours."""
    found = PUBLISHED_FILE.fullmatch(name) if isinstance(name, str) else None
    return None if found is None else found[1]
