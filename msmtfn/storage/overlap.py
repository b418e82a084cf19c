"""Refuse outputs that overlap inputs, before anything is written.

Locations are compared by what they refer to, not by how they are spelled: symbolic links, bind mounts, `file://`, `..`,
doubled and trailing slashes make no difference. An S3 key may hold `..` or an empty name, and some servers fold these,
so an S3 location counts as both what is spelled and what it folds to.
"""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from msmtfn import storage
from msmtfn.errors import UsageError
from msmtfn.storage.untrusted import printable

MAX_SHOWN: Final = 300


class NamedLocation(NamedTuple):
    """Location, named by the option that gave it."""

    option: str
    location: str


def refuse_overlaps(inputs: Iterable[NamedLocation], outputs: Iterable[NamedLocation]) -> None:
    """Check that no output is, contains or lies inside an input, and that no two outputs are the same location.

    Raises:
        UsageError: two of them overlap, or an output has a name that libraries read differently; the message names the
            options and the locations as given.
    """
    outputs = list(outputs)
    for output in outputs:
        _check_name(output)
    for output, given in itertools.product(outputs, list(inputs)):
        if contains(output.location, given.location) or contains(given.location, output.location):
            _refuse(output, given)
    for output, other in itertools.combinations(outputs, 2):
        if contains(output.location, other.location) and contains(other.location, output.location):
            _refuse(output, other)


def _check_name(output: NamedLocation) -> None:
    """Refuse names that libraries cannot take: Ray Data, for one, parses every path as a URL and drops characters."""
    storage.protocol_of(output.location)  # refuses a password, which the message below would show
    kinds = set(map(unicodedata.category, output.location))
    if "?" in output.location or kinds & {"Cc", "Cs"}:
        raise UsageError(
            f"{output.option} {printable(output.location, MAX_SHOWN)} holds a question mark, a control character or "
            "bytes that are no text; choose a name without them"
        )


def is_location(name: str) -> bool:
    """Return True if a model's name is a location, rather than a name on the hub."""
    return storage.is_absolute(name) or Path(name).expanduser().exists()


def contains(folder: str, location: str) -> bool:
    """Return True if a location is a folder or anywhere below it, however the two are spelled."""
    if storage.protocol_of(folder) != storage.protocol_of(location):
        return False
    if storage.protocol_of(folder) == "s3":
        return any(storage.is_within(inner, above) for inner in _s3_forms(location) for above in _s3_forms(folder))
    above, inner = _local(folder), _local(location)
    if storage.is_within(inner, above):
        return True
    identity = _identity(above)
    return identity is not None and identity in map(_identity, _upwards(inner))


def _refuse(output: NamedLocation, other: NamedLocation) -> None:
    raise UsageError(
        f"{output.option} {output.location} overlaps {other.option} {other.location}: they are the same location, or "
        f"one is inside the other; choose another location for {output.option}"
    )


def _local(location: str) -> str:
    return os.path.realpath(storage.absolute(location))


def _upwards(path: str) -> Iterator[str]:
    return itertools.chain([path], map(str, Path(path).parents))


def _identity(path: str) -> tuple[int, int] | None:
    """Return device and inode, which are the same for every path to a folder (bind mounts, case-insensitive names)."""
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _s3_forms(location: str) -> set[str]:
    names = [name for name in location.removeprefix("s3://").split("/") if name]
    spelled = "s3://" + "/".join(names)
    return {spelled, storage.resolve(spelled)}
