"""From a run's parts to the published day.

A day is published as files whose names no other publication has, and then its `_SUCCESS`, which names them, in one
atomic step. The rule of reading: read `_SUCCESS`, then the files that it lists; where one of them is gone, the day has
just been replaced, so begin again. On S3 and for a day that is replaced, that is what keeps a reader from a mixture; a
new day on a local disk appears by one rename, whole.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import uuid
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from msmtfn import storage
from msmtfn.errors import PublishError
from msmtfn.leads.ranking import order_of_leads
from msmtfn.leads.schema import LEAD_RANK, REJECTED, SCORED, leads_schema
from msmtfn.rows import ROW_ID

logger = logging.getLogger(__name__)

SUCCESS_FILE: Final = "_SUCCESS"
RUNS_FOLDER: Final = "_runs"
PARTS_FOLDER: Final = "parts"
ROWS_PER_FILE: Final = 200_000
"""Of a published file: some 100 MB in memory, so that a day of any size is published in little."""
NUM_EARLIER: Final = 14
"""Published days before a day that it is measured by."""
KEYS: Final = (ROW_ID, "call_id", "status", "lead_score", "error_code", "duration_sec")


def day_folder(leads: str, date: dt.date) -> str:
    """Where a day's leads are published."""
    return storage.join(leads, f"date={date.isoformat()}")


def run_folder(leads: str, run_id: str) -> str:
    """Where a run keeps its work in progress."""
    return storage.join(leads, RUNS_FOLDER, run_id)


def read_success(leads: str, date: dt.date) -> dict[str, Any] | None:
    """What `_SUCCESS` says of a published day; None where none is.

    Raises:
        PublishError: there is one that cannot be understood.
        StorageError: the storage refused.
    """
    place = storage.join(day_folder(leads, date), SUCCESS_FILE)
    text = storage.read_text(place)
    if text is None:
        return None
    try:
        success = json.loads(text)
    except ValueError as exc:
        raise PublishError(f"{place} is not JSON ({exc}); remove it to have the day published again") from exc
    if not isinstance(success, dict) or not isinstance(success.get("files"), list):
        raise PublishError(f"{place} does not list the day's files; remove it to have the day published again")
    return success


def published_before(leads: str, date: dt.date, number: int = NUM_EARLIER) -> list[dict[str, Any]]:
    """What `_SUCCESS` says of the newest days published before a day, the oldest first.

    Args:
        leads: the root of all leads.
        date: the day.
        number: of days with a folder that are looked at.
    """
    published = []
    for day in [day for day in storage.list_days(leads) if day < date][-number:]:
        try:
            success = read_success(leads, day)
        except PublishError as exc:  # another day's trouble
            logger.warning("%s; it is left out", exc)
            continue
        if success is not None and all(isinstance(success.get(name), int) for name in ("calls", REJECTED)):
            published.append(success)
    return published


def read_leads(leads: str, date: dt.date) -> pads.Dataset:
    """The leads of a published day, by the rule of reading.

    Raises:
        PublishError: the day is not published.
    """
    success = read_success(leads, date)
    if success is None:
        raise PublishError(f"the leads of {date} are not published in {leads}")
    filesystem, folder = storage.arrow_filesystem_of(day_folder(leads, date))
    return pads.dataset([storage.join(folder, name) for name in success["files"]], filesystem=filesystem)


def publish_day(
    leads: str,
    date: dt.date,
    run: str,
    schema: pa.Schema,
    num_calls: int,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Rank the scored calls of a run and publish the day, in place of what was published of it before.

    Keeps the keys of the day in memory (about 60 MB a million calls) and one published file at a time.

    Args:
        leads: the root of all leads.
        date: the day.
        run: the run's folder, in which its parts stand.
        schema: of the parts.
        num_calls: calls in the manifest; every one must be in the parts.
        about: what else `_SUCCESS` says of the run.

    Returns:
        What `_SUCCESS` says.

    Raises:
        PublishError: the parts are not the manifest's calls, each once.
        StorageError: a folder cannot be written.
    """
    scored_parts = open_parts(storage.join(run, PARTS_FOLDER), schema)
    keys = _read_keys(scored_parts, run)
    _check_complete(keys, num_calls)
    order, num_ranked = order_of_leads(keys)
    publication = uuid.uuid4().hex[:8]
    target, staged = _target_folder(leads, date, storage.join(run, f"day-{publication}"))
    files = [
        _write_file(storage.join(target, f"leads-{publication}-{number:05d}.parquet"), table)
        for number, table in enumerate(_ranked_tables(scored_parts, order, num_ranked))
    ]
    success = {**_counts(keys), **about, "publication": publication, "files": files}
    storage.write_text(storage.join(target, SUCCESS_FILE), json.dumps(success, indent=2) + "\n")
    if staged:
        storage.rename_folder(target, day_folder(leads, date))
    delete_replaced(leads, date, files)
    return success


def delete_replaced(leads: str, date: dt.date, files: Collection[str]) -> None:
    """Delete the files of a day that its `_SUCCESS` does not name."""
    for file in storage.list_files(day_folder(leads, date), ".parquet"):
        if file.rpartition("/")[2] not in files:
            storage.delete(file)


def open_parts(folder: str, schema: pa.Schema) -> pads.Dataset:
    """A run's parts, none for a day without calls; they are many files: scan them without keeping their metadata."""
    filesystem, path = storage.arrow_filesystem_of(folder)
    names = [file.rpartition("/")[2] for file in storage.list_files(folder, ".parquet")]
    return pads.dataset(
        [storage.join(path, name) for name in names], schema=schema, filesystem=filesystem, format="parquet"
    )


def _read_keys(parts: pads.Dataset, run: str) -> pa.Table:
    try:
        return parts.to_table(columns=list(KEYS), cache_metadata=False)
    except (pa.ArrowException, OSError) as exc:
        raise PublishError(
            f"the parts in {run} cannot be read ({exc}); nothing was published; run the same command with --force to "
            "score the day anew"
        ) from exc


def _check_complete(keys: pa.Table, num_calls: int) -> None:
    """Every row of the manifest ends in the leads exactly once."""
    ids = keys[ROW_ID].to_numpy()
    times = np.bincount(ids, minlength=num_calls)
    lost, doubled = int((times[:num_calls] == 0).sum()), int((times > 1).sum())
    if lost or doubled or len(times) > num_calls:
        raise PublishError(
            f"the run's parts hold {len(ids)} rows for {num_calls} calls of the manifest: {lost} are missing and "
            f"{doubled} are doubled; nothing was published; run the same command with --force to score the day anew"
        )


def _target_folder(leads: str, date: dt.date, staging: str) -> tuple[str, bool]:
    """Where to write the day, and whether that is to be renamed: only a local day that no reader can see yet."""
    folder = day_folder(leads, date)
    if storage.protocol_of(folder) == "file" and not storage.exists(folder):
        return staging, True
    return folder, False


def _ranked_tables(parts: pads.Dataset, order: npt.NDArray[np.int64], num_ranked: int) -> Iterator[pa.Table]:
    """The leads in order, a published file at a time; one table without a row for a day without a call."""
    schema = leads_schema(parts.schema)
    for start in range(0, max(len(order), 1), ROWS_PER_FILE):
        ids = pa.array(order[start : start + ROWS_PER_FILE])
        rows = parts.to_table(filter=pc.field(ROW_ID).isin(ids), cache_metadata=False)
        rows = rows.take(pc.index_in(ids, rows[ROW_ID].combine_chunks()))
        ranks = np.arange(start + 1, start + 1 + len(rows))
        rank = pa.array(ranks, LEAD_RANK.type, mask=ranks > num_ranked)
        yield rows.append_column(LEAD_RANK, rank).select(schema.names).cast(schema)


def _write_file(location: str, table: pa.Table) -> str:
    storage.make_folder(location.rpartition("/")[0])
    storage.write_parquet(location, table)
    return location.rpartition("/")[2]


def _counts(keys: pa.Table) -> dict[str, Any]:
    reasons = pc.value_counts(keys["error_code"].drop_null())
    return {
        "calls": len(keys),
        SCORED: pc.sum(pc.equal(keys["status"], SCORED)).as_py() or 0,
        REJECTED: pc.sum(pc.equal(keys["status"], REJECTED)).as_py() or 0,
        "rejected_by_reason": {reason["values"]: reason["counts"] for reason in reasons.to_pylist()},
        "audio_hours": round((pc.sum(keys["duration_sec"]).as_py() or 0.0) / 3600, 4),
    }
