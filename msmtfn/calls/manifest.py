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
from msmtfn.calls.parquet import Footer, iter_batches, read_footer
from msmtfn.errors import ManifestError
from msmtfn.rows import ROW_ID

ROW_ERROR: Final = "row_error"


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
    folder = storage.join(root, f"{storage.DAY_PREFIX}{date.isoformat()}")
    try:
        files = find_day_files(folder)
    except ManifestError as exc:
        raise ManifestError(f"there is no manifest for {date}: {exc}") from exc
    digest = hashlib.sha256()
    footers = []
    for file in files:
        footers.append(read_footer(file))
        _digest_file(digest, file, file[len(folder) + 1 :])
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
        fingerprint=digest.hexdigest()[:16],
    )


def iter_calls(manifest: Manifest) -> Iterator[pa.RecordBatch]:
    """Yield the day's rows in order, cast to one schema.

    `row_id` numbers the rows of the day. `row_error` reports a call_id that is missing or repeats that of an earlier
    row. The day's ids are kept in memory, about 100 MB per million calls.

    Raises:
        ManifestError: a value cannot be cast to its column's type.
    """
    first_rows: dict[str, int] = {}
    next_id = 0
    for footer, sources in zip(manifest.footers, manifest.sources, strict=True):
        if not footer.num_rows:
            continue  # such a file may lack a required column
        for batch in iter_batches(footer):
            given = {name: _cast_column(footer.file, batch, name, manifest.schema, sources) for name in sources}
            errors = [
                _id_error(call_id, next_id + row, first_rows)
                for row, call_id in enumerate(given["call_id"].to_pylist())
            ]
            given[ROW_ID] = pa.array(range(next_id, next_id + len(batch)), pa.int64())
            given[ROW_ERROR] = pa.array(errors, pa.string())
            columns = [given.get(field.name, pa.nulls(len(batch), field.type)) for field in manifest.schema]
            next_id += len(batch)
            yield pa.record_batch(columns, schema=manifest.schema)


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


def _digest_file(digest: hashlib._Hash, file: str, name: str) -> None:
    digest.update(f"{name}\0".encode())
    with storage.open_for_reading(file) as handle:
        while chunk := handle.read(2**23):
            digest.update(chunk)
