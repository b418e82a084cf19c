"""Summarise a published day on the terminal and in the log."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from msmtfn.daily.publish import day_folder, read_leads
from msmtfn.daily.success import Success
from msmtfn.errors import PublishError, format_trace
from msmtfn.leads.drift import describe_drift
from msmtfn.storage.untrusted import escape_controls, printable

logger = logging.getLogger(__name__)

NUM_BEST: Final = 10
MAX_ID_CHARS: Final = 200
WANTED_INTENTS: Final = ("A", "B")
NO_DRIFT: Final[Mapping[str, Any]] = {"moved": []}
BEST_COLUMNS: Final = ("lead_rank", "call_id", "lead_score", "intent_predicted", "duration_sec", "num_rounds")


def best_leads(leads: str, date: dt.date, number: int = NUM_BEST) -> pa.Table:
    """Return the best leads of a published day, best first, with `BEST_COLUMNS`."""
    try:
        rows = read_leads(leads, date).to_table(columns=list(BEST_COLUMNS), filter=pc.field("lead_rank") <= number)
    except (OSError, pa.ArrowException) as exc:
        raise PublishError(
            f"the leads of {date} in {leads} cannot be read ({exc}); run the same command with "
            "--force to publish it again"
        ) from exc
    return rows.sort_by("lead_rank")


def summarize(leads: str, date: dt.date, success: Success, *, is_trained: bool) -> RenderableType:
    """Summarise the outcome of a day.

    Args:
        leads: the root of all leads.
        date: the day.
        success: its record.
        is_trained: whether the model was; if not, the summary says so in plain words.

    Returns:
        Something to print with rich.
    """
    facts = {
        "calls": f"{success.calls:,}",
        "scored": f"{success.scored:,}",
        "unranked": _with_reasons(success.unranked, success.unranked_by_reason or {}),
        "rejected": _with_reasons(success.rejected, success.rejected_by_reason),
        "audio": f"{success.audio_hours:.2f} hours",
        "time": f"{success.seconds:.1f} seconds",
        "model": f"{success.model}, version {success.model_version}",
        "leads": day_folder(leads, date),
    }
    lines = Text(
        "\n".join(f"  {name:<9} {escape_controls(value)}" for name, value in facts.items()),
        no_wrap=True,
        overflow="ignore",
    )
    parts: list[RenderableType] = [Text(f"Leads of {date}", style="bold"), lines]
    if not is_trained:
        parts.append(
            Text("  NOTE      The model is untrained: its scores and this ranking mean nothing.", style="bold yellow")
        )
    if (moved := describe_drift(success.drift or NO_DRIFT)) is not None:
        parts.append(Text(f"  WARNING   Drift: {moved}.", style="bold yellow"))
    if success.scored > success.unranked:
        parts.append(_table_of(best_leads(leads, date)))
        if (comparison := _try_comparison(leads, date)) is not None:
            parts.append(Text(comparison))
    return Group(*parts)


def _try_comparison(leads: str, date: dt.date) -> str | None:
    """Return the comparison with the labels; an error is logged, not raised."""
    try:
        return compare_with_labels(leads, date)
    # The comparison is only informative, so its failure must not make a failure of a published day.
    except Exception as exc:
        logger.error("%s: the ranking cannot be compared with the labels: %s", date, format_trace(exc))
        return None


def compare_with_labels(leads: str, date: dt.date, number: int = NUM_BEST) -> str | None:
    """Compare the ranking of a day with the labels of its scored calls; None if too few have one."""
    dataset = read_leads(leads, date)
    if "intent" not in dataset.schema.names:
        return None
    rows = dataset.to_table(columns=["lead_rank", "intent"], filter=pc.is_valid(pc.field("lead_score")))
    rows = rows.filter(pc.is_valid(rows["intent"])).sort_by("lead_rank")
    if len(rows) < 2 * number or len(rows["lead_rank"].drop_null()) < number:
        return None
    wanted = pc.is_in(rows["intent"], pa.array(WANTED_INTENTS)).to_numpy(zero_copy_only=False)
    return (
        f"By their labels, {int(wanted[:number].sum())} of the {number} best leads are A or B, "
        f"against {int(wanted.sum())} of all {len(rows)}."
    )


def _with_reasons(number: int, by_reason: Mapping[str, int]) -> str:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(by_reason.items()))
    return f"{number:,}" + (f" ({reasons})" if reasons else "")


def _table_of(best: pa.Table) -> Table:
    table = Table(title=f"The {len(best)} best leads", title_justify="left")
    for heading in ("rank", "call", "score", "intent", "seconds", "rounds"):
        table.add_column(heading, justify="left" if heading == "call" else "right", overflow="fold")
    for row in best.to_pylist():
        table.add_row(
            str(row["lead_rank"]),
            Text(printable(row["call_id"], MAX_ID_CHARS)),
            f"{row['lead_score']:.1f}",
            row["intent_predicted"],
            f"{row['duration_sec']:.0f}",
            str(row["num_rounds"]),
        )
    return table
