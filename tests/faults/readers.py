"""Readers of a day while it is replaced again and again: none may see two publications at once, or miss a call.

DuckDB, Polars and PyArrow read the Delta table, and the plain files by the rule of reading (`_SUCCESS`, then the files
that it lists). `python -m tests.benchmarks readers` runs it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import duckdb
import polars
import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import DeltaTable

from msmtfn import storage
from msmtfn.daily.publish import day_folder, publish_tables, read_success
from msmtfn.daily.table import LeadsTable
from msmtfn.daily.work import default_work
from tests.daily.parts import DATE, RECORD

logger = logging.getLogger(__name__)

NUM_FILES: Final = 3
Read = Callable[[str], list[str]]
"""Reads the column `run_id` of the day."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadersConfig:
    """Options of the trial of readers."""

    replacements: int = 100
    """How often the day is replaced."""
    calls: int = 3000
    """Number of calls of the day, in three files."""
    pause_sec: float = 0.05
    """Pause of a reader between two reads."""


def run_readers(config: ReadersConfig, leads: str) -> list[dict[str, Any]]:
    """Replace a day while all readers read it; return what each of them saw."""
    _publish(leads, "run-0", config.calls)
    finished = threading.Event()
    seen = {name: Counter[str](whole=0, mixed=0, missing=0, again=0, failed=0) for name in READERS}
    threads = [
        threading.Thread(target=_poll, args=(read, leads, config, seen[name], finished))
        for name, read in READERS.items()
    ]
    for thread in threads:
        thread.start()
    started = time.monotonic()
    try:
        for number in range(1, config.replacements + 1):
            _publish(leads, f"run-{number}", config.calls)
        logger.info("%d replacements in %.1f s", config.replacements, time.monotonic() - started)
    finally:
        finished.set()
        for thread in threads:
            thread.join()
    return [{"reader": name, "replacements": config.replacements, **counts} for name, counts in seen.items()]


def _publish(leads: str, run_id: str, num_calls: int) -> None:
    table = pa.table({"call_id": [f"c{number}" for number in range(num_calls)], "run_id": [run_id] * num_calls})
    tables = [table.slice(start, num_calls // NUM_FILES) for start in range(0, num_calls, num_calls // NUM_FILES)]
    run = storage.join(default_work(leads), run_id)
    publish_tables(leads, DATE, run, tables, replace(RECORD, run_id=run_id), table=LeadsTable(leads, 7))


def _poll(read: Read, leads: str, config: ReadersConfig, seen: Counter[str], finished: threading.Event) -> None:
    while not finished.wait(config.pause_sec):
        try:
            run_ids = read(leads)
        except FileNotFoundError:
            seen["again"] += 1
        except Exception:
            logger.exception("a reader failed")
            seen["failed"] += 1
        else:
            kind = "mixed" if len(set(run_ids)) > 1 else "whole" if len(run_ids) == config.calls else "missing"
            seen[kind] += 1


def _table(leads: str) -> DeltaTable:
    return DeltaTable(leads, storage_options=storage.object_store_options(leads))


def _plain_files(leads: str) -> Iterator[str]:
    success = read_success(leads, DATE)
    assert success is not None
    yield from (storage.join(day_folder(leads, DATE), name) for name in success.files)


def _plain_dataset(leads: str) -> pads.Dataset:
    filesystem, _ = storage.arrow_filesystem_of(leads)
    paths = [storage.arrow_filesystem_of(file)[1] for file in _plain_files(leads)]
    return pads.dataset(paths, filesystem=filesystem)


def _strings(column: pa.ChunkedArray) -> list[str]:
    return [str(value) for value in column.to_pylist()]


def _duckdb(dataset: pads.Dataset) -> list[str]:
    with duckdb.connect() as connection:
        connection.register("leads", dataset)
        return [row[0] for row in connection.execute("SELECT run_id FROM leads").fetchall()]


def _duckdb_plain(leads: str) -> list[str]:
    if storage.protocol_of(leads) == "s3":  # its extension httpfs is not on every machine
        return _duckdb(_plain_dataset(leads))
    with duckdb.connect() as connection:
        query = "SELECT run_id FROM read_parquet(?)"
        try:
            return [row[0] for row in connection.execute(query, [list(_plain_files(leads))]).fetchall()]
        except duckdb.IOException as exc:
            raise FileNotFoundError(str(exc)) from exc


def _polars_plain(leads: str) -> list[str]:
    options = storage.object_store_options(leads)
    options.pop("aws_conditional_put", None)
    frame = polars.read_parquet(list(_plain_files(leads)), columns=["run_id"], storage_options=options or None)
    return list(map(str, frame["run_id"].to_list()))


def _polars_table(leads: str) -> list[str]:
    frame = polars.scan_delta(leads, storage_options=storage.object_store_options(leads) or None)
    return list(map(str, frame.select("run_id").collect()["run_id"].to_list()))


READERS: Final[dict[str, Read]] = {
    "DuckDB, table": lambda leads: _duckdb(_table(leads).to_pyarrow_dataset()),
    "Polars, table": _polars_table,
    "PyArrow, table": lambda leads: _strings(_table(leads).to_pyarrow_table(columns=["run_id"])["run_id"]),
    "DuckDB, files": _duckdb_plain,
    "Polars, files": _polars_plain,
    "PyArrow, files": lambda leads: _strings(_plain_dataset(leads).to_table(columns=["run_id"])["run_id"]),
}
