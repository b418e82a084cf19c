"""The record of a published day, the file `_SUCCESS`: written by a run, read as input that anybody may have written."""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, get_args, get_type_hints

from msmtfn.daily.publication import is_publication, publication_of
from msmtfn.leads.drift import describe_drift
from msmtfn.storage.untrusted import parse_object

MAX_COUNT: Final = 2**53


@dataclass(frozen=True, kw_only=True)
class Success:
    """Record of a published day.

    The fields are those of the JSON, in its order. Optional ones are left out of the JSON where they are None or empty.
    A run makes the record before the counts and the names of the publication are known; those have defaults.

    Attributes:
        calls: number of calls of the day.
        scored: number of calls with a score.
        rejected: number of rejects.
        rejected_by_reason: number of rejects by error code.
        audio_hours: total length of the recordings.
        date: the day.
        run_id: run that published it.
        model: name of the model as the caller gave it.
        model_version: fingerprint of the model's content.
        calls_resumed: number of calls that an earlier attempt of the run had scored.
        seconds: seconds from the start of the scoring to the publication.
        startup_seconds: seconds until the first batch reached a scorer; None if this attempt scored nothing.
        stage_seconds: seconds of work of all processes, by stage.
        calls_per_sec: throughput after the startup.
        drift: comparison with the model's own calls and with earlier days.
        published_at: time of the publication.
        versions: versions of the packages.
        retried: number of rejects that were scored again, where the rest was carried over; else None.
        publication: name of the publication, which is part of its files' names.
        files: names of the files, best leads first.
        replaced: replaced or abandoned publications whose files may still exist.
        unknown: fields that this version does not know; they are kept, so that a newer version loses nothing.
    """

    calls: int = 0
    scored: int = 0
    rejected: int = 0
    rejected_by_reason: dict[str, int] = field(default_factory=dict)
    audio_hours: float = 0.0
    date: dt.date
    run_id: str
    model: str
    model_version: str
    calls_resumed: int
    seconds: float
    startup_seconds: float | None = None
    stage_seconds: dict[str, float] | None = None
    calls_per_sec: float | None = None
    drift: dict[str, Any] | None = None
    published_at: str
    versions: dict[str, str]
    retried: int | None = None
    publication: str = ""
    files: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    unknown: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Success:
        """Read a record, of this version, an earlier one or a later one.

        Raises:
            ValueError: it is not what a run writes; the message names the field.
        """
        content = parse_object(text)
        values = {name: _read(name, kind, content[name]) for name, kind in _kinds().items() if name in content}
        for name in _required():
            if name not in values:
                raise ValueError(f"{name} is missing")
        success = cls(**values, unknown={name: value for name, value in content.items() if name not in values})
        success.check_names()
        return success

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the JSON."""
        content: dict[str, Any] = {}
        for name in _kinds():
            value = getattr(self, name)
            if value is not None and not (name == "replaced" and not value):
                content[name] = list(value) if isinstance(value, tuple) else value
        return {**content, "date": self.date.isoformat(), **self.unknown}

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps(self.as_dict(), indent=2) + "\n"

    def check_names(self) -> None:
        """Check the names that become paths.

        Raises:
            ValueError: one is not a name that a run gives.
        """
        if not is_publication(self.publication):
            raise ValueError("publication is not a name that a run gives")
        if any(publication_of(name) != self.publication for name in self.files):
            raise ValueError("files holds a name that is not one of the publication's")
        if len(set(self.files)) < len(self.files):
            raise ValueError("files holds a name twice")
        if not all(map(is_publication, self.replaced)):
            raise ValueError("replaced holds a name that a run does not give")
        if self.publication in self.replaced:
            raise ValueError("replaced holds the publication itself")


def _read(name: str, kind: Any, value: object) -> Any:
    """Read one field of the JSON."""
    try:
        result = _READERS[kind](value)
        if name == "drift":
            (describe_drift(result) or "").encode()
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as exc:
        raise ValueError(f"{name} is not {_DESCRIPTIONS[kind]}") from exc
    return result


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise ValueError
    return value


def _number(value: object) -> float:
    if type(value) is int:
        return _count(value)
    if type(value) is not float or not math.isfinite(value):
        raise ValueError
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    value.encode()  # a lone surrogate cannot be printed
    return value


def _date(value: object) -> dt.date:
    return dt.date.fromisoformat(_text(value))


def _names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise TypeError
    return tuple(map(_text, value))


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _object_of(read: Callable[[object], Any]) -> Callable[[object], dict[str, Any]]:
    return lambda value: {_text(name): read(inner) for name, inner in _object(value).items()}


_READERS: Final[Mapping[Any, Callable[[object], Any]]] = {
    int: _count,
    float: _number,
    str: _text,
    dt.date: _date,
    tuple[str, ...]: _names,
    dict[str, int]: _object_of(_count),
    dict[str, float]: _object_of(_number),
    dict[str, str]: _object_of(_text),
    dict[str, Any]: _object,
}

_DESCRIPTIONS: Final[Mapping[Any, str]] = {
    int: "a whole number of 0 or more",
    float: "a finite number",
    str: "a text",
    dt.date: "a date YYYY-MM-DD",
    tuple[str, ...]: "a list of names",
    dict[str, int]: "an object of whole numbers of 0 or more",
    dict[str, float]: "an object of finite numbers",
    dict[str, str]: "an object of texts",
    dict[str, Any]: "an object as a run writes it",
}


@functools.cache
def _kinds() -> dict[str, Any]:
    """Return the type of each field of the JSON, without `None`."""
    hints = get_type_hints(Success)
    del hints["unknown"]
    return {name: get_args(hint)[0] if isinstance(hint, types.UnionType) else hint for name, hint in hints.items()}


def _required() -> list[str]:
    """Return the fields that every version has written."""
    optional = {each.name for each in fields(Success) if each.default is None} | {"replaced", "unknown"}
    return [each.name for each in fields(Success) if each.name not in optional]
