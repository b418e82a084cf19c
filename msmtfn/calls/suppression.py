"""Read from the manifest which customers must not be called back: its columns `do_not_call` and `consent`.

They pass through to the leads as they are, whatever their type; their names are compared without case.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from msmtfn.errors import CallError, RejectCode
from msmtfn.labels import UnrankedReason

DO_NOT_CALL, CONSENT = "do_not_call", "consent"
YES: Final = frozenset({"true", "t", "yes", "y", "1", "1.0", "是"})
NO: Final = frozenset({"false", "f", "no", "n", "0", "0.0", "否"})


def suppression_columns(names: Iterable[str]) -> list[str]:
    """Return the names of the columns that may suppress a call."""
    return [name for name in names if name.lower() in (DO_NOT_CALL, CONSENT)]


def find_suppression(row: Mapping[str, Any]) -> UnrankedReason | None:
    """Return why a call's customer must not be called back; None if nothing says so.

    Args:
        row: values of the columns that `suppression_columns` names.

    Raises:
        CallError: a value is neither true, false nor null (`bad_row`), so that nobody is called back by mistake.
    """
    flags = [(name.lower(), read_flag(name, value)) for name, value in row.items()]
    if (DO_NOT_CALL, True) in flags:
        return UnrankedReason.DO_NOT_CALL
    return UnrankedReason.NO_CONSENT if (CONSENT, False) in flags else None


def read_flag(name: str, value: Any) -> bool | None:
    """Return a flag that is a bool, 0 or 1, or a word such as "yes"; None where it is null, NaN or an empty text.

    Raises:
        CallError: it is something else (`bad_row`).
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        word = value.strip().casefold()
        if not word:
            return None
        if word in YES or word in NO:
            return word in YES
    elif not isinstance(value, (list, dict)) and value in (0, 1):
        return bool(value)
    # The value may be a name or a phone number in the wrong column, so it is not quoted.
    raise CallError(
        RejectCode.BAD_ROW, f"{name.lower()} cannot be understood; it must be true, false, 1, 0, yes, no or null"
    )
