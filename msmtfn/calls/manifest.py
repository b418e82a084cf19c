"""Read the manifest of a day: its calls, the locations of their recordings and their transcripts.

A manifest is `<root>/date=YYYY-MM-DD/*.parquet` with one row per call. A fault of a whole file ends the job; a fault of
a row rejects only that row.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msmtfn import storage
from msmtfn.calls.rounds import Turn
from msmtfn.errors import CallError, ManifestError, RejectCode
from msmtfn.labels import INTENTS
from msmtfn.rows import ROW_ID

TURN: Final = pa.struct(
    [("speaker", pa.string()), ("start_sec", pa.float64()), ("end_sec", pa.float64()), ("text", pa.string())]
)
INTERPRETED: Final = pa.schema(
    [
        ("call_id", pa.string()),
        ("uri", pa.string()),
        ("agent_channel", pa.int64()),
        ("turns", pa.list_(TURN)),
        ("intent", pa.string()),
    ]
)
"""Columns that the jobs interpret, with the types they are cast to; all others pass through unchanged."""

REQUIRED: Final = ("call_id", "uri")
ROW_ERROR: Final = "row_error"
SPEAKERS: Final = ("agent", "customer")
READ_BATCH_ROWS: Final = 4096
MAX_QUOTED_CHARS: Final = 2
MAX_INT64: Final = pa.scalar(2**63 - 1, pa.uint64())
MAX_EXACT_FLOAT: Final = 2.0**53  # from here on floats cannot represent every integer, and infinity cannot be cast
MAX_URI_CHARS: Final = 4096  # no file system has longer paths, and resolving one takes quadratic time


@dataclass(frozen=True, slots=True)
class Manifest:
    """One day's manifest whose files have been checked.

    Attributes:
        root: folder that relative uris are resolved against.
        date: day of the calls.
        files: Parquet files of the day, sorted.
        num_rows: number of calls of the day.
        schema: schema of the batches that `iter_calls` yields.
        renamed: new names of pass-through columns whose own name is reserved in the leads.
        fingerprint: hash of the files' content, 16 hexadecimal digits.
    """

    root: str
    date: dt.date
    files: tuple[str, ...]
    num_rows: int
    schema: pa.Schema
    renamed: Mapping[str, str]
    fingerprint: str


def open_manifest(root: str, date: dt.date, *, reserved: Collection[str] = ()) -> Manifest:
    """Find a day's manifest and check the schemas of its files, without reading rows.

    Args:
        root: root folder of all manifests, local or on S3.
        date: day of the calls.
        reserved: names that pass-through columns must not have; those that do are prefixed with `manifest_`.

    Raises:
        ManifestError: there is no manifest, or a file cannot be read, lacks a required column or has one whose type
            does not fit; the message names the file and the column.
    """
    root = storage.absolute(root)
    folder = storage.join(root, f"date={date.isoformat()}")
    files = storage.list_files(folder, ".parquet")
    if not files:
        raise ManifestError(
            f"there is no manifest for {date}: {folder} holds no *.parquet; check --manifests and --date"
        )
    schemas, num_rows, digest = [], 0, hashlib.sha256()
    for file in files:
        schema, rows = _read_footer(file)
        schemas.append(_check_schema(file, schema))
        num_rows += rows
        _digest_file(digest, file)
    columns = _merge_columns(files, schemas)
    taken = {*reserved, ROW_ID, ROW_ERROR} - set(INTERPRETED.names)
    renamed = {name: _unreserved_name(name, {*taken, *columns}) for name in columns if name in taken}
    return Manifest(
        root=root,
        date=date,
        files=tuple(files),
        num_rows=num_rows,
        schema=pa.schema(
            [(ROW_ID, pa.int64()), (ROW_ERROR, pa.string()), *INTERPRETED]
            + [pa.field(renamed.get(name, name), kind) for name, kind in columns.items()]
        ),
        renamed=renamed,
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
    original_names = {new: old for old, new in manifest.renamed.items()}
    for file in manifest.files:
        with storage.open_for_reading(file) as handle, _parquet_errors_naming(file):
            for batch in pq.ParquetFile(handle).iter_batches(READ_BATCH_ROWS):
                ids = _cast_interpreted(file, batch, "call_id")
                errors = [_id_error(call_id, next_id + row, first_rows) for row, call_id in enumerate(ids.to_pylist())]
                columns = [pa.array(range(next_id, next_id + len(batch)), pa.int64()), pa.array(errors, pa.string())]
                for field in list(manifest.schema)[2:]:
                    name = original_names.get(field.name, field.name)
                    columns.append(_cast_column(file, batch, name, field.type))
                next_id += len(batch)
                yield pa.record_batch(columns, schema=manifest.schema)


def parse_turns(row: Sequence[Mapping[str, Any] | None] | None) -> list[Turn] | None:
    """Return the turns of one call after checking them; None if the call has no transcript.

    Raises:
        CallError: a turn violates the contract (`bad_row`).
    """
    if row is None:
        return None
    return [_parse_turn(number, turn) for number, turn in enumerate(row)]


def check_call(uri: str | None, intent: str | None, agent_channel: int | None, row_error: str | None) -> str:
    """Check the scalar columns of one call and return its uri.

    Raises:
        CallError: the row violates the contract (`bad_row`).
    """
    if row_error is not None:
        raise CallError(RejectCode.BAD_ROW, row_error)
    if not uri:
        raise CallError(RejectCode.BAD_ROW, "uri is empty; it must name the recording")
    if len(uri) > MAX_URI_CHARS:
        raise CallError(RejectCode.BAD_ROW, f"uri has {len(uri)} characters; at most {MAX_URI_CHARS} are allowed")
    if intent is not None and intent not in INTENTS:
        # A longer value may be a transcript or a phone number in the wrong column, so it is not quoted.
        shown = repr(intent) if len(intent) <= MAX_QUOTED_CHARS else "a longer text"
        raise CallError(RejectCode.BAD_ROW, f"intent is {shown}; it must be one of {', '.join(INTENTS)} or null")
    if agent_channel is not None and agent_channel not in (0, 1):
        raise CallError(RejectCode.BAD_ROW, "agent_channel is neither 0, 1 nor null")
    return uri


def _parse_turn(number: int, turn: Mapping[str, Any] | None) -> Turn:
    if turn is None:
        raise CallError(RejectCode.BAD_ROW, f"turn {number} is null")
    speaker, start_sec, end_sec = turn["speaker"], turn["start_sec"], turn["end_sec"]
    if speaker not in SPEAKERS:
        # The value may be a person's name, a phone number or text in the wrong field, so it is not quoted.
        problem = "no speaker" if speaker is None else "another speaker"
        raise CallError(RejectCode.BAD_ROW, f"turn {number} has {problem}; it must be agent or customer")
    if start_sec is None or end_sec is None or not (math.isfinite(start_sec) and math.isfinite(end_sec)):
        raise CallError(
            RejectCode.BAD_ROW, f"turn {number} lacks its start or its end; both must be finite numbers of seconds"
        )
    if not 0 <= start_sec <= end_sec:
        raise CallError(
            RejectCode.BAD_ROW,
            f"turn {number} runs from {start_sec:g} s to {end_sec:g} s; 0 <= start_sec <= end_sec must hold",
        )
    return Turn(speaker=speaker, start_sec=start_sec, end_sec=end_sec, text=turn["text"] or "")


def _read_footer(file: str) -> tuple[pa.Schema, int]:
    with storage.open_for_reading(file) as handle, _parquet_errors_naming(file):
        parquet = pq.ParquetFile(handle)
        return parquet.schema_arrow, parquet.metadata.num_rows


def _check_schema(file: str, schema: pa.Schema) -> pa.Schema:
    for name in REQUIRED:
        if name not in schema.names:
            raise ManifestError(f"{file} has no column {name!r}; every manifest needs {' and '.join(REQUIRED)}")
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise ManifestError(f"{file} has the column {name!r} twice; keep only one")
    empty = schema.empty_table().to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
    for name in INTERPRETED.names:
        _cast_interpreted(file, empty[0], name)
    return schema


def _merge_columns(files: Sequence[str], schemas: Sequence[pa.Schema]) -> dict[str, pa.DataType]:
    """Return the names and types of the pass-through columns of all files, unified."""
    merged = pa.schema([])
    for file, schema in zip(files, schemas, strict=True):
        plain = [
            pa.field(field.name, _plain_type(field.type)) for field in schema if field.name not in INTERPRETED.names
        ]
        for field in plain:
            try:
                merged = pa.unify_schemas([merged, pa.schema([field])], promote_options="permissive")
            except pa.ArrowTypeError as exc:
                before = merged.field(field.name).type
                raise ManifestError(
                    f"{file} has the column {field.name!r} as {field.type}, the files before it have it as {before}; "
                    "give it one type"
                ) from exc
    return {field.name: field.type for field in merged}


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """Return a type without dictionary encoding, which varies from file to file, and views, which few tools read."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _unreserved_name(name: str, taken: Collection[str]) -> str:
    name = f"manifest_{name}"
    return _unreserved_name(name, taken) if name in taken else name


def _cast_column(file: str, batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    if name in INTERPRETED.names:
        return _cast_interpreted(file, batch, name)
    if name not in batch.schema.names:
        return pa.nulls(len(batch), kind)
    column = batch.column(name)
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as exc:
        raise ManifestError(
            f"{file} has the column {name!r} as {column.type}, which does not fit the common type {kind} of all files: "
            f"{_message_without_values(exc)}; give it one type"
        ) from exc


def _cast_interpreted(file: str, batch: pa.RecordBatch, name: str) -> pa.Array:
    """Return an interpreted column cast to the contract's type; all null if the file lacks it."""
    kind = INTERPRETED.field(name).type
    if name not in batch.schema.names or pa.types.is_null(batch.schema.field(name).type):
        return pa.nulls(len(batch), kind)
    column = batch.column(name)
    try:
        if pa.types.is_floating(column.type):  # pandas stores integers with nulls, and empty columns, as floats
            column = pc.if_else(pc.is_nan(column), None, column)
            if name == "agent_channel":  # a fraction must reject its own row only, so it becomes an invalid channel
                is_integer = pc.equal(column, pc.floor(column))
                column = pc.if_else(pc.and_(is_integer, pc.less(pc.abs(column), MAX_EXACT_FLOAT)), column, -1.0)
            column = column.cast(pa.int64())
            if column.null_count == len(column):
                return pa.nulls(len(batch), kind)
        if name == "agent_channel" and pa.types.is_uint64(column.type):
            column = pc.min_element_wise(column, MAX_INT64, skip_nulls=False)
        if name == "turns":
            return _cast_turns(column)
        return _replace_invalid_utf8(column.cast(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowTypeError) as exc:
        raise ManifestError(
            f"{file} has the column {name!r} as {column.type}, which is not {kind}: {_message_without_values(exc)}"
        ) from exc


def _message_without_values(exc: pa.ArrowException) -> str:
    """Return Arrow's message if it is about types; a message about a value would quote that value."""
    return "a value does not fit" if type(exc) is pa.ArrowInvalid else str(exc)


def _cast_turns(column: pa.Array) -> pa.Array:
    """Cast turns to the contract's type, whatever the order, number and width of their fields."""
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int32)
    flat = pc.list_flatten(column)
    if pa.types.is_null(flat.type):  # every list is empty or null
        flat = flat.cast(TURN)
    fields = [_replace_invalid_utf8(pc.struct_field(flat, field.name).cast(field.type)) for field in TURN]
    turns = pa.StructArray.from_arrays(fields, fields=list(TURN), mask=pc.is_null(flat))
    return pa.ListArray.from_arrays(pa.array(offsets), turns, mask=pc.is_null(column))


def _replace_invalid_utf8(column: pa.Array) -> pa.Array:
    """Replace invalid UTF-8 in text, which Parquet does not check, so that one bad value does not fail the others."""
    if not pa.types.is_string(column.type):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        texts = column.cast(pa.binary()).to_pylist()
        return pa.array([text and text.decode(errors="replace") for text in texts], pa.string())
    return column


def _id_error(call_id: str | None, row_id: int, first_rows: dict[str, int]) -> str | None:
    if not call_id:
        return "call_id is empty; every call needs one"
    first = first_rows.setdefault(call_id, row_id)
    return None if first == row_id else f"call_id is the same as that of row {first}; it must be unique in the day"


def _digest_file(digest: hashlib._Hash, file: str) -> None:
    digest.update(f"{file.rpartition('/')[2]}\0".encode())
    with storage.open_for_reading(file) as handle:
        while chunk := handle.read(2**23):
            digest.update(chunk)


@contextlib.contextmanager
def _parquet_errors_naming(file: str) -> Iterator[None]:
    """Raise Arrow's errors about a broken file as a `ManifestError` that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as exc:
        raise ManifestError(f"{file} cannot be read as Parquet: {exc}") from exc
