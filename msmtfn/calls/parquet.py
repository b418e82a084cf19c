"""Read Parquet files as pandas, Polars, DuckDB and Spark write them, with types that every later step can carry.

Text in dictionaries and views becomes plain text, a UUID becomes its text, JSON becomes text. Anything that Arrow, or
the Parquet files of the leads, cannot carry without changing it is an error that names the file and the column.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from msmtfn.errors import ManifestError

READ_BATCH_ROWS: Final = 4096
NANOSECONDS_IN_MICROSECOND: Final = 1000


@dataclass(frozen=True, slots=True)
class Footer:
    """Content of the footer of a Parquet file.

    Attributes:
        file: location of the file.
        num_rows: number of rows.
        schema: columns with the types in which `iter_batches` yields them.
        empty: names of the columns without any value, whose type is a default of the writer; as far as is known.
        int96: names of the columns with timestamps in the old format of Spark, Hive and Impala.
    """

    file: str
    num_rows: int
    schema: pa.Schema
    empty: frozenset[str]
    int96: frozenset[str]


def read_footer(file: str, handle: IO[bytes]) -> Footer:
    """Read the footer of an open file.

    Raises:
        ManifestError: the file cannot be read, or Arrow cannot carry the type of a column.
    """
    with _errors_naming(file):
        parquet = pq.ParquetFile(handle, coerce_int96_timestamp_unit="us")
        metadata = parquet.metadata
        schema = pa.schema([pa.field(field.name, plain_type(field.type)) for field in parquet.schema_arrow])
    leaves = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    for leaf in leaves:
        if leaf.converted_type == "INTERVAL":
            raise _cannot_carry(file, _column_of(leaf), "an INTERVAL of Parquet")
    for field in schema:
        if (reason := _why_not_writable(field.type)) is not None:
            raise _cannot_carry(file, field.name, reason)
    return Footer(
        file=file,
        num_rows=metadata.num_rows,
        schema=schema,
        empty=frozenset(leaf.path for number, leaf in enumerate(leaves) if _has_no_value(metadata, number)),
        int96=frozenset(_column_of(leaf) for leaf in leaves if leaf.physical_type == "INT96"),
    )


def iter_batches(footer: Footer, handle: IO[bytes]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an open file with the types of `footer.schema`.

    Raises:
        ManifestError: the file cannot be read, memory does not suffice, or a timestamp would lose nanoseconds.
    """
    with _errors_naming(footer.file):
        batches: Iterator[tuple[pa.RecordBatch, pa.RecordBatch | None]]
        batches = ((batch, None) for batch in _read_batches(handle, "us"))
        if footer.int96:
            # In nanoseconds Arrow lets dates after 2262 overflow, in microseconds it drops what is below them.
            exact = _read_batches(handle, "ns", sorted(footer.int96))
            batches = zip(_read_batches(handle, "us"), exact, strict=True)
        for batch, nanoseconds in batches:
            if nanoseconds is not None:
                _check_exact(footer.file, batch, nanoseconds)
            columns = [_as_plain(batch.column(number), field.type) for number, field in enumerate(footer.schema)]
            yield pa.record_batch(columns, schema=footer.schema)


def _read_batches(handle: IO[bytes], int96_unit: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    parquet = pq.ParquetFile(handle, coerce_int96_timestamp_unit=int96_unit)
    batches: Iterator[pa.RecordBatch] = parquet.iter_batches(READ_BATCH_ROWS, columns=columns)
    return batches


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type in which a column is carried.

    It has no dictionaries, whose encoding varies from file to file, no views, which few tools read, and no extension
    types, which few tools know.
    """
    if isinstance(kind, pa.UuidType):
        return pa.string()
    if isinstance(kind, pa.BaseExtensionType):
        return plain_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_nested(kind):
        return _plain_nested(kind)
    return {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}.get(kind, kind)


def _plain_nested(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    return kind


def too_large(file: str) -> ManifestError:
    """Return the error of a file that takes more memory than there is."""
    return ManifestError(
        f"{file} unpacks to more than the memory that is left; check what wrote it, or write shorter rows"
    )


def message_without_values(exc: pa.ArrowException) -> str:
    """Return Arrow's message if it is about types; a message about a value would quote that value."""
    return "a value does not fit" if type(exc) is pa.ArrowInvalid else str(exc)


def _plain_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, plain_type(field.type), field.nullable)


def _as_plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if _holds_uuid(column.type):  # Arrow would cast the 16 bytes
        return pa.array([_with_text_for_uuids(value) for value in column.to_pylist()], kind)
    if isinstance(column, pa.ExtensionArray):
        return _as_plain(column.storage, kind)
    return column.cast(kind)


def _holds_uuid(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return isinstance(kind, pa.UuidType)
    return any(_holds_uuid(kind.field(number).type) for number in range(kind.num_fields))


def _with_text_for_uuids(value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, dict):
        return {name: _with_text_for_uuids(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_with_text_for_uuids(item) for item in value)
    return value


def _column_of(leaf: pq.ColumnSchema) -> str:
    return str(leaf.path).partition(".")[0]


def _cannot_carry(file: str, column: str, what: str) -> ManifestError:
    return ManifestError(
        f"{file} has the column {column!r} of a type that cannot be carried over without changing it ({what}); "
        "write it as text or as a number"
    )


@lru_cache(maxsize=1024)
def _why_not_writable(kind: pa.DataType) -> str | None:
    """Return why Parquet cannot hold a type; None if it can."""
    try:
        pq.write_table(pa.schema([pa.field("", kind)]).empty_table(), pa.BufferOutputStream())
    except pa.ArrowException as exc:
        return str(exc)
    return None


def _has_no_value(metadata: pq.FileMetaData, number: int) -> bool:
    """Return True if the statistics say that a column has nulls only."""
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(number)
        statistics = chunk.statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count < chunk.num_values:
            return False
    return True


def _check_exact(file: str, batch: pa.RecordBatch, nanoseconds: pa.RecordBatch) -> None:
    """Check that INT96 timestamps in microseconds are those in nanoseconds, which may have overflowed.

    Other timestamps of the same column have the same unit in both.
    """
    for name in nanoseconds.schema.names:
        for kept, exact in zip(_leaves(batch.column(name)), _leaves(nanoseconds.column(name)), strict=True):
            if kept.type == exact.type:
                continue
            with np.errstate(over="ignore"):
                scaled = np.asarray(pc.fill_null(kept.cast(pa.int64()), 0)) * NANOSECONDS_IN_MICROSECOND
            if not np.array_equal(scaled, np.asarray(pc.fill_null(exact.cast(pa.int64()), 0))):
                raise _cannot_carry(file, name, "an INT96 timestamp with nanoseconds")


def _leaves(column: pa.Array) -> list[pa.Array]:
    """Return the arrays of values that a nested array consists of."""
    if pa.types.is_struct(column.type):
        return [leaf for child in column.flatten() for leaf in _leaves(child)]
    if pa.types.is_map(column.type):
        return [*_leaves(column.keys), *_leaves(column.items)]
    if pa.types.is_nested(column.type):
        return _leaves(column.flatten())
    return [column]


@contextlib.contextmanager
def _errors_naming(file: str) -> Iterator[None]:
    """Raise Arrow's errors about a broken file as a `ManifestError` that names the file."""
    try:
        yield
    except MemoryError as exc:  # before Arrow's, of which one is a MemoryError
        raise too_large(file) from exc
    except pa.ArrowNotImplementedError as exc:
        raise ManifestError(
            f"{file} has a column of a type that Arrow cannot carry: {exc}; write it as text or as a number"
        ) from exc
    except (pa.ArrowException, OSError) as exc:
        raise ManifestError(f"{file} cannot be read as Parquet: {exc}") from exc
    except ValueError as exc:
        # Ray, which may be loaded here or not, refuses pickles by this error; its message says how to switch them on.
        if "deserialize" not in str(exc):
            raise
        raise ManifestError(
            f"{file} has a column of an extension type that is described by a pickle, such as ray.data.arrow_tensor of "
            "Ray 2.49 to 2.54, and no pickle is opened; write it as lists, as text or as numbers"
        ) from None
