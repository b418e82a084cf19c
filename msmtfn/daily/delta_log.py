"""The Delta Lake log of the leads: what it names, commits to it, and files that it no longer needs.

    <leads>/_delta_log/NNNNNNNNNNNNNNNNNNNN.json     one for each version of the table

A commit makes the version after the one that was read, or fails: it is a compare-and-swap of the table. On S3 the
server compares (`If-None-Match`), on a local disk a hard link does.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, TableNotFoundError
from deltalake.transaction import AddAction, create_table_with_add_actions

from msmtfn import storage
from msmtfn.daily.keep_table import LOG_FOLDER
from msmtfn.daily.table_schema import PARTITION
from msmtfn.errors import StorageError
from msmtfn.storage.untrusted import inside, printable

NAME: Final = "leads"
HOURS_PER_DAY: Final = 24
MARGIN_DAYS: Final = 30
"""Days for which the log remembers files beyond their retention, so that they are found even after a month's pause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredFile:
    """File that is to be named by the log.

    Attributes:
        path: relative to the root of the leads.
        size: in bytes.
        num_rows: number of rows.
    """

    path: str
    size: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class DeltaLog:
    """One version of the table.

    Attributes:
        leads: root of all leads.
        table: the table, as deltalake read it.
    """

    leads: str
    table: DeltaTable

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        return pa.schema(self.table.schema().to_arrow())

    def files(self) -> dict[str, frozenset[str]]:
        """Return the paths of the files that this version names, by day."""
        with _explained(self.leads):
            actions = pa.table(self.table.get_add_actions(flatten=True))
        found: dict[str, set[str]] = {}
        for day, path in zip(actions[f"partition.{PARTITION.name}"], actions["path"], strict=True):
            found.setdefault(str(day.as_py()), set()).add(path.as_py())
        return {day: frozenset(paths) for day, paths in found.items()}

    def removed_files(self, retention_days: int = 0) -> frozenset[str]:
        """Return the paths of the files that were taken out of the table at least some days ago.

        The log forgets a file `MARGIN_DAYS` after its retention.
        """
        with _explained(self.leads):
            hours = retention_days * HOURS_PER_DAY
            found = self.table.vacuum(retention_hours=hours, dry_run=True, enforce_retention_duration=False)
        return frozenset(found)

    def replace_day(
        self, date: dt.date, files: Sequence[RegisteredFile], schema: pa.Schema, metadata: Mapping[str, str]
    ) -> bool:
        """Commit the version in which a day consists of some files.

        Args:
            date: the day.
            files: all files of the day.
            schema: columns of the table from now on.
            metadata: what the commit says of itself.

        Returns:
            Whether it was committed; if not, the table has a newer version than this one by now.

        Raises:
            StorageError: the storage refused.
        """
        with _explained(self.leads):
            try:
                self.table.create_write_transaction(
                    _add_actions(date, files),
                    "overwrite",
                    Schema.from_arrow(schema),
                    [PARTITION.name],
                    [(PARTITION.name, "=", date.isoformat())],
                    commit_properties=_commit_properties(metadata),
                )
            except CommitFailedError:
                return False
        return True

    def set_retention(self, retention_days: int) -> None:
        """Write the retention into the table's properties, where other engines find it."""
        properties = _properties(retention_days)
        if any(self.table.metadata().configuration.get(name) != value for name, value in properties.items()):
            with _explained(self.leads):
                self.table.alter.set_table_properties(properties)


def open_log(leads: str) -> DeltaLog | None:
    """Read the newest version of the table; None if there is no table.

    Raises:
        StorageError: it cannot be read, or is not a table of leads.
    """
    inside(leads, LOG_FOLDER)
    with _explained(leads):
        try:
            table = DeltaTable(leads, storage_options=storage.object_store_options(leads))
        except TableNotFoundError:
            return None
    if table.metadata().partition_columns != [PARTITION.name]:
        raise StorageError(
            f"{storage.join(leads, LOG_FOLDER)} is not the log of a table of leads; publish the leads somewhere else, "
            "or remove it"
        )
    return DeltaLog(leads, table)


def create_log(
    leads: str,
    date: dt.date,
    files: Sequence[RegisteredFile],
    schema: pa.Schema,
    metadata: Mapping[str, str],
    retention_days: int,
) -> bool:
    """Create the table with one day; arguments are those of `replace_day`.

    Returns:
        Whether it was created; if not, there is a table by now.

    Raises:
        StorageError: the storage refused.
    """
    with _explained(leads):
        try:
            create_table_with_add_actions(
                leads,
                Schema.from_arrow(schema),
                _add_actions(date, files),
                mode="error",
                partition_by=[PARTITION.name],
                name=NAME,
                configuration=_properties(retention_days),
                storage_options=storage.object_store_options(leads),
                commit_properties=_commit_properties(metadata),
            )
        except Exception:
            if not DeltaTable.is_deltatable(leads, storage.object_store_options(leads)):
                raise
            return False
    return True


def _add_actions(date: dt.date, files: Sequence[RegisteredFile]) -> list[Any]:
    """Describe files; no value of a column is in the log, which stays when the files are deleted."""
    now_ms = int(dt.datetime.now(dt.UTC).timestamp() * 1000)
    day = {PARTITION.name: date.isoformat()}
    return [
        AddAction(file.path, file.size, day, now_ms, True, json.dumps({"numRecords": file.num_rows})) for file in files
    ]


def _commit_properties(metadata: Mapping[str, str]) -> CommitProperties:

    # Without a retry the commit fails if anybody has committed since the table was read, whatever it was.
    return CommitProperties(custom_metadata=dict(metadata), max_commit_retries=0)


def _properties(retention_days: int) -> dict[str, str]:
    duration = f"interval {retention_days + MARGIN_DAYS} days"
    return {"delta.deletedFileRetentionDuration": duration, "delta.logRetentionDuration": duration}


@contextlib.contextmanager
def _explained(leads: str) -> Iterator[None]:
    """Turn what deltalake raises into an error in one line."""
    try:
        yield
    except StorageError:
        raise
    except Exception as exc:  # besides its own errors it raises OSError, ValueError and Exception itself
        raise StorageError(
            f"the Delta table of {leads} cannot be read or written: {printable(exc, 300)}; check the location, its "
            "permissions, the endpoint and the credentials, and run the same command again"
        ) from exc
