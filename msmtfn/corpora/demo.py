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

from msmtfn.corpora.manifests import CALLS, write_manifest
from msmtfn.corpora.simulation.corpus import make_call
from msmtfn.corpora.simulation.plan import SimulationConfig, plan_corpus

MANIFEST_SCHEMA: Final = CALLS.append(pa.field("campaign", pa.string()))
"""The manifest's contract plus `campaign`, an example of an additional column that is passed through."""

DEMO_SEED: Final = 2026
"""Seed of the day's calls; the demo model was trained on the calls of seed 0."""

NO_TURNS_EVERY: Final = 12  # every 12th call has no transcript
BROKEN_CALL: Final = 6  # index of the call whose recording is truncated
BROKEN_BYTES: Final = 30  # inside the header: that of a WAV file has at least 44 bytes


def write_demo_day(folder: Path, date: datetime.date, *, num_calls: int = 48, seed: int = DEMO_SEED) -> Path:
    """Write a day's manifest and recordings.

    Most calls have turns, all have a label, which scoring ignores, and one recording is broken.

    Args:
        folder: folder in which `manifests/` is created.
        date: day of the calls.
        num_calls: number of calls, at least 10.
        seed: the same seed gives the same bytes.

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
        if number % NO_TURNS_EVERY == 0:
            row["turns"] = None
        rows.append(row)
    broken = root / rows[BROKEN_CALL]["uri"]
    broken.write_bytes(broken.read_bytes()[:BROKEN_BYTES])
    write_manifest(root, date, rows, MANIFEST_SCHEMA)
    return root
