"""Write a day of simulated sales calls, manifest and recordings, to try the scoring job on.

The calls are `simulation`'s, of another seed than those that the demo's model learned from; the day is the same in
every run with the same seed.
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
"""The manifest's contract, and `campaign`, a column of the company's own that is passed through."""

DEMO_SEED: Final = 2026
"""Of the day's calls; the model learned from those of seed 0."""

NO_TURNS_EVERY: Final = 12  # one call in so many has no transcript
BROKEN_CALL: Final = 6  # whose recording is cut in its header
BROKEN_BYTES: Final = 30  # a WAV's header has 44 or more


def write_demo_day(folder: Path, date: datetime.date, *, num_calls: int = 48, seed: int = DEMO_SEED) -> Path:
    """Write a day's manifest and recordings.

    Most calls have their turns and their label, which scoring does not look at; one recording is broken.

    Args:
        folder: where `manifests/` is made.
        date: the day of the calls.
        num_calls: 10 or more.
        seed: the same seed gives the same bytes.

    Returns:
        The manifests' root folder: `<folder>/manifests`, with the recordings below it.

    Raises:
        ValueError: `num_calls` is too small.
        UsageError: `espeakng_loader` or `pypinyin` is not installed.
    """
    root = folder / "manifests"
    rows = []
    for number, plan in enumerate(plan_corpus(SimulationConfig(calls=num_calls, seed=seed)), start=1):
        started_at = datetime.datetime.combine(date, plan.started_at.timetz())
        own = replace(plan, split=root.name, call_id=f"{date:%Y%m%d}-{number:04d}", started_at=started_at)
        row = make_call(own, folder).manifest | {"campaign": f"{plan.latents.domain}-{date:%Y-%m}"}
        if number % NO_TURNS_EVERY == 0:
            row["turns"] = None
        rows.append(row)
    broken = root / rows[BROKEN_CALL]["uri"]
    broken.write_bytes(broken.read_bytes()[:BROKEN_BYTES])
    write_manifest(root, date, rows, MANIFEST_SCHEMA)
    return root
