"""Where a browser finds a call's recording: an address made from a template, such as `https://calls.example/{call_id}`.

Most readers of a page may not open the storage that the recordings lie on; what they may open, only the company knows.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlsplit

from msmtfn.errors import UsageError

SCHEMES: Final = ("https", "http", "file")
FIELDS: Final = ("call_id", "uri", "path", "file", "date")
"""What a template may name: the call's id, its `uri`, that without scheme, its last part, and the day."""

_SCHEME_AND_SLASHES: Final = re.compile(r"^[a-z0-9]+://|^/+")


def check_template(template: str) -> None:
    """Check the template of the recordings' addresses.

    Raises:
        UsageError: it is none; the message says why.
    """
    option = f"--recording-url-template is {template!r};"
    address = urlsplit(template)
    if address.scheme not in SCHEMES or (not address.netloc and address.scheme != "file"):
        raise UsageError(f"{option} it must be a whole address that starts with https://, http:// or file:///")
    if "{" in address.scheme + address.netloc:
        raise UsageError(f"{option} the scheme and the host must not depend on the call")
    if not template.isascii() or not template.isprintable() or " " in template:
        raise UsageError(f"{option} characters other than visible ASCII must be percent-encoded")
    try:
        parts = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError as exc:
        raise UsageError(f"{option} a brace is not closed") from exc
    if any(part not in [(name, "", None) for name in FIELDS] for part in parts):
        raise UsageError(f"{option} braces may hold {', '.join(FIELDS)} only")
    if not {name for name, *_ in parts} - {"date"}:
        raise UsageError(f"{option} it must name the call by one of {{call_id}}, {{uri}}, {{path}} and {{file}}")


def scheme_of(template: str) -> str:
    """Return the scheme of a template's addresses, for the page's content security policy, such as `https:`."""
    return f"{urlsplit(template).scheme}:"


def address_of(template: str, date: str, call: Mapping[str, str | None]) -> str | None:
    """Return the address of a call's recording; None if the call lacks what the template names.

    Every value is percent-encoded, that of `path` except for its slashes, so that no call decides more than its own
    place in the address.

    Args:
        template: a checked template.
        date: the day.
        call: `call_id` and `uri` of the call.
    """
    path = _SCHEME_AND_SLASHES.sub("", call["uri"] or "")
    values = {
        "call_id": quote(call["call_id"] or "", safe=""),
        "uri": quote(call["uri"] or "", safe=""),
        "path": quote(path, safe="/"),
        "file": quote(path.rpartition("/")[2], safe=""),
        "date": date,
    }
    used = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    if any(not values[name] or not set(values[name].split("/")).isdisjoint({".", ".."}) for name in used):
        return None
    return template.format_map(values)
