"""Write a day of simulated sales calls, manifest and recordings, to try the scoring job on.

The calls come from `simulation`, with a different seed from the one that the demo model was trained on. The same seed
always gives the same day.
"""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa

from msmtfn.calls.activity import ActivityConfig
from msmtfn.corpora.manifests import CALLS, write_manifest
from msmtfn.corpora.simulation.corpus import make_call
from msmtfn.corpora.simulation.plan import SimulationConfig, plan_corpus
from msmtfn.speech.hearing import HearingConfig
from msmtfn.speech.voice import VoiceConfig

MANIFEST_SCHEMA: Final = CALLS.append(pa.field("campaign", pa.string()))
"""The manifest's contract plus `campaign`, an example of an additional column that is passed through."""

DEMO_SEED: Final = 2026
"""Seed of the day's calls; the demo model was trained on the calls of seed 0."""

NO_TURNS_EVERY: Final = 12  # every 12th call has no transcript
BROKEN_CALL: Final = 6  # index of the call whose recording is truncated
BROKEN_BYTES: Final = 30  # inside the header: that of a WAV file has at least 44 bytes

DEMO_HEARING: Final = HearingConfig(
    voice=VoiceConfig(detector="energy", activity=ActivityConfig(open_db=6.0, close_db=3.0)), characters="as-heard"
)
"""How the day's calls are heard: without the packages of the extra asr. Their noise is white and steady, so speech need
not be far above it, and no line of theirs carries music or ringing."""


def write_demo_day(
    folder: Path, date: datetime.date, *, num_calls: int = 48, seed: int = DEMO_SEED, with_transcripts: bool = True
) -> Path:
    """Write a day's manifest and recordings, two thirds of them in two channels.

    All calls have a label, which scoring ignores, and one recording is broken.

    Args:
        folder: folder in which `manifests/` is created.
        date: day of the calls.
        num_calls: number of calls, at least 10.
        seed: the same seed gives the same bytes.
        with_transcripts: whether most calls have turns; if not, none has.

    Returns:
        The root folder of the manifests, `<folder>/manifests`, which also holds the recordings.

    Raises:
        ValueError: `num_calls` is too small.
        UsageError: `espeakng_loader` or `pypinyin` is not installed.
    """
    root = folder / "manifests"
    rows = []
    for number, plan in enumerate(plan_corpus(SimulationConfig(calls=num_calls, seed=seed)), start=1):
        started_at = datetime.datetime.combine(date, plan.started_at.timetz())
        demo_plan = replace(plan, split=root.name, call_id=f"{date:%Y%m%d}-{number:04d}", started_at=started_at)
        row = make_call(demo_plan, folder).manifest | {"campaign": f"{plan.latents.domain}-{date:%Y-%m}"}
        if not with_transcripts or number % NO_TURNS_EVERY == 0:
            row["turns"] = None
        rows.append(row)
    broken = root / rows[BROKEN_CALL]["uri"]
    broken.write_bytes(broken.read_bytes()[:BROKEN_BYTES])
    write_manifest(root, date, rows, MANIFEST_SCHEMA)
    return root
