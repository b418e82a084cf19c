"""Read what the page shows of the outcomes: the table that `msmtfn outcomes` wrote, one section a measure."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from msmtfn import storage
from msmtfn.delivery.figures import ALL, BAND, DECILE, DIFFERS, FIGURES_FILE, FIRST, read_figures
from msmtfn.delivery.outcomes import GROUPINGS
from msmtfn.errors import OutcomesError, StorageError
from msmtfn.storage.untrusted import printable

logger = logging.getLogger(__name__)

MAX_GROUPS: Final = 20
"""Groups of a grouping that the page shows; those that differ come first, then the largest."""
MAX_TEXT: Final = 160

Row = dict[str, Any]


class OutcomeTable(NamedTuple):
    """One table of the section: its measure, its rows, and how many more there are."""

    measure: str
    rows: Sequence[Row]
    hidden: int


@dataclass(frozen=True, slots=True)
class OutcomesView:
    """Everything that the page shows of the outcomes.

    Attributes:
        first_date: first day of leads that was looked at.
        last_date: last one.
        all: the figures of all leads whose outcome is known.
        tables: the figures of the slices, as `lift.Slice` names them, with a printable `name`.
        differing: number of groups that differ from the others.
    """

    first_date: str
    last_date: str
    all: Row
    tables: Sequence[OutcomeTable]
    differing: int


def read_outcomes_view(folder: str) -> OutcomesView | str:
    """Return what the page shows of the outcomes; the reason in one line if they cannot be read.

    A table that is missing must not keep a day's page from being written.

    Args:
        folder: what `msmtfn outcomes` was given as `--out`.
    """
    try:
        rows = read_figures(storage.join(storage.absolute(folder), FIGURES_FILE)).to_pylist()
        if not rows or rows[0]["measure"] != ALL:
            raise OutcomesError(f"{folder} holds no outcomes; run `msmtfn outcomes` again")
    except (OutcomesError, StorageError) as exc:
        logger.warning("the page shows no outcomes: %s", exc)
        return printable(exc, MAX_TEXT)
    return OutcomesView(
        first_date=str(rows[0]["first_date"]),
        last_date=str(rows[0]["last_date"]),
        all=rows[0],
        tables=list(_tables(rows)),
        differing=sum(row["warning"] == DIFFERS for row in rows),
    )


def _tables(rows: Sequence[Row]) -> Iterator[OutcomeTable]:
    for measure in (DECILE, BAND, FIRST, *GROUPINGS):
        chosen = [row | {"name": printable(row["slice"], MAX_TEXT)} for row in rows if row["measure"] == measure]
        if measure in GROUPINGS:
            chosen.sort(key=lambda row: (row["warning"] != DIFFERS, -row["leads"], row["slice"]))
            if len(chosen) == 1:
                continue
        if chosen:
            shown = chosen[:MAX_GROUPS]
            yield OutcomeTable(measure, shown, len(chosen) - len(shown))
