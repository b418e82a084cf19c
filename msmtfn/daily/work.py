"""Where a run's work in progress lies, and where the runs of a leads root meet.

    <leads>.work/<run>/          what a run has done so far; --work names another root
    <leads>/_runs/               the locks and the records of unfinished publications, while a run is at work

The work lies outside the leads, so that whoever lists the leads finds nothing but leads. The locks and the records lie
inside them, whatever `--work` says: two runs on the same leads must meet, however the leads are spelled or mounted. The
folder is the one in which older versions lock, so a run of an older version and one of this version exclude each other.
Older versions kept their work there too; it is found, finished and deleted like work of this version.
"""

from __future__ import annotations

from typing import Final

from msmtfn import storage
from msmtfn.errors import UsageError
from msmtfn.storage.untrusted import inside

CONTROL_FOLDER: Final = "_runs"
"""Folder in the leads with small JSON files only: locks, and records of publications that are not finished."""


def default_work(leads: str, option: str = "--leads") -> str:
    """Return the root of the work in progress where none is named: `<leads>.work`, beside the leads.

    Args:
        leads: root of the leads, or of what else is published.
        option: option that names it, for the error.

    Raises:
        UsageError: the leads are a whole bucket or the root of a disk, which has nothing beside it.
    """
    leads = storage.absolute(leads)
    if not leads.removeprefix("s3://").strip("/") or (leads.startswith("s3://") and "/" not in leads[5:]):
        raise UsageError(f"{option} {leads} leaves no room beside it for the work in progress; set --work")
    return f"{leads}.work"


def run_folder(work: str, name: str) -> str:
    """Return the folder of a run's work in progress."""
    return storage.join(work, name)


def work_roots(leads: str, work: str) -> list[str]:
    """Return the roots in which work may lie: that of this version, and that of older versions.

    Raises:
        LinkError: the folder of older versions is a link.
    """
    return [work, inside(leads, CONTROL_FOLDER)]
