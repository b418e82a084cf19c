"""Locations of models: a folder, an s3:// address, a name on the Hugging Face hub, or `<root>/current` of a registry.

`<root>/current` names the version that scores. It is a small file and no link, since S3 has none: it is given wherever
a model is, and leads to the version's folder. `registry.versions` writes it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from msmtfn import storage
from msmtfn.errors import ModelError
from msmtfn.storage.fields import read_field, read_items, read_optional
from msmtfn.storage.overlap import contains, is_location
from msmtfn.storage.untrusted import inside, parse_object, printable, read_text

CURRENT: Final = "current"
VERSION: Final = re.compile(r"v[0-9]{4,9}")


@dataclass(frozen=True, slots=True)
class Current:
    """Version that scores, as `<root>/current` names it.

    Attributes:
        version: its name.
        before: names of the versions that were current before it, the latest last.
        left: names of the versions that were rolled back; they are promoted again by hand only.
        since: when it became current, in UTC.
    """

    version: str
    before: tuple[str, ...]
    left: tuple[str, ...] = ()
    since: str | None = field(default=None, compare=False)

    def as_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {"version": self.version, "before": list(self.before), "left": list(self.left), "since": self.since}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Current:
        """Read the content of the file, of which the first versions had no `left`.

        Raises:
            ValueError: a field is missing, has the wrong type or names no version.
        """
        left = read_items(content, "left", str) if "left" in content else ()
        version, before = read_field(content, "version", str), read_items(content, "before", str)
        for name in (version, *before, *left):
            if not VERSION.fullmatch(name):
                raise ValueError(f"{printable(name)!r} is not the name of a version, such as v0001")
        return cls(version, before, left, read_optional(content, "since", str))


def resolve_model(name: str) -> str:
    """Return the location of a model: the target of `<root>/current`, or the name itself if it is no such file.

    Raises:
        ModelError: the file does not name a version.
        StorageError: the storage refused.
    """
    root, _, last = name.rstrip("/").rpartition("/")
    if last != CURRENT or (storage.protocol_of(name) == "file" and not Path(name.removeprefix("file://")).is_file()):
        return name
    current = read_current(root)
    return name if current is None else inside(root, current.version)


def locations_of_model(name: str) -> list[str]:
    """List what a job reads of a model: its folder, and the whole registry where the name is `<root>/current`.

    A name on the hub has no place.

    Raises:
        ModelError: `current` does not name a version.
        StorageError: the storage refused.
    """
    if not is_location(name):
        return []
    place = resolve_model(name)
    return [place] if place == name else [place, name.rstrip("/").rpartition("/")[0]]


def is_in_registry(root: str, name: str) -> bool:
    """Return True if a model's name is `<root>/current` or a version of this registry."""
    above, _, last = name.rstrip("/").rpartition("/")
    named = last == CURRENT or VERSION.fullmatch(last) is not None
    return named and is_location(name) and contains(above, root) and contains(root, above)


def read_current(root: str) -> Current | None:
    """Return the current version; None if none was promoted.

    Raises:
        ModelError: the file does not name a version.
        StorageError: the storage refused.
    """
    return parse_current(root, read_text(storage.join(root, CURRENT)))


def parse_current(root: str, text: str | None) -> Current | None:
    """Parse the content of `<root>/current`; None if there is no such file.

    Raises:
        ModelError: it does not name a version.
    """
    if text is None:
        return None
    try:
        return Current.from_json(parse_object(text))
    except ValueError as exc:
        place = storage.join(root, CURRENT)
        raise ModelError(
            f"{place} does not name a version ({exc}); remove it, and promote one to write it anew"
        ) from exc
