"""Score days of recorded calls: what the command `score-daily` does with each day, callable from Python."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from msmtfn import storage
from msmtfn.corpora import DEMO, demo_model, is_demo
from msmtfn.daily.runner import DayRunner
from msmtfn.daily.success import Success
from msmtfn.daily.transcripts import Transcripts
from msmtfn.engine import start_engine
from msmtfn.errors import UsageError
from msmtfn.model.checkpoint import fetch_model, locate_model
from msmtfn.model.location import locations_of_model
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps


def score_day(
    date: dt.date,
    *,
    manifests: str | os.PathLike[str],
    leads: str | os.PathLike[str],
    model: str | os.PathLike[str] = DEMO,
    config: ScoringConfig | None = None,
    force: bool = False,
    retry_rejected: bool = False,
    transcripts: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> Success:
    """Score a day of recorded calls and publish its leads, as the command `score-daily` does.

    The same call again is safe: after a crash it resumes, after a success it does nothing. It runs on the Ray that this
    process is connected to, else on the cluster at `RAY_ADDRESS`, else it starts Ray on this machine while it works.

    Args:
        date: the day.
        manifests: root of the manifests, `<manifests>/date=YYYY-MM-DD/*.parquet`: a local folder or an `s3://` URI.
        leads: root of the leads, published as `<leads>/date=YYYY-MM-DD/`: a local folder or an `s3://` URI.
        model: `"demo"`, a folder, an `s3://` URI, a name on the Hugging Face hub, or `<root>/current` of a registry.
        config: how calls are prepared and scored, and how the work is spread.
        force: score the day again even if it is published.
        retry_rejected: of a published day, score again only the rejects that could succeed now.
        transcripts: root of the transcripts that `transcribe_day` publishes, for calls without turns.
        console: terminal for the progress bar; without a terminal the progress is logged.

    Returns:
        The record of the published day.

    Raises:
        UsageError: the leads overlap what is read, or `force` and `retry_rejected` are both set.
        LockedError: another run is working on the day, or has taken it over.
        JobError: the day could not be published; the same call resumes where this one stopped.

    Example:
        >>> import datetime
        >>> from msmtfn import score_day
        >>> success = score_day(datetime.date(2026, 1, 5), manifests="calls", leads="leads")
        >>> success.scored, success.rejected
        (47, 1)
    """
    if force and retry_rejected:
        raise UsageError("force scores all calls again, retry_rejected only some; set one of the two")
    manifests, leads, model = os.fspath(manifests), os.fspath(leads), os.fspath(model)
    config = config or ScoringConfig()
    day = storage.join(manifests, f"{storage.DAY_PREFIX}{date}")
    heard = None if transcripts is None else os.fspath(transcripts)
    refuse_overlapping_leads([manifests, day], leads, model, config.prepare.allowed_prefixes, heard)
    options = {"force": force, "retry_rejected": retry_rejected}
    with open_scorer(manifests, leads, model, config, console or Console(), transcripts=heard, **options) as scorer:
        scorer.check_storage()
        return scorer.run(date)[1]


@contextlib.contextmanager
def open_scorer(
    manifests: str,
    leads: str,
    model: str,
    config: ScoringConfig,
    console: Console,
    *,
    force: bool = False,
    retry_rejected: bool = False,
    transcripts: str | None = None,
) -> Iterator[DayRunner[ScoringGraph]]:
    """Fetch the model and yield a runner of days; Ray, if it was started, and the model's copy are gone afterwards.

    Raises:
        ModelError: there is no such model, or it cannot be fetched.
    """
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch, contextlib.ExitStack() as stack:
        name, folder = _fetch_model(model, Path(scratch))

        @functools.cache
        def start_once() -> None:
            stack.enter_context(start_engine())

        graph = ScoringGraph(folder, config, name)
        heard = None if transcripts is None else Transcripts(transcripts)
        yield DayRunner(manifests, leads, graph, console, start_once, "scoring", force, retry_rejected, heard)


def refuse_overlapping_leads(
    manifests: Sequence[str], leads: str, model: str, prefixes: Sequence[str], transcripts: str | None = None
) -> None:
    """Refuse leads that overlap what is read.

    Args:
        manifests: root of the manifests, and days in it that may lead elsewhere.
        leads: root of the leads.
        model: name of the model.
        prefixes: locations of recordings.
        transcripts: root of the transcripts.

    Raises:
        UsageError: they overlap.
    """
    inputs = [NamedLocation("--manifests", folder) for folder in manifests]
    inputs += [NamedLocation("--allowed-prefixes", prefix) for prefix in prefixes]
    if transcripts is not None:
        inputs.append(NamedLocation("--transcripts", transcripts))
    if not is_demo(model):
        inputs += [NamedLocation("--model", place) for place in locations_of_model(model)]
    refuse_overlaps(inputs, [NamedLocation("--leads", leads)])


def _fetch_model(name: str, scratch: Path) -> tuple[str, Path]:
    """Return the model's location (for `current` that of the version) and its folder on this machine."""
    if is_demo(name):
        return name, demo_model()
    location = locate_model(name)
    return location, fetch_model(location, scratch)
