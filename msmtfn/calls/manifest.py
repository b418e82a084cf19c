"""Read the manifest of a day: its calls, the locations of their recordings and their transcripts.

A manifest is `<root>/date=YYYY-MM-DD/` with Parquet files of one row per call. A fault of a whole file ends the job; a
fault of a row rejects only that row.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from msmtfn import storage
from msmtfn.calls.columns import INTERPRETED, cast_interpreted, cast_passed, merge_columns
from msmtfn.calls.day_files import find_day_files
from msmtfn.calls.memory import available_memory
from msmtfn.calls.parquet import Footer, iter_batches, read_footer, too_large
from msmtfn.calls.reading import digest_content, open_read, read_ahead
from msmtfn.errors import ManifestError
from msmtfn.rows import ROW_ID

ROW_ERROR: Final = "row_error"
FINGERPRINT_LENGTH: Final = 16
ID_BYTES: Final = 100
"""Memory that the id of a call takes while the manifest is read."""
MEMORY_SHARE: Final = 0.8
"""Share of the available memory that the ids may take."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """One day's manifest whose files have been checked.

    Attributes:
        root: folder that relative uris are resolved against.
        date: day of the calls.
        footers: footers of the day's files, in the order in which they are read.
        sources: for each file, the names that its columns have there, by their names in `schema`.
        schema: schema of the batches that `iter_calls` yields.
        renamed: new names of pass-through columns whose own name is reserved in the leads.
        fingerprint: hash of the files' content, 16 hexadecimal digits.
    """

    root: str
    date: dt.date
    footers: tuple[Footer, ...]
    sources: Sequence[Mapping[str, str]]
    schema: pa.Schema
    renamed: Mapping[str, str]
    fingerprint: str

    @property
    def folder(self) -> str:
        """Folder of the day."""
        return day_folder(self.root, self.date)

    @property
    def files(self) -> tuple[str, ...]:
        """Parquet files of the day, in the order in which they are read."""
        return tuple(footer.file for footer in self.footers)

    @property
    def num_rows(self) -> int:
        """Number of calls of the day."""
        return sum(footer.num_rows for footer in self.footers)


def open_manifest(root: str, date: dt.date, *, reserved: Collection[str] = ()) -> Manifest:
    """Find a day's manifest and check the schemas of its files, without reading rows.

    Args:
        root: root folder of all manifests, local or on S3.
        date: day of the calls.
        reserved: names that pass-through columns must not have, in any case; those that do are prefixed with
            `manifest_`.

    Raises:
        ManifestError: there is no manifest, or a file cannot be read, lacks a required column or has one whose type
            does not fit; the message names the file and the column.
    """
    root = storage.absolute(root)
    folder = day_folder(root, date)
    try:
        files = find_day_files(folder)
    except ManifestError as exc:
        raise ManifestError(f"there is no manifest for {date}: {exc}") from exc
    digest = hashlib.sha256()
    footers = []
    for file, data in zip(files, read_ahead(files), strict=True):
        with open_read(file, data) as handle:
            footers.append(read_footer(file, handle))
            digest_content(digest, file[len(folder) + 1 :], handle)
    _check_promises(footers)
    columns = merge_columns(footers, {*reserved, ROW_ID, ROW_ERROR})
    return Manifest(
        root=root,
        date=date,
        footers=tuple(footers),
        sources=columns.sources,
        schema=pa.schema(
            [(ROW_ID, pa.int64()), (ROW_ERROR, pa.string()), *INTERPRETED, *columns.passed.items()],
        ),
        renamed=columns.renamed,
        fingerprint=digest.hexdigest()[:FINGERPRINT_LENGTH],
    )


def day_folder(root: str, date: dt.date) -> str:
    """Return the folder of a day's manifest."""
    return storage.join(root, f"{storage.DAY_PREFIX}{date.isoformat()}")


def iter_calls(manifest: Manifest) -> Iterator[pa.RecordBatch]:
    """Yield the day's rows in order, cast to one schema.

    `row_id` numbers the rows of the day. `row_error` reports a call_id that is missing or repeats that of an earlier
    row. The day's ids are kept in memory, about 100 MB per million calls.

    Raises:
        ManifestError: a value cannot be cast to its column's type, memory does not suffice, or the files that were read
            are not those of which the manifest has the fingerprint; that is known at the end.
    """
    first_rows: dict[str, int] = {}
    next_id = 0
    digest = hashlib.sha256()
    contents = zip(manifest.footers, manifest.sources, read_ahead(manifest.files), strict=True)
    for footer, sources, data in contents:
        with open_read(footer.file, data) as handle:
            if footer.num_rows:  # without rows, a file may lack a required column
                for batch in iter_batches(footer, handle):
                    try:
                        numbered = _number(manifest, footer, sources, batch, next_id, first_rows)
                    except MemoryError as exc:
                        raise too_large(footer.file) from exc
                    next_id += len(batch)
                    yield numbered
            # At last, so that a file that is replaced or rewritten while it is read is noticed.
            digest_content(digest, footer.file[len(manifest.folder) + 1 :], handle)
    if digest.hexdigest()[:FINGERPRINT_LENGTH] != manifest.fingerprint:
        raise ManifestError(
            f"the manifest in {manifest.folder} was changed while it was read; when it is complete, run the same "
            "command again"
        )


def _number(
    manifest: Manifest,
    footer: Footer,
    sources: Mapping[str, str],
    batch: pa.RecordBatch,
    first_id: int,
    first_rows: dict[str, int],
) -> pa.RecordBatch:
    """Return rows of a file with the manifest's schema, numbered from `first_id` on."""
    given = {name: _cast_column(footer.file, batch, name, manifest.schema, sources) for name in sources}
    errors = [
        _id_error(call_id, first_id + row, first_rows) for row, call_id in enumerate(given["call_id"].to_pylist())
    ]
    given[ROW_ID] = pa.array(range(first_id, first_id + len(batch)), pa.int64())
    given[ROW_ERROR] = pa.array(errors, pa.string())
    columns = [given.get(field.name, pa.nulls(len(batch), field.type)) for field in manifest.schema]
    return pa.record_batch(columns, schema=manifest.schema)


def _check_promises(footers: Sequence[Footer]) -> None:
    """Check that the ids of as many rows as the files promise fit into memory.

    Raises:
        ManifestError: they do not; the message names the file with most rows.
    """
    num_rows = sum(footer.num_rows for footer in footers)
    if num_rows * ID_BYTES > MEMORY_SHARE * available_memory():
        largest = max(footers, key=lambda footer: footer.num_rows)
        raise ManifestError(
            f"{largest.file} promises {largest.num_rows} rows, and the day {num_rows}, more than the memory that is "
            "left holds; check what wrote it, or use a machine with more memory"
        )


def _cast_column(
    file: str, batch: pa.RecordBatch, name: str, schema: pa.Schema, sources: Mapping[str, str]
) -> pa.Array:
    column = batch.column(sources[name])
    if name in INTERPRETED.names:
        return cast_interpreted(file, column, name, sources[name])
    return cast_passed(file, column, sources[name], schema.field(name).type)


def _id_error(call_id: str | None, row_id: int, first_rows: dict[str, int]) -> str | None:
    if not call_id:
        return "call_id is empty; every call needs one"
    first = first_rows.setdefault(call_id, row_id)
    return None if first == row_id else f"call_id is the same as that of row {first}; it must be unique in the day"
