"""A Delta table over the published files: whole days at any moment, and earlier publications by time travel.

`_SUCCESS` decides what a day is; the log follows it. To register a day is to read the table, then `_SUCCESS`, and to
commit the very next version of the table, or to begin again. So nobody can commit what was replaced before the version
that he read, and the log never names a file that was deleted: files of a replaced publication go only once the log
agrees with `_SUCCESS` about the day, and not before their retention has passed. A crash leaves the log behind
`_SUCCESS`, with the files that it names still there; the next run registers the day.
"""

from __future__ import annotations

import datetime as dt
import logging
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from msmtfn import storage
from msmtfn.daily.delta_log import DeltaLog, RegisteredFile, create_log, open_log
from msmtfn.daily.publication import days_begun, delete_files, publication_of
from msmtfn.daily.publish import NUM_EARLIER, read_success
from msmtfn.daily.success import Success
from msmtfn.daily.table_schema import fit_schema, table_schema
from msmtfn.daily.work import CONTROL_FOLDER
from msmtfn.errors import JobError, PublishError, StorageError
from msmtfn.storage.untrusted import inside

logger = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 30
"""Number of attempts to commit before giving up; each loses only against somebody's commit."""
MAX_PAUSE_SEC: Final = 0.2
_DAY: Final = re.compile(rf"{storage.DAY_PREFIX}([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})")


@dataclass(frozen=True, slots=True)
class LeadsTable:
    """Delta table of the leads.

    Attributes:
        leads: root of all leads.
        retention_days: days for which the files of a replaced publication are kept.
    """

    leads: str
    retention_days: int

    def fit(self, leads: pa.Schema) -> pa.Schema:
        """Return the types in which leads are published, given their schema.

        Raises:
            PublishError: a column has no place in the table.
            StorageError: the table cannot be read.
        """
        log = open_log(self.leads)
        return fit_schema(leads, None if log is None else log.schema)

    def register(self, date: dt.date, just_replaced: str | None = None) -> frozenset[str]:
        """Bring a day in the log to what its `_SUCCESS` says.

        Args:
            date: the day.
            just_replaced: publication that the caller has replaced just now, which its retention therefore protects
                even if the log was written by a machine whose clock is ahead.

        Returns:
            The publications of the day whose files must stay: named by the log, or within their retention.

        Raises:
            StorageError: the storage refused, or others commit all the time.
            PublishError: the day's files have columns that have no place in the table.
        """
        for _ in range(MAX_ATTEMPTS):
            log = open_log(self.leads)
            success = read_success(self.leads, date)
            if success is None or (log is not None and _is_current(log, success)):
                needed = frozenset() if log is None else self._needed(log, date)
                return needed | {just_replaced} if just_replaced and self.retention_days else needed
            try:
                files, schema = _read_files(self.leads, success)
            except FileNotFoundError:  # replaced meanwhile, unless `_SUCCESS` stays the same
                if read_success(self.leads, date) == success:
                    raise PublishError(f"files of {date} that its _SUCCESS names are missing; use --force") from None
                continue
            if not self._commit(log, success, files, schema):
                time.sleep(random.uniform(0, MAX_PAUSE_SEC))  # noqa: S311 - no secret
        raise StorageError(
            f"{date} is published, but the table of {self.leads} was changed by others in each of {MAX_ATTEMPTS} "
            "attempts to register it; run the same command again"
        )

    def repair(self) -> None:
        """Register days that are published and not in the log, and delete files whose retention has passed.

        These are days whose publisher died before it registered them, and all days where the table is new. The newest
        days are compared with their `_SUCCESS` too, since an older version, which knows no table, may have published.

        Raises:
            StorageError: the storage refused.
        """
        days = storage.list_days(self.leads)
        log = open_log(self.leads)
        registered = set() if log is None else log.files().keys()
        unfinished = days_begun(inside(self.leads, CONTROL_FOLDER))
        newest = set(days[-NUM_EARLIER:])
        for day in days:
            if day in newest or day in unfinished or day.isoformat() not in registered:
                self._register_other(day)
        log = open_log(self.leads)
        if log is not None:
            log.set_retention(self.retention_days)
            self._delete_expired(log)

    def _register_other(self, day: dt.date) -> None:
        """Register a day that is not the run's own; what is wrong with it must not keep the run's day back."""
        try:
            self.register(day)
        except JobError as exc:
            logger.warning("%s is not in the table: %s", day, exc)

    def _commit(self, log: DeltaLog | None, success: Success, files: list[RegisteredFile], schema: pa.Schema) -> bool:
        known = None if log is None else log.schema
        if not _fits(schema, known):
            raise PublishError(
                f"{success.date} was published without a table, in types that a table does not have; publish it again "
                "with --force to have it in the table"
            )
        columns = table_schema(schema, known)
        metadata = {
            "userMetadata": success.run_id,
            "run_id": success.run_id,
            "publication": success.publication,
            "model_version": success.model_version,
        }
        if log is None:
            return create_log(self.leads, success.date, files, columns, metadata, self.retention_days)
        return log.replace_day(success.date, files, columns, metadata)

    def _needed(self, log: DeltaLog, date: dt.date) -> frozenset[str]:
        retained = log.removed_files() - log.removed_files(self.retention_days)
        named = log.files().get(date.isoformat(), frozenset())
        return _publications(date, retained | named)

    def _delete_expired(self, log: DeltaLog) -> None:
        """Delete the files of ours that were taken out of the table longer ago than the retention."""
        expired = log.removed_files(self.retention_days)
        days = {found[1] for path in expired if (found := _DAY.match(path))}
        for day in sorted(days):
            date = dt.date.fromisoformat(day)
            success = read_success(self.leads, date)
            if success is None:  # nothing tells what the day is
                continue
            replaced = _publications(date, expired) & set(success.replaced)
            delete_files(inside(self.leads, f"{storage.DAY_PREFIX}{day}"), replaced - self._needed(log, date))


def _is_current(log: DeltaLog, success: Success) -> bool:
    return log.files().get(success.date.isoformat(), frozenset()) == set(_paths(success))


def _paths(success: Success) -> list[str]:
    return [storage.join(f"{storage.DAY_PREFIX}{success.date}", name) for name in success.files]


def _read_files(leads: str, success: Success) -> tuple[list[RegisteredFile], pa.Schema]:
    """Read the sizes, row counts and columns of a day's files.

    Raises:
        FileNotFoundError: one is gone.
        StorageError: one cannot be read.
    """
    files, schemas = [], []
    folder = f"{storage.DAY_PREFIX}{success.date}"
    for name, path in zip(success.files, _paths(success), strict=True):
        location = inside(leads, folder, name)
        size = storage.size_of(location)
        with storage.open_for_reading(location) as file:
            footer = pq.ParquetFile(file)
            files.append(RegisteredFile(path=path, size=size, num_rows=footer.metadata.num_rows))
            schemas.append(footer.schema_arrow.remove_metadata())
    return files, pa.unify_schemas(schemas)


def _fits(schema: pa.Schema, known: pa.Schema | None) -> bool:
    """Return True if a file with this schema can be named by the table as it is."""
    return all(fitted.type == column.type for fitted, column in zip(fit_schema(schema, known), schema, strict=True))


def _publications(date: dt.date, paths: Iterable[str]) -> frozenset[str]:
    """Return the publications of a day that have one of the paths; paths of others are left out."""
    folder = f"{storage.DAY_PREFIX}{date.isoformat()}/"
    names = [path.removeprefix(folder) for path in paths if path.startswith(folder)]
    return frozenset(found for name in names if (found := publication_of(name)) is not None)
