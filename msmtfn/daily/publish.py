"""Publish a day from the parts of its run.

A day is published as files whose names no other publication has, and then its `_SUCCESS`, which names them, in one
atomic step. The rule of reading: read `_SUCCESS`, then the files that it lists; where one of them is gone, the day has
just been replaced, so begin again. On S3 and for a day that is replaced, that is what keeps a reader from a mixture; a
new day on a local disk appears by one rename, whole.
"""

from __future__ import annotations

import datetime as dt
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn import storage
from msmtfn.daily.publication import (
    begin,
    begun,
    delete_files,
    file_name,
    finish,
    new_publication,
    publications_in,
)
from msmtfn.daily.success import Success
from msmtfn.daily.tables import LEADS, DayTable
from msmtfn.daily.work import CONTROL_FOLDER
from msmtfn.errors import LockedError, PublishError, StorageError
from msmtfn.leads.schema import LEAD_RANK, REJECTED
from msmtfn.rows import ROW_ID
from msmtfn.storage import conditional
from msmtfn.storage.untrusted import LinkError, inside, read_text

if TYPE_CHECKING:
    from msmtfn.daily.table import LeadsTable

logger = logging.getLogger(__name__)

ROWS_PER_FILE: Final = 200_000
"""Rows of a published file of leads, about 100 MB in memory, so that memory does not grow with the size of the day."""
SUCCESS_FILE: Final = "_SUCCESS"
PARTS_FOLDER: Final = "parts"
MAX_SWAPS: Final = 10
"""Number of swaps to try before giving up; the holder of a day normally needs one."""
NUM_EARLIER: Final = 14
"""Number of earlier days that a day is compared with."""
KEYS: Final = (ROW_ID, "call_id", "status", "error_code", "duration_sec")


def day_folder(leads: str, date: dt.date) -> str:
    """Return the folder in which a day's leads are published."""
    return storage.join(leads, _day_name(date))


def _day_name(date: dt.date) -> str:
    return f"{storage.DAY_PREFIX}{date.isoformat()}"


def read_success(leads: str, date: dt.date) -> Success | None:
    """Return the record of a published day; None if the day is not published.

    Raises:
        PublishError: `_SUCCESS` is not what a run writes.
        StorageError: the storage refused.
    """
    location = _success_location(leads, date)
    text = read_text(location)
    return None if text is None else _parse_success(location, text)


def _success_location(leads: str, date: dt.date) -> str:
    return storage.join(inside(leads, _day_name(date)), SUCCESS_FILE)


def _parse_success(location: str, text: str) -> Success:
    try:
        return Success.from_json(text)
    except ValueError as exc:
        raise PublishError(
            f"{location} is not what a run writes ({exc}); remove it to have the day published again"
        ) from exc


def read_earlier_successes(leads: str, date: dt.date, number: int = NUM_EARLIER) -> list[Success]:
    """Return the records of the last days published before a day, oldest first.

    Args:
        leads: the root of all leads.
        date: the day.
        number: maximum number of day folders to read.
    """
    published = []
    for day in [day for day in storage.list_days(leads) if day < date][-number:]:
        try:
            success = read_success(leads, day)
        except (PublishError, LinkError) as exc:  # must not keep this day from being published
            logger.warning("%s; the day is ignored", exc)
            continue
        if success is not None:
            published.append(success)
    return published


def read_leads(leads: str, date: dt.date) -> pads.Dataset:
    """Open the leads of a published day: the files that `_SUCCESS` lists.

    Raises:
        PublishError: the day is not published.
    """
    success = read_success(leads, date)
    if success is None:
        raise PublishError(f"the leads of {date} are not published in {leads}")
    files = [inside(leads, _day_name(date), name) for name in success.files]
    filesystem, _ = storage.arrow_filesystem_of(leads)
    return pads.dataset([storage.arrow_filesystem_of(file)[1] for file in files], filesystem=filesystem)


def publish_day(
    leads: str,
    date: dt.date,
    run: str,
    schema: pa.Schema,
    num_calls: int,
    record: Success,
    check: Callable[[], None] = lambda: None,
    table: LeadsTable | None = None,
    kind: DayTable = LEADS,
    accept: Callable[[Success | None, Success], None] = lambda _before, _after: None,
) -> Success:
    """Order the calls of a run and publish the day, in place of what was published of it before.

    Keeps the keys of the day in memory (about 60 MB a million calls) and one published file at a time.

    Args:
        leads: the root of all leads.
        date: the day.
        run: the run's folder, which holds its parts.
        schema: schema of the parts.
        num_calls: calls in the manifest; every one must be in the parts.
        record: what the run knows of itself; the counts and the names of the publication are filled in.
        check: raises `LockedError` if another run has taken the day over.
        table: table in which the day is registered once it is published.
        kind: what is published.
        accept: raises `PublishError` if the day must not be replaced; called with the record of the published day, if
            there is one, and with the record of the day that is to replace it.

    Returns:
        The record that was written.

    Raises:
        PublishError: the parts do not hold every call of the manifest exactly once, or `accept` refused.
        LockedError: another run has taken the day over; nothing of this one is left.
        StorageError: a folder cannot be written, or the day is published and the table cannot be.
    """
    published = kind.schema(schema) if table is None else table.fit(kind.schema(schema))
    scored_parts = open_parts(storage.join(run, PARTS_FOLDER), schema)
    keys = _read_keys(scored_parts, run, [*KEYS, *kind.keys])
    _check_complete(keys, num_calls)
    order, num_ranked = kind.order(keys)
    tables = _ordered_tables(scored_parts, order, num_ranked, published, kind.rows_per_file or ROWS_PER_FILE)
    counted = _with_counts(record, keys, kind.done_status)
    accept(read_success(leads, date), counted)
    return publish_tables(leads, date, run, tables, counted, check, table, kind.name)


def publish_tables(
    leads: str,
    date: dt.date,
    run: str,
    tables: Iterable[pa.Table],
    record: Success,
    check: Callable[[], None] = lambda: None,
    table: LeadsTable | None = None,
    name: str = LEADS.name,
) -> Success:
    """Publish tables as the files of a day; arguments, result and errors are those of `publish_day`."""
    publication = new_publication()
    runs, folder = inside(leads, CONTROL_FOLDER), inside(leads, _day_name(date))
    begin(runs, date, publication)
    target, staged = _target_folder(folder, storage.join(run, f"day-{publication}"), run, runs)
    try:
        names = (file_name(publication, number, name) for number in itertools.count())
        files = _write_files(target, names, tables, run, check)
        record = replace(record, publication=publication, files=tuple(files))
        installed = _install(leads, date, target if staged else None, record, check)
    except LockedError:
        # Raised before anything was swapped, so nothing names these files.
        if staged:
            storage.delete(target)
            storage.remove_empty_folder(run)
        delete_files(folder, [publication])
        finish(runs, date, [publication])
        raise
    kept = frozenset[str]() if table is None else table.register(date, just_replaced=installed.before)
    delete_files(folder, installed.gone - kept)
    finish(runs, date, {publication} | installed.gone)
    return installed.success


def tidy_day(leads: str, date: dt.date, check: Callable[[], None], table: LeadsTable | None = None) -> None:
    """Delete the files left by publishers of a published day that died before they finished."""
    runs, folder = inside(leads, CONTROL_FOLDER), inside(leads, _day_name(date))
    location = _success_location(leads, date)
    left = begun(runs, date)
    seen = conditional.see(location)
    check()
    if seen.text is None:
        return
    success = _parse_success(location, seen.text)
    replaced = set(success.replaced)
    unfinished = (left - replaced - {success.publication}) & publications_in(folder).keys()
    if unfinished:
        # A publisher of theirs may be asleep before its swap against this very `_SUCCESS`: change it before files go.
        replaced |= unfinished
        record = replace(success, replaced=tuple(sorted(replaced)))
        if not conditional.swap(location, seen, record.to_json(), check):
            raise PublishError(f"{location} has changed during the clean-up; run the same command again")
    delete_files(folder, replaced if table is None else replaced - table.register(date))
    finish(runs, date, left)


class _Installed(NamedTuple):
    """What is true once a day is published: its record, publications whose files may go, and the one before it."""

    success: Success
    gone: set[str]
    before: str | None = None


def _install(leads: str, date: dt.date, staged: str | None, record: Success, check: Callable[[], None]) -> _Installed:
    """Install the written files as the day.

    The fencing rests on the order: look which publications are unfinished, read `_SUCCESS`, see that the day is still
    ours, and only then swap against what was read. Who has lost the day fails in the check for good. Who loses it after
    the check, asleep, fails in the swap, if anything newer was published meanwhile. And since no publication that was
    unfinished before the check can win a swap after ours, its files may go once ours is won, and not before.
    """
    location, folder = _success_location(leads, date), day_folder(leads, date)
    runs, own = inside(leads, CONTROL_FOLDER), {record.publication}
    left = begun(runs, date) - own
    if staged and _rename_day(staged, folder, record, check):
        return _Installed(record, left)
    for _ in range(MAX_SWAPS):
        left = begun(runs, date) - own
        seen = conditional.see(location)
        before = None if seen.text is None else _parse_success(location, seen.text)
        gone = left if before is None else left | {*before.replaced, before.publication}
        success = replace(record, replaced=tuple(sorted(gone & publications_in(folder).keys())))
        if conditional.swap(location, seen, success.to_json(), check):
            return _Installed(success, gone, None if before is None else before.publication)
    raise PublishError(f"{location} changed {MAX_SWAPS} times before it could be replaced; run the same command again")


def _rename_day(staged: str, folder: str, record: Success, check: Callable[[], None]) -> bool:
    """Make a staged folder the day, or move its files into the day that another run has published meanwhile.

    The rename is a compare-and-swap by itself: it fails where a folder with files stands already.
    """
    storage.write_text(storage.join(staged, SUCCESS_FILE), record.to_json())
    check()
    try:
        if storage.rename_folder(staged, folder):
            return True
        for name in record.files:
            storage.rename_folder(storage.join(staged, name), storage.join(folder, name))
    except StorageError:
        check()  # who took the day over has cleared this run's work away
        raise
    return False


def _write_files(
    target: str, names: Iterable[str], tables: Iterable[pa.Table], run: str, check: Callable[[], None]
) -> list[str]:
    """Write the published files and return their names."""
    files = []
    storage.make_folder(target)
    try:
        for table, name in zip(tables, names, strict=False):
            check()  # a run that slept stops here, before it writes another file
            files.append(name)
            storage.write_parquet(storage.join(target, name), table)
    except (pa.ArrowException, OSError) as exc:
        check()  # who took the day over has cleared this run's parts away
        raise _unreadable(run, exc) from exc
    return files


def open_parts(folder: str, schema: pa.Schema) -> pads.Dataset:
    """Open a run's parts. There may be many files, so scan them with `cache_metadata=False`."""
    filesystem, path = storage.arrow_filesystem_of(folder)
    names = [file.rpartition("/")[2] for file in storage.list_files(folder, ".parquet")]
    return pads.dataset(
        [storage.join(path, name) for name in names], schema=schema, filesystem=filesystem, format="parquet"
    )


def _read_keys(parts: pads.Dataset, run: str, columns: list[str]) -> pa.Table:
    try:
        return parts.to_table(columns=columns, cache_metadata=False)
    except (pa.ArrowException, OSError) as exc:
        raise _unreadable(run, exc) from exc


def _unreadable(run: str, error: Exception) -> PublishError:
    return PublishError(
        f"the parts in {run} cannot be read ({error}); nothing was published; run the same command with --force to "
        "score the day again"
    )


def _check_complete(keys: pa.Table, num_calls: int) -> None:
    """Check that every row of the manifest is in the parts exactly once."""
    ids = keys[ROW_ID].to_numpy()
    times = np.bincount(ids, minlength=num_calls)
    lost, doubled = int((times[:num_calls] == 0).sum()), int((times > 1).sum())
    if lost or doubled or len(times) > num_calls:
        raise PublishError(
            f"the run's parts hold {len(ids)} rows for {num_calls} calls of the manifest: {lost} are missing and "
            f"{doubled} are duplicated; nothing was published; run the same command with --force to score the day again"
        )


def _target_folder(folder: str, staging: str, run: str, runs: str) -> tuple[str, bool]:
    """Return the folder to write to, and True if it is to be renamed: a new local day that readers cannot see yet."""
    is_new = storage.protocol_of(folder) == "file" and not storage.exists(folder)
    if is_new and storage.can_rename(run, runs):
        return staging, True
    return folder, False


def _ordered_tables(
    parts: pads.Dataset, order: npt.NDArray[np.int64], num_ranked: int, schema: pa.Schema, rows_per_file: int
) -> Iterator[pa.Table]:
    """Yield the rows in order, one table per published file; an empty table for a day without calls.

    The schema is that of what is published. Where a table needs other types, the casts lose nothing but nanoseconds.
    """
    for start in range(0, max(len(order), 1), rows_per_file):
        ids = pa.array(order[start : start + rows_per_file])
        rows = parts.to_table(filter=pc.field(ROW_ID).isin(ids), cache_metadata=False)
        rows = rows.take(pc.index_in(ids, rows[ROW_ID].combine_chunks()))
        if LEAD_RANK.name in schema.names:
            ranks = np.arange(start + 1, start + 1 + len(rows))
            rows = rows.append_column(LEAD_RANK, pa.array(ranks, LEAD_RANK.type, mask=ranks > num_ranked))
        yield rows.select(schema.names).cast(schema, safe=False)


def _with_counts(record: Success, keys: pa.Table, done_status: str) -> Success:
    rejected, unranked = (
        {str(reason["values"]): reason["counts"] for reason in pc.value_counts(keys[name].drop_null()).to_pylist()}
        if name in keys.schema.names
        else {}
        for name in ("error_code", "unranked_reason")
    )
    return replace(
        record,
        calls=len(keys),
        scored=pc.sum(pc.equal(keys["status"], done_status)).as_py() or 0,
        rejected=pc.sum(pc.equal(keys["status"], REJECTED)).as_py() or 0,
        rejected_by_reason=rejected,
        unranked_by_reason=unranked,
        audio_hours=round((pc.sum(keys["duration_sec"]).as_py() or 0.0) / 3600, 4),
    )
