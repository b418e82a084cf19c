"""Whether a table of the leads is kept, which needs an extra; without a table nothing of it is imported."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Final

from msmtfn import storage
from msmtfn.errors import UsageError
from msmtfn.storage.untrusted import inside

if TYPE_CHECKING:
    from msmtfn.daily.table import LeadsTable

LOG_FOLDER: Final = "_delta_log"
EXTRA: Final = "delta"
RETENTION_DAYS: Final = 7


def open_table(leads: str, kind: str | None, retention_days: int = RETENTION_DAYS) -> LeadsTable | None:
    """Return the table that the options ask for.

    Args:
        leads: root of all leads.
        kind: `delta`, or None for no table.
        retention_days: days for which the files of a replaced publication are kept.

    Raises:
        UsageError: an option is wrong, the extra is missing, or the leads have a table that would not be kept.
        LinkError: the folder of the table's log is a link.
    """
    leads = storage.absolute(leads)
    log = inside(leads, LOG_FOLDER)
    if kind is None and storage.exists(log):
        raise UsageError(
            f"{leads} has a Delta table, which would name deleted files after this run; add --table delta, or remove "
            f"{log} to give the table up"
        )
    if kind is None:
        return None
    if kind != "delta":
        raise UsageError(f"--table is {kind!r}; it must be 'delta'")
    if retention_days < 0:
        raise UsageError(f"--table-retention-days is {retention_days}; it must be 0 or more")
    if importlib.util.find_spec("deltalake") is None:
        raise UsageError(f"--table delta needs the package deltalake: pip install 'msmtfn[{EXTRA}]'")
    from msmtfn.daily.table import LeadsTable  # noqa: PLC0415  optional

    return LeadsTable(leads, retention_days)
