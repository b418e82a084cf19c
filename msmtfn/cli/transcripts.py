"""Describe published transcripts on the terminal, without a word of what was said."""

from __future__ import annotations

from rich.text import Text

from msmtfn.daily.day import DayPlan
from msmtfn.daily.publish import day_folder
from msmtfn.daily.success import Success
from msmtfn.storage.untrusted import escape_controls


def describe_transcripts(plan: DayPlan, success: Success) -> Text:
    """Return the figures of a published day of transcripts.

    Args:
        plan: plan of the day.
        success: its record.
    """
    reasons = ", ".join(f"{code} {count}" for code, count in sorted(success.rejected_by_reason.items()))
    facts = {
        "calls": f"{success.calls:,}",
        "transcribed": f"{success.scored:,}",
        "rejected": f"{success.rejected:,}" + (f" ({reasons})" if reasons else ""),
        "audio": f"{success.audio_hours:.2f} hours",
        "time": f"{success.seconds:.1f} seconds",
        "recogniser": f"{success.model}, version {success.model_version}",
        "transcripts": day_folder(plan.leads, plan.manifest.date),
    }
    lines = "\n".join(f"  {name:<12} {escape_controls(value)}" for name, value in facts.items())
    return Text(f"Transcripts of {plan.manifest.date}\n{lines}", no_wrap=True, overflow="ignore")
