"""Score days of recorded calls: what the command `score-daily` does with each day, callable from Python."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from msmtfn import storage
from msmtfn.corpora import DEMO, is_demo, replace_demo
from msmtfn.daily.keep_table import RETENTION_DAYS, open_table
from msmtfn.daily.replacement import MAX_REJECTED_SHARE
from msmtfn.daily.runner import DayRunner
from msmtfn.daily.success import Success
from msmtfn.daily.transcripts import Transcripts
from msmtfn.daily.work import default_work
from msmtfn.delivery.deliver import DeliveryConfig, deliver_day
from msmtfn.engine import start_engine
from msmtfn.errors import UsageError
from msmtfn.features.processor_config import read_processor_config
from msmtfn.model.checkpoint import fetch_model, locate_model
from msmtfn.model.location import locations_of_model
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps

if TYPE_CHECKING:
    from msmtfn.daily.table import LeadsTable


def score_day(
    date: dt.date,
    *,
    manifests: str | os.PathLike[str],
    leads: str | os.PathLike[str],
    model: str | os.PathLike[str] = DEMO,
    config: ScoringConfig | None = None,
    work: str | os.PathLike[str] | None = None,
    table: Literal["delta"] | None = None,
    table_retention_days: int = RETENTION_DAYS,
    delivery: DeliveryConfig | None = None,
    force: bool = False,
    retry_rejected: bool = False,
    transcripts: str | os.PathLike[str] | None = None,
    max_rejected_share: float = MAX_REJECTED_SHARE,
    console: Console | None = None,
) -> Success:
    """Score a day of recorded calls and publish its leads, as the command `score-daily` does.

    The same call again is safe: after a crash it resumes, after a success it does nothing. It runs on this process's
    Ray, else on the cluster at `RAY_ADDRESS`, else on a Ray of its own.

    Args:
        date: the day.
        manifests: root of the manifests, `<manifests>/date=YYYY-MM-DD/*.parquet`: a local folder or an `s3://` URI.
        leads: root of the leads, published as `<leads>/date=YYYY-MM-DD/`: a local folder or an `s3://` URI.
        model: `"demo"`, a folder, an `s3://` URI, a name on the Hugging Face hub, or `<root>/current` of a registry.
        config: how calls are prepared and scored, and how the work is spread.
        work: root of the work in progress, by default `<leads>.work`; a location outside the leads.
        table: `"delta"` keeps a Delta Lake log over the published files; needs the extra `delta`.
        table_retention_days: days for which the files of a replaced publication are kept for the table's readers.
        delivery: the page and the table of customers to make of the published day; by default none.
        force: score the day again even if it is published.
        retry_rejected: of a published day, score again only the rejects that could succeed now.
        transcripts: root of the transcripts that `transcribe_day` publishes, for calls without turns.
        max_rejected_share: maximum share of rejects with which a day may replace a better one, unless `force` is set.
        console: terminal for the progress bar; without a terminal the progress is logged.

    Raises:
        UsageError: the leads overlap what is read, `date` is no plain date, or options do not go together.
        JobError: the day could not be published, or another run has it (`LockedError`); the same call resumes it.

    Example:
        >>> score_day(datetime.date(2026, 1, 5), manifests="calls", leads="leads").scored
        47
    """
    if type(date) is not dt.date:  # a datetime would name another folder
        raise UsageError(f"date is {date!r}; it must be a datetime.date, such as datetime.date(2026, 1, 5)")
    manifests, leads, model = os.fspath(manifests), os.fspath(leads), os.fspath(model)
    config, delivery = config or ScoringConfig(), delivery or DeliveryConfig()
    day = storage.join(manifests, f"{storage.DAY_PREFIX}{date}")
    work = default_work(leads) if work is None else os.fspath(work)
    heard = None if transcripts is None else os.fspath(transcripts)
    refuse_overlapping_leads([manifests, day], leads, work, model, config.prepare.allowed_prefixes, delivery, heard)
    kept = open_table(leads, table, table_retention_days)
    outputs: dict[str, Any] = {"work": work, "table": kept, "delivery": delivery, "transcripts": heard}
    rules: dict[str, Any] = {"force": force, "retry_rejected": retry_rejected, "max_rejected_share": max_rejected_share}
    with open_scorer(manifests, leads, model, config, console, **outputs, **rules) as scorer:
        scorer.prepare_storage()
        return scorer.run(date)[1]


@contextlib.contextmanager
def open_scorer(
    manifests: str,
    leads: str,
    model: str,
    config: ScoringConfig,
    console: Console | None,
    *,
    work: str,
    table: LeadsTable | None = None,
    delivery: DeliveryConfig | None = None,
    force: bool = False,
    retry_rejected: bool = False,
    transcripts: str | None = None,
    max_rejected_share: float = MAX_REJECTED_SHARE,
) -> Iterator[DayRunner[ScoringGraph]]:
    """Fetch the model and yield a runner of days; Ray, if it was started, and the model's copy are gone afterwards.

    Raises:
        UsageError: `force` and `retry_rejected` are both set, or the options of the activity detector do not go with
            the model's thresholds.
        ModelError: there is no such model, or it cannot be fetched.
    """
    if force and retry_rejected:
        raise UsageError("force scores all calls again, retry_rejected only some; set one of the two")
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch, contextlib.ExitStack() as stack:
        location = locate_model(replace_demo(model))
        name = model if is_demo(model) else location  # of `current`, the version
        folder = fetch_model(location, Path(scratch))
        read_processor_config(folder).with_options(config.prepare.activity)  # fails here rather than at night

        @functools.cache
        def start_once() -> None:
            stack.enter_context(start_engine())

        graph = ScoringGraph(folder, config, name)
        yield DayRunner(
            manifests=manifests,
            root=leads,
            work=work,
            graph=graph,
            console=console or Console(),
            start_ray=start_once,
            verb="scoring",
            force=force,
            retry_rejected=retry_rejected,
            transcripts=None if transcripts is None else Transcripts(transcripts),
            table=table,
            deliver=partial(_deliver, delivery or DeliveryConfig()),
            max_rejected_share=max_rejected_share,
        )


def _deliver(delivery: DeliveryConfig, leads: str, date: dt.date, check: Callable[[], None]) -> None:
    deliver_day(leads, date, delivery, check)


def refuse_overlapping_leads(
    manifests: Sequence[str],
    leads: str,
    work: str,
    model: str,
    prefixes: Sequence[str],
    delivery: DeliveryConfig | None = None,
    transcripts: str | None = None,
) -> None:
    """Refuse leads, work in progress, pages and customers that overlap what is read, or each other.

    Args:
        manifests: root of the manifests, and days in it that may lead elsewhere.
        leads: root of the leads.
        work: root of the work in progress.
        model: name of the model.
        prefixes: locations of recordings.
        delivery: where the page and the customers go.
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
    outputs = [NamedLocation("--leads", leads), NamedLocation("--work", work)]
    refuse_overlaps(inputs, outputs)
    refuse_overlaps(outputs[:1], outputs[1:])  # readers list the one, operators empty the other
    if delivery is not None:
        delivery.refuse_overlaps(leads, [*inputs, outputs[1]])
