"""The manifest of a day: which calls there were, where their recordings are, what the recogniser heard.

A manifest is `<root>/date=YYYY-MM-DD/*.parquet`, one row a call. What is wrong with a whole file ends the job; what is
wrong with a row rejects that row.
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
"""The columns that the jobs look into, and the types they are given; all others pass through as they are."""

REQUIRED: Final = ("call_id", "uri")
ROW_ERROR: Final = "row_error"
SPEAKERS: Final = ("agent", "customer")
ROWS_AT_A_TIME: Final = 4096
LONGEST_LABEL: Final = 2
LARGEST_INT: Final = pa.scalar(2**63 - 1, pa.uint64())
LARGEST_FLOAT: Final = 2.0**53  # from here on a float is not every integer; infinity is none
LONGEST_URI: Final = 4096  # no file system has longer paths, and to resolve one takes the square of its length


@dataclass(frozen=True, slots=True)
class Manifest:
    """One day's manifest, seen to be readable.

    Attributes:
        root: the folder that relative uris count from.
        date: the day.
        files: its Parquet files, in order.
        num_rows: calls of the day.
        schema: of the rows that `iter_calls` yields.
        renamed: pass-through columns whose name is taken in the leads, and what they are called there.
        fingerprint: of the files' content, 16 hexadecimal digits.
    """

    root: str
    date: dt.date
    files: tuple[str, ...]
    num_rows: int
    schema: pa.Schema
    renamed: Mapping[str, str]
    fingerprint: str


def open_manifest(root: str, date: dt.date, *, reserved: Collection[str] = ()) -> Manifest:
    """Find a day's manifest and check what concerns its files as a whole.

    Args:
        root: the folder of all manifests, local or on S3.
        date: the day.
        reserved: names that no pass-through column may have; one that does gets `manifest_` before it.

    Raises:
        ManifestError: there is none, a file cannot be read, lacks a required column or has one of a type that cannot
            be understood; the message names the file and the column.
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
        schemas.append(_checked_schema(file, schema))
        num_rows += rows
        _digest_file(digest, file)
    columns = _merged_columns(files, schemas)
    taken = {*reserved, ROW_ID, ROW_ERROR} - set(INTERPRETED.names)
    renamed = {name: _free_name(name, {*taken, *columns}) for name in columns if name in taken}
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
    """Yield the day's rows in order, in one schema whatever the files had.

    `row_id` numbers the rows of the day; `row_error` says what only the whole day can tell: an id that is missing or
    was there before. Keeps the day's ids in memory, about 100 MB a million calls.

    Raises:
        ManifestError: a value cannot be understood as its column's type.
    """
    seen: dict[str, int] = {}
    next_id = 0
    original_names = {new: old for old, new in manifest.renamed.items()}
    for file in manifest.files:
        with storage.open_for_reading(file) as handle, _readable(file):
            for batch in pq.ParquetFile(handle).iter_batches(ROWS_AT_A_TIME):
                ids = _as_contract(file, batch, "call_id")
                errors = [_id_error(call_id, next_id + row, seen) for row, call_id in enumerate(ids.to_pylist())]
                columns = [pa.array(range(next_id, next_id + len(batch)), pa.int64()), pa.array(errors, pa.string())]
                for field in list(manifest.schema)[2:]:
                    name = original_names.get(field.name, field.name)
                    columns.append(_column(file, batch, name, field.type))
                next_id += len(batch)
                yield pa.record_batch(columns, schema=manifest.schema)


def turns_of(row: Sequence[Mapping[str, Any] | None] | None) -> list[Turn] | None:
    """Check the turns of one call.

    Raises:
        CallError: a turn breaks the contract (`bad_row`).
    """
    if row is None:
        return None
    return [_checked_turn(number, turn) for number, turn in enumerate(row)]


def check_call(uri: str | None, intent: str | None, agent_channel: int | None, row_error: str | None) -> str:
    """Check the scalar columns of one call.

    Returns:
        The uri.

    Raises:
        CallError: the row breaks the contract (`bad_row`).
    """
    if row_error is not None:
        raise CallError(RejectCode.BAD_ROW, row_error)
    if not uri:
        raise CallError(RejectCode.BAD_ROW, "uri is empty; it must name the recording")
    if len(uri) > LONGEST_URI:
        raise CallError(RejectCode.BAD_ROW, f"uri has {len(uri)} characters; at most {LONGEST_URI} are taken")
    if intent is not None and intent not in INTENTS:
        # A longer one may be a text or a number in the wrong column, which is not for the operator.
        said = repr(intent) if len(intent) <= LONGEST_LABEL else "a longer text"
        raise CallError(RejectCode.BAD_ROW, f"intent is {said}; it must be one of {', '.join(INTENTS)} or null")
    if agent_channel is not None and agent_channel not in (0, 1):
        raise CallError(RejectCode.BAD_ROW, "agent_channel is neither 0, 1 nor null")
    return uri


def _checked_turn(number: int, turn: Mapping[str, Any] | None) -> Turn:
    if turn is None:
        raise CallError(RejectCode.BAD_ROW, f"turn {number} is null")
    speaker, start_sec, end_sec = turn["speaker"], turn["start_sec"], turn["end_sec"]
    if speaker not in SPEAKERS:
        # Not the name itself: it may be a person's, a number, or a text in the wrong field.
        said = "no speaker" if speaker is None else "another speaker"
        raise CallError(RejectCode.BAD_ROW, f"turn {number} has {said}; it must be agent or customer")
    if start_sec is None or end_sec is None or not (math.isfinite(start_sec) and math.isfinite(end_sec)):
        raise CallError(RejectCode.BAD_ROW, f"turn {number} lacks its start or its end")
    if not 0 <= start_sec <= end_sec:
        raise CallError(
            RejectCode.BAD_ROW,
            f"turn {number} runs from {start_sec:g} s to {end_sec:g} s; it must start at 0 or later and not end before",
        )
    return Turn(speaker=speaker, start_sec=start_sec, end_sec=end_sec, text=turn["text"] or "")


def _read_footer(file: str) -> tuple[pa.Schema, int]:
    with storage.open_for_reading(file) as handle, _readable(file):
        parquet = pq.ParquetFile(handle)
        return parquet.schema_arrow, parquet.metadata.num_rows


def _checked_schema(file: str, schema: pa.Schema) -> pa.Schema:
    for name in REQUIRED:
        if name not in schema.names:
            raise ManifestError(f"{file} has no column {name!r}; every manifest needs {' and '.join(REQUIRED)}")
    for name in schema.names:
        if schema.names.count(name) > 1:
            raise ManifestError(f"{file} has the column {name!r} twice; leave one")
    empty = schema.empty_table().to_batches() or [pa.RecordBatch.from_pylist([], schema=schema)]
    for name in INTERPRETED.names:
        _as_contract(file, empty[0], name)
    return schema


def _merged_columns(files: Sequence[str], schemas: Sequence[pa.Schema]) -> dict[str, pa.DataType]:
    """Names and types of the pass-through columns of all files together."""
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
    """Dictionaries and views are how a file was packed; the first differ from file to file, the second few can read."""
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _free_name(name: str, taken: Collection[str]) -> str:
    name = f"manifest_{name}"
    return _free_name(name, taken) if name in taken else name


def _column(file: str, batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    if name in INTERPRETED.names:
        return _as_contract(file, batch, name)
    if name not in batch.schema.names:
        return pa.nulls(len(batch), kind)
    column = batch.column(name)
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as exc:
        raise ManifestError(
            f"{file} has the column {name!r} as {column.type}, which does not fit the {kind} of the files together: "
            f"{_without_values(exc)}; give it one type"
        ) from exc


def _as_contract(file: str, batch: pa.RecordBatch, name: str) -> pa.Array:
    """A column that the jobs look into, as the contract types it; null where the file has none."""
    kind = INTERPRETED.field(name).type
    if name not in batch.schema.names or pa.types.is_null(batch.schema.field(name).type):
        return pa.nulls(len(batch), kind)
    column = batch.column(name)
    try:
        if pa.types.is_floating(column.type):  # how pandas keeps integers beside nulls, and a column of nulls
            column = pc.if_else(pc.is_nan(column), None, column)
            if name == "agent_channel":  # a half is no channel, and none of the file's other rows' business
                is_integer = pc.equal(column, pc.floor(column))
                column = pc.if_else(pc.and_(is_integer, pc.less(pc.abs(column), LARGEST_FLOAT)), column, -1.0)
            column = column.cast(pa.int64())
            if column.null_count == len(column):
                return pa.nulls(len(batch), kind)
        if name == "agent_channel" and pa.types.is_uint64(column.type):
            column = pc.min_element_wise(column, LARGEST_INT, skip_nulls=False)
        if name == "turns":
            return _cast_turns(column)
        return _readable_text(column.cast(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowTypeError) as exc:
        raise ManifestError(
            f"{file} has the column {name!r} as {column.type}, which is not {kind}: {_without_values(exc)}"
        ) from exc


def _without_values(exc: pa.ArrowException) -> str:
    """What Arrow says of a column, where it is of types; what it says of a value quotes it, text or number."""
    return "a value does not fit" if type(exc) is pa.ArrowInvalid else str(exc)


def _cast_turns(column: pa.Array) -> pa.Array:
    """Bring turns to the contract's type, whatever the order, number and width of their fields."""
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int32)
    flat = pc.list_flatten(column)
    if pa.types.is_null(flat.type):  # all lists are empty
        flat = flat.cast(TURN)
    fields = [_readable_text(pc.struct_field(flat, field.name).cast(field.type)) for field in TURN]
    turns = pa.StructArray.from_arrays(fields, fields=list(TURN), mask=pc.is_null(flat))
    return pa.ListArray.from_arrays(pa.array(offsets), turns, mask=pc.is_null(column))


def _readable_text(column: pa.Array) -> pa.Array:
    """Text whose bytes are all UTF-8: Parquet does not look, and one odd name must not cost the others."""
    if not pa.types.is_string(column.type):
        return column
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        texts = column.cast(pa.binary()).to_pylist()
        return pa.array([text and text.decode(errors="replace") for text in texts], pa.string())
    return column


def _id_error(call_id: str | None, row_id: int, seen: dict[str, int]) -> str | None:
    if not call_id:
        return "call_id is empty; every call needs one"
    first = seen.setdefault(call_id, row_id)
    return None if first == row_id else f"call_id is the same as that of row {first}; it must be unique in the day"


def _digest_file(digest: hashlib._Hash, file: str) -> None:
    digest.update(f"{file.rpartition('/')[2]}\0".encode())
    with storage.open_for_reading(file) as handle:
        while chunk := handle.read(2**23):
            digest.update(chunk)


@contextlib.contextmanager
def _readable(file: str) -> Iterator[None]:
    """Turn what Arrow raises for a broken file into a `ManifestError` that names it."""
    try:
        yield
    except (pa.ArrowException, OSError) as exc:
        raise ManifestError(f"{file} cannot be read as Parquet: {exc}") from exc
