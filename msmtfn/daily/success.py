"""The record of a published day, the file `_SUCCESS`: written by a run, read as input that anybody may have written."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from msmtfn.daily.publication import is_publication, publication_of
from msmtfn.leads.drift import describe_drift
from msmtfn.storage.fields import read_field, read_items, read_optional, read_unknown, read_values
from msmtfn.storage.untrusted import parse_object


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
        unranked_by_reason: number of calls with a score, but without a rank, by reason; None in records of versions
            that ranked every call with a score.
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
    unranked_by_reason: dict[str, int] | None = None
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
        success = cls(
            calls=read_field(content, "calls", int),
            scored=read_field(content, "scored", int),
            rejected=read_field(content, "rejected", int),
            rejected_by_reason=read_values(content, "rejected_by_reason", int),
            unranked_by_reason=(
                read_values(content, "unranked_by_reason", int) if "unranked_by_reason" in content else None
            ),
            audio_hours=read_field(content, "audio_hours", float),
            date=_read_date(content, "date"),
            run_id=read_field(content, "run_id", str),
            model=read_field(content, "model", str),
            model_version=read_field(content, "model_version", str),
            calls_resumed=read_field(content, "calls_resumed", int),
            seconds=read_field(content, "seconds", float),
            startup_seconds=read_optional(content, "startup_seconds", float),
            stage_seconds=read_values(content, "stage_seconds", float) if "stage_seconds" in content else None,
            calls_per_sec=read_optional(content, "calls_per_sec", float),
            drift=_read_drift(content, "drift") if "drift" in content else None,
            published_at=read_field(content, "published_at", str),
            versions=read_values(content, "versions", str),
            retried=read_field(content, "retried", int) if "retried" in content else None,
            publication=read_field(content, "publication", str),
            files=read_items(content, "files", str),
            replaced=read_items(content, "replaced", str) if "replaced" in content else (),
            unknown=read_unknown(content, cls),
        )
        success.check_names()
        return success

    @property
    def unranked(self) -> int:
        """Number of calls with a score, but without a rank."""
        return sum((self.unranked_by_reason or {}).values())

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the JSON."""
        content: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "unknown" or value is None or (each.name == "replaced" and not value):
                continue
            content[each.name] = list(value) if isinstance(value, tuple) else value
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


def _read_date(content: Mapping[str, Any], name: str) -> dt.date:
    text = read_field(content, name, str)
    try:
        return dt.date.fromisoformat(text)
    except ValueError as exc:
        raise ValueError(f"the field {name!r} is not a date YYYY-MM-DD") from exc


def _read_drift(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Read the comparison with earlier days, which is nested: what can be described is what a run writes."""
    drift = read_field(content, name, dict)
    try:
        (describe_drift(drift) or "").encode()
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as exc:
        raise ValueError(f"the field {name!r} is not what a run writes") from exc
    return drift
