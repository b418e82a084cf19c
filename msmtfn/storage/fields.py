"""Read typed records from JSON that another version, or anybody, may have written.

A record's `from_json` reads its fields with these functions. They raise a ValueError that names the field, and whoever
knows the file raises its own error from it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Final, TypeVar

from msmtfn.storage.untrusted import printable

MAX_COUNT: Final = 2**53
Value = TypeVar("Value", bool, int, float, str, list[Any], dict[str, Any])


def read_field(fields: Mapping[str, Any], name: str, kind: type[Value]) -> Value:
    """Return a field of a JSON object; an integer is accepted for a float.

    Raises:
        ValueError: the field is missing or of another type, an integer is no count (0 to 2^53), a float is not finite,
            or a text cannot be written.
    """
    if name not in fields:
        raise ValueError(f"the field {name!r} is missing")
    value = fields[name]
    # bool is a subclass of int, yet it is not a number here.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and is_number:
        try:
            value = float(value)
        except OverflowError as exc:
            raise ValueError(f"the field {name!r} is too large a number") from exc
        if not math.isfinite(value):
            raise ValueError(f"the field {name!r} is {value}; it must be a finite number")
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"the field {name!r} is {_describe(value)}; it must be of type {kind.__name__}")
    if kind is int and isinstance(value, int) and not 0 <= value <= MAX_COUNT:
        raise ValueError(f"the field {name!r} is {_describe(value)}; it must be from 0 to 2^53")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as exc:  # a lone surrogate
            raise ValueError(f"the field {name!r} is {_describe(value)}; it cannot be written as UTF-8") from exc
    return value


def read_optional(fields: Mapping[str, Any], name: str, kind: type[Value]) -> Value | None:
    """Return a field of a JSON object, or None if it is missing or null.

    Raises:
        ValueError: the field is of another type.
    """
    return None if fields.get(name) is None else read_field(fields, name, kind)


def read_items(fields: Mapping[str, Any], name: str, kind: type[Value]) -> tuple[Value, ...]:
    """Return the items of a list in a JSON object.

    Raises:
        ValueError: the field is missing or no list, or an item is of another type.
    """
    items = {f"{name}[{index}]": item for index, item in enumerate(read_field(fields, name, list))}
    return tuple(read_field(items, item, kind) for item in items)


def read_values(fields: Mapping[str, Any], name: str, kind: type[Value]) -> dict[str, Value]:
    """Return an object in a JSON object, all values of which have the same type.

    Raises:
        ValueError: the field is missing or no object, or a value is of another type.
    """
    values = {f"{name}.{key}": value for key, value in read_field(fields, name, dict).items()}
    return {key.removeprefix(f"{name}."): read_field(values, key, kind) for key in values}


def read_unknown(content: Mapping[str, Any], record: type[Any]) -> dict[str, Any]:
    """Return the fields of a JSON object that a record does not have; it keeps them in a field `unknown` of its own.

    A record of a newer version that is written again then loses nothing.

    Args:
        content: the JSON object.
        record: dataclass whose fields are those of the JSON.
    """
    known = {each.name for each in dataclasses.fields(record)} - {"unknown"}
    return {name: value for name, value in content.items() if name not in known}


def _describe(value: Any) -> str:
    """Return a short description of a value; one of a list or object could be of any length and depth."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    if isinstance(value, int) and abs(value) > MAX_COUNT:  # Python refuses to print numbers of some thousand digits
        return "a number of more than 2^53"
    return printable(repr(value))
