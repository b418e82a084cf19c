"""Versions of a model in one place, and which of them is current.

    <root>/v0001/         a model's folder
    <root>/v0001.json     its record: the run that made it, and what was decided about it
    <root>/current        names the version that scores, and those that did before it

`current` is replaced in one step, so a job sees the one version or the other, and only against what was read before, so
of two promotions at the same instant one succeeds and the other ends with an error.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from msmtfn import storage
from msmtfn.errors import ModelError
from msmtfn.model.location import CURRENT, VERSION, Current, parse_current, read_current
from msmtfn.registry.records import Decision, VersionRecord
from msmtfn.storage.conditional import Seen, see, swap
from msmtfn.storage.untrusted import inside, parse_object, printable, read_text


def list_records(root: str) -> list[VersionRecord]:
    """Return the records of all versions, in order.

    Raises:
        ModelError: one cannot be understood.
        StorageError: the storage refused.
    """
    files = [file for file in storage.list_files(root, ".json") if VERSION.fullmatch(_stem(file))]
    return [_read_record(file) for file in sorted(files, key=lambda file: int(_stem(file)[1:]))]


def add_version(root: str, run: str) -> VersionRecord:
    """Return the version's record for a training run: the one it began earlier, or a new one.

    Concurrent runs get different versions.

    Args:
        root: root folder of the models; created if missing.
        run: unique identifier of the run.

    Raises:
        ModelError: a record cannot be understood.
        StorageError: the storage refused.
    """
    while True:
        records = list_records(root)
        for record in records:
            if record.run == run:
                return record
        number = int(records[-1].version[1:]) + 1 if records else 1
        record = VersionRecord(version=f"v{number:04d}", run=run, added_at=_now())
        if storage.create_text(_record_place(root, record.version), _as_text(record.as_json())):
            return record


def write_decision(root: str, record: VersionRecord, decision: Decision) -> VersionRecord:
    """Write the decision about a version to its record, and return the new record.

    Raises:
        StorageError: the storage refused.
    """
    decided = replace(record, decision=decision, decided_at=_now())
    storage.write_text(_record_place(root, record.version), _as_text(decided.as_json()))
    return decided


def promote(root: str, version: str, *, in_place_of: Sequence[str | None] | None = None) -> Current:
    """Make a version the current one; does nothing if it already is.

    Args:
        root: root folder of the models.
        version: name of the version.
        in_place_of: versions that it may replace, where None stands for no version; by default any.

    Raises:
        ModelError: there is no such version, its folder is not complete, or another version became current meanwhile.
        StorageError: the storage refused.
    """
    records = {record.version: record for record in list_records(root)}
    if version not in records:
        raise ModelError(f"{root} has no version {version}; it has {', '.join(records) or 'none'}")
    if records[version].decision is None:
        raise ModelError(f"{version} of {root} was never finished; give the command that trains it again")
    _check_folder(root, version)
    seen = see(storage.join(root, CURRENT))
    current = parse_current(root, seen.text)
    current_version = None if current is None else current.version
    if current is not None and current_version == version:
        return current
    if in_place_of is not None and current_version not in in_place_of:
        raise _changed(root)
    if current is None:
        return _write_current(root, seen, Current(version, ()))
    left = tuple(name for name in current.left if name != version)
    return _write_current(root, seen, Current(version, (*current.before, current.version), left))


def roll_back(root: str) -> Current:
    """Make the previous version current again.

    Raises:
        ModelError: there is none, its folder is gone, or another version became current meanwhile.
        StorageError: the storage refused.
    """
    seen = see(storage.join(root, CURRENT))
    current = parse_current(root, seen.text)
    if current is None or not current.before:
        raise ModelError(f"{root} has no version that was current before; `list` shows all, `promote` takes any")
    _check_folder(root, current.before[-1])
    last = Current(current.before[-1], current.before[:-1], (*current.left, current.version))
    return _write_current(root, seen, last)


def _check_folder(root: str, version: str) -> None:
    folder = inside(root, version)
    if not storage.exists(storage.join(folder, "config.json")):
        raise ModelError(f"{folder} holds no model any more; promote another version")


def _write_current(root: str, seen: Seen, current: Current) -> Current:
    """Write the current version, provided that `current` has not changed since it was read."""
    written = replace(current, since=_now())
    if not swap(storage.join(root, CURRENT), seen, _as_text(written.as_json())):
        raise _changed(root)
    return written


def _changed(root: str) -> ModelError:
    current = read_current(root)
    name = "no version" if current is None else current.version
    return ModelError(
        f"another command has changed {storage.join(root, CURRENT)} at the same time, to {name}; nothing was done; see "
        "`list`, and give the command again if it is still wanted"
    )


def _read_record(place: str) -> VersionRecord:
    try:
        record = VersionRecord.from_json(parse_object(read_text(place) or ""))
        if record.version != _stem(place):
            raise ValueError(f"it is of the version {printable(record.version)}")
    except ValueError as exc:
        raise ModelError(f"{place} is no record of a version ({exc}); correct it, or remove it") from exc
    return record


def _record_place(root: str, version: str) -> str:
    return storage.join(root, f"{version}.json")


def _stem(place: str) -> str:
    return place.rpartition("/")[2].removesuffix(".json")


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _as_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
