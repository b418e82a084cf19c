"""Bring the columns of a day's files to one schema: the contract's columns by their names, all others as they are.

Names are compared without case, as DuckDB and Spark do: a column whose name differs from one of the contract only in
case is that column.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn.calls.parquet import Footer, message_without_values
from msmtfn.errors import ManifestError

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
MAX_INT64: Final = pa.scalar(2**63 - 1, pa.uint64())
MAX_INTEGER_DIGITS: Final = 38
MAX_EXACT_FLOAT: Final = {pa.float16(): 2.0**11, pa.float32(): 2.0**24, pa.float64(): 2.0**53}
"""From here on floats cannot represent every integer."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of a day.

    Attributes:
        passed: types of the columns that pass through, by the names that they get.
        renamed: new names of columns whose own name is taken, by their own name.
        sources: for each file, the names that its columns have there, by the names that they get.
    """

    passed: Mapping[str, pa.DataType]
    renamed: Mapping[str, str]
    sources: Sequence[Mapping[str, str]]


def merge_columns(footers: Sequence[Footer], reserved: Collection[str]) -> Columns:
    """Unify the columns of a day's files.

    A file without rows, and a column without a value, do not count where their types contradict others: pandas writes
    such columns as floats or as nulls.

    Args:
        footers: footers of the files.
        reserved: names that no column that passes through may have; those that do are prefixed with `manifest_`.

    Raises:
        ManifestError: a file lacks a required column, or the type of a column does not fit.
    """
    layouts: dict[tuple[pa.Schema, frozenset[str], bool], Footer] = {}
    for footer in footers:
        layouts.setdefault(_layout(footer), footer)
    merged = _merge_distinct(list(layouts.values()), reserved)
    sources = dict(zip(layouts, merged.sources, strict=True))
    return replace(merged, sources=[sources[_layout(footer)] for footer in footers])


def _layout(footer: Footer) -> tuple[pa.Schema, frozenset[str], bool]:
    """Return what decides how the columns of a file are taken; most days have one or two layouts, in many files."""
    return footer.schema, footer.empty, footer.num_rows > 0


def _merge_distinct(footers: Sequence[Footer], reserved: Collection[str]) -> Columns:
    """Unify the columns of files, each of another layout."""
    ambiguous = _find_ambiguous([footer for footer in footers if footer.num_rows])
    keys = [{_key(name, ambiguous): name for name in footer.schema.names} for footer in footers]
    for footer, names in zip(footers, keys, strict=True):
        if footer.num_rows:
            _check_interpreted(footer, names)
    types = _merge_types(footers, keys)
    spellings = {key: name for names in reversed(keys) for key, name in names.items()}
    new_names = _choose_names({key: spellings[key] for key in types}, reserved)
    given = {**{name: name for name in INTERPRETED.names}, **new_names}
    return Columns(
        passed={new_names[key]: kind for key, kind in types.items()},
        renamed={spellings[key]: name for key, name in new_names.items() if name != spellings[key]},
        sources=[{given[key]: name for key, name in names.items()} for names in keys],
    )


def cast_passed(file: str, column: pa.Array, name: str, kind: pa.DataType) -> pa.Array:
    """Return a column that passes through, cast to the type that it has in all files.

    Raises:
        ManifestError: a value does not fit.
    """
    if column.null_count == len(column):
        return pa.nulls(len(column), kind)
    try:
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as exc:
        raise ManifestError(
            f"{file} has the column {name!r} as {column.type}, which does not fit the common type {kind} of all files: "
            f"{message_without_values(exc)}; give it one type"
        ) from exc


def cast_interpreted(file: str, column: pa.Array, name: str, source: str) -> pa.Array:
    """Return a column that the jobs interpret, cast to the contract's type.

    Args:
        file: location of the file.
        column: the column.
        name: name of the column in `INTERPRETED`.
        source: name of the column in the file.

    Raises:
        ManifestError: a value does not fit.
    """
    kind = INTERPRETED.field(name).type
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    try:
        if name == "agent_channel":
            return _mark_invalid_channels(column).cast(kind)
        values = _as_integers(file, column, source)
        if len(values) and values.null_count == len(values):
            return pa.nulls(len(values), kind)
        return _cast_turns(file, values, source) if name == "turns" else _replace_invalid_utf8(values.cast(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, pa.ArrowTypeError) as exc:
        raise ManifestError(
            f"{file} has the column {source!r} as {column.type}, which is not {kind}: {message_without_values(exc)}"
        ) from exc


def _find_ambiguous(footers: Sequence[Footer]) -> set[str]:
    """Return the names, in lower case, of columns that a file has in several spellings."""
    ambiguous = set()
    for footer in footers:
        for name, count in Counter(footer.schema.names).items():
            if count > 1:
                raise ManifestError(f"{footer.file} has the column {name!r} twice; keep only one")
        counts = Counter(name.lower() for name in footer.schema.names)
        ambiguous |= {name for name, count in counts.items() if count > 1}
    return ambiguous


def _key(name: str, ambiguous: Collection[str]) -> str:
    """Return what a column is known by across files: its name without case, unless a file has several of these."""
    return name if name.lower() in ambiguous else name.lower()


def _check_interpreted(footer: Footer, names: Mapping[str, str]) -> None:
    for name in REQUIRED:
        if name not in names:
            raise ManifestError(f"{footer.file} has no column {name!r}; every manifest needs {' and '.join(REQUIRED)}")
    for name in INTERPRETED.names:
        if name not in names or names[name] in footer.empty:
            continue
        kind = footer.schema.field(names[name]).type
        if not pa.types.is_floating(kind):  # pandas' type of a column without values, which statistics may not tell
            cast_interpreted(footer.file, pa.array([], kind), name, names[name])


def _merge_types(footers: Sequence[Footer], keys: Sequence[Mapping[str, str]]) -> dict[str, pa.DataType]:
    """Return the unified types of the columns that pass through, by their keys, in the order of their first mention."""
    with_values: dict[str, pa.DataType] = {}
    without: dict[str, pa.DataType] = {}
    for footer, names in zip(footers, keys, strict=True):
        for key, name in names.items():
            if key in INTERPRETED.names:
                continue
            has_values = footer.num_rows > 0 and name not in footer.empty
            types = with_values if has_values else without
            types[key] = _unify(footer.file, name, types.get(key), _type_in(footer, name), is_binding=has_values)
    merged = {**without, **{key: kind for key, kind in with_values.items() if not pa.types.is_null(kind)}}
    return {key: merged.get(key, pa.null()) for names in keys for key in names if key not in INTERPRETED.names}


def _type_in(footer: Footer, name: str) -> pa.DataType:
    return footer.schema.types[footer.schema.names.index(name)]  # a file without rows may have a name twice


def _unify(file: str, name: str, before: pa.DataType | None, kind: pa.DataType, *, is_binding: bool) -> pa.DataType:
    if before is None or before == kind:
        return kind
    try:
        schemas = [pa.schema([pa.field("", before)]), pa.schema([pa.field("", kind)])]
        unified = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowTypeError:
        unified = None
    has_decimal = pa.types.is_decimal(before) or pa.types.is_decimal(kind)
    if unified is not None and not (has_decimal and pa.types.is_floating(unified)):
        return unified
    if not is_binding:
        return before
    raise ManifestError(
        f"{file} has the column {name!r} as {kind}, the files before it have it as {before}; give it one type"
    )


def _choose_names(spellings: Mapping[str, str], reserved: Collection[str]) -> dict[str, str]:
    """Return the names that columns get, by their keys: their own unless it is taken, compared without case."""
    used = {name.lower() for name in reserved} | set(INTERPRETED.names)
    own = {name.lower() for name in spellings.values()}
    chosen = {}
    for key, name in spellings.items():
        new_name = name
        if name.lower() in used:
            while new_name.lower() in used | own:
                new_name = f"manifest_{new_name}"
        used.add(new_name.lower())
        chosen[key] = new_name
    return chosen


def _mark_invalid_channels(column: pa.Array) -> pa.Array:
    """Return channels as integers or text; a number that is none becomes -1, so that it rejects its own row only."""
    if pa.types.is_decimal(column.type) or pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_nan(column), None, column)
        is_integer = pc.and_(pc.equal(column, pc.floor(column)), pc.less(pc.abs(column), MAX_EXACT_FLOAT[column.type]))
        return pc.if_else(is_integer, column, -1.0)
    if pa.types.is_uint64(column.type):
        return pc.min_element_wise(column, MAX_INT64, skip_nulls=False)
    return column


def _as_integers(file: str, column: pa.Array, source: str) -> pa.Array:
    """Return floats and decimals as the integers that they stand for; other columns as they are.

    pandas stores integers beside a null as floats, and databases have numbers as decimals.
    """
    if pa.types.is_decimal(column.type):
        return column.cast(pa.decimal128(MAX_INTEGER_DIGITS, 0))
    if not pa.types.is_floating(column.type):
        return column
    limit = MAX_EXACT_FLOAT[column.type]
    column = column.cast(pa.float64())
    column = pc.if_else(pc.is_nan(column), None, column)
    if (pc.max(pc.abs(column)).as_py() or 0.0) >= limit:
        raise ManifestError(
            f"{file} has the column {source!r} as floating-point numbers of {limit:.0f} and above, where different "
            "integers become the same number; write it as integers or as text (in pandas: astype('Int64') or str)"
        )
    return column.cast(pa.int64())


def _cast_turns(file: str, column: pa.Array, source: str) -> pa.Array:
    """Cast turns to the contract's type, whatever the order, number and width of their fields."""
    lengths = pc.fill_null(pc.list_value_length(column), 0)
    offsets = np.concatenate([[0], np.cumsum(lengths.to_numpy(zero_copy_only=False))]).astype(np.int32)
    flat = pc.list_flatten(column)
    if pa.types.is_null(flat.type):  # every list is empty or null
        flat = flat.cast(TURN)
    if not pa.types.is_struct(flat.type):
        raise pa.ArrowTypeError(f"its elements are {flat.type}")
    places = [_find_field(file, source, flat.type, field.name) for field in TURN]
    fields = [
        _replace_invalid_utf8(pc.struct_field(flat, [place]).cast(field.type))
        for place, field in zip(places, TURN, strict=True)
    ]
    turns = pa.StructArray.from_arrays(fields, fields=list(TURN), mask=pc.is_null(flat))
    return pa.ListArray.from_arrays(pa.array(offsets), turns, mask=pc.is_null(column))


def _find_field(file: str, source: str, turn: pa.StructType, name: str) -> int:
    """Return the index of the field of turns that has a name; one in another case counts where there is no exact one.

    Raises:
        ManifestError: there is no such field, or there are several.
    """
    names = [field.name for field in turn]
    exact = [place for place, each in enumerate(names) if each == name]
    places = exact or [place for place, each in enumerate(names) if each.lower() == name]
    if not places:
        raise ManifestError(
            f"{file} has the column {source!r} without the field {name!r}; a turn needs {', '.join(TURN.names)}"
        )
    if len(places) > 1:
        raise ManifestError(f"{file} has the column {source!r} with the field {name!r} twice; keep only one")
    return places[0]


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
