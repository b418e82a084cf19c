"""Transcribe days of recorded calls: what the command `transcribe-daily` does with each day, callable from Python."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from msmtfn import storage
from msmtfn.corpora import replace_demo_recogniser
from msmtfn.daily.replacement import MAX_REJECTED_SHARE
from msmtfn.daily.runner import DayRunner
from msmtfn.daily.success import Success
from msmtfn.daily.work import default_work
from msmtfn.engine import start_engine
from msmtfn.errors import UsageError
from msmtfn.speech.models import fetch_recogniser
from msmtfn.storage.overlap import NamedLocation, is_location, refuse_overlaps
from msmtfn.transcription.graph import TranscriptionConfig, TranscriptionGraph


def transcribe_day(
    date: dt.date,
    *,
    manifests: str | os.PathLike[str],
    transcripts: str | os.PathLike[str],
    recogniser: str | os.PathLike[str],
    config: TranscriptionConfig | None = None,
    work: str | os.PathLike[str] | None = None,
    force: bool = False,
    retry_rejected: bool = False,
    max_rejected_share: float = MAX_REJECTED_SHARE,
    console: Console | None = None,
) -> Success:
    """Transcribe a day of recorded calls and publish the transcripts, as the command `transcribe-daily` does.

    The same call again is safe: after a crash it resumes, after a success it does nothing. A recording that this
    recogniser has heard before, with the same options, is not recognised again, on whatever day or under whatever name.

    Args:
        date: the day.
        manifests: root of the manifests, `<manifests>/date=YYYY-MM-DD/*.parquet`: a local folder or an `s3://` URI.
        transcripts: root of the transcripts, published as `<transcripts>/date=YYYY-MM-DD/`.
        recogniser: a folder, an `s3://` URI, a name on the Hugging Face hub, or `demo` for the one in the package.
        config: how calls are heard and recognised, and how the work is spread.
        work: root of the work in progress, by default `<transcripts>.work`; outside the transcripts, not that of leads.
        force: transcribe the day again even if it is published; recordings that were heard before are not recognised.
        retry_rejected: of a published day, transcribe again only the rejects that could succeed now.
        max_rejected_share: maximum share of rejects with which a day may replace a better one, unless `force` is set.
        console: terminal for the progress bar; without a terminal the progress is logged.

    Returns:
        The record of the published day, in which `scored` calls were transcribed.

    Raises:
        UsageError: the transcripts overlap what is read, `date` is no plain date, or options do not go together.
        LockedError: another run is working on the day, or has taken it over.
        JobError: the day could not be published; the same call resumes where this one stopped.
    """
    if type(date) is not dt.date:  # a datetime would name another folder
        raise UsageError(f"date is {date!r}; it must be a datetime.date, such as datetime.date(2026, 1, 5)")
    manifests, transcripts, recogniser = os.fspath(manifests), os.fspath(transcripts), os.fspath(recogniser)
    config, day = config or TranscriptionConfig(), storage.join(manifests, f"{storage.DAY_PREFIX}{date}")
    work = default_work(transcripts, "--transcripts") if work is None else os.fspath(work)
    refuse_overlapping_transcripts([manifests, day], transcripts, work, recogniser, config.listen.allowed_prefixes)
    with contextlib.ExitStack() as stack:
        start_ray = functools.cache(lambda: stack.enter_context(start_engine()))
        with open_transcriber(
            manifests,
            transcripts,
            recogniser,
            config,
            console or Console(),
            start_ray,
            work=work,
            force=force,
            retry_rejected=retry_rejected,
            max_rejected_share=max_rejected_share,
        ) as transcriber:
            transcriber.prepare_storage()
            return transcriber.run(date)[1]


@contextlib.contextmanager
def open_transcriber(
    manifests: str,
    transcripts: str,
    recogniser: str,
    config: TranscriptionConfig,
    console: Console,
    start_ray: Callable[[], None],
    *,
    work: str,
    force: bool = False,
    retry_rejected: bool = False,
    max_rejected_share: float = MAX_REJECTED_SHARE,
) -> Iterator[DayRunner[TranscriptionGraph]]:
    """Fetch the recogniser and yield a runner of days; the recogniser's copy is gone afterwards.

    Raises:
        UsageError: `force` and `retry_rejected` are both set.
        ModelError: there is no such recogniser, or it cannot be fetched.
    """
    if force and retry_rejected:
        raise UsageError("force transcribes all calls again, retry_rejected only some; set one of the two")
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        folder = fetch_recogniser(replace_demo_recogniser(recogniser), Path(scratch))
        graph = TranscriptionGraph(folder, config, transcripts, recogniser)
        yield DayRunner(
            manifests=manifests,
            root=transcripts,
            work=work,
            graph=graph,
            console=console,
            start_ray=start_ray,
            verb="transcribing",
            force=force,
            retry_rejected=retry_rejected,
            max_rejected_share=max_rejected_share,
        )


def refuse_overlapping_transcripts(
    manifests: Sequence[str], transcripts: str, work: str, recogniser: str, prefixes: Sequence[str]
) -> None:
    """Refuse transcripts and work in progress that overlap what is read, or each other.

    Args:
        manifests: root of the manifests, and days in it that may lead elsewhere.
        transcripts: root of the transcripts.
        work: root of the work in progress.
        recogniser: name of the recogniser.
        prefixes: locations of recordings.

    Raises:
        UsageError: they overlap.
    """
    inputs = [NamedLocation("--manifests", folder) for folder in manifests]
    inputs += [NamedLocation("--allowed-prefixes", prefix) for prefix in prefixes]
    if is_location(recogniser):
        inputs.append(NamedLocation("--recogniser", recogniser))
    outputs = [NamedLocation("--transcripts", transcripts), NamedLocation("--work", work)]
    refuse_overlaps(inputs, outputs)
    refuse_overlaps(outputs[:1], outputs[1:])
