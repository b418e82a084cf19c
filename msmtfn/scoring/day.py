"""Score days of recorded calls: what the command `score-daily` does with each day, callable from Python."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console

from msmtfn import storage
from msmtfn.corpora import DEMO, is_demo, replace_demo
from msmtfn.daily.day import DayPlan, finish_run, open_run, plan_day, tidy_up
from msmtfn.daily.keep_table import RETENTION_DAYS, open_table
from msmtfn.daily.lock import lock_day
from msmtfn.daily.progress import show_progress
from msmtfn.daily.success import Success
from msmtfn.daily.work import default_work
from msmtfn.delivery.deliver import DeliveryConfig, deliver_day
from msmtfn.engine import start_engine
from msmtfn.errors import JobError, UsageError
from msmtfn.features.processor_config import read_processor_config
from msmtfn.model.checkpoint import fetch_model, locate_model
from msmtfn.model.location import locations_of_model
from msmtfn.scoring.graph import ScoringConfig, ScoringGraph
from msmtfn.storage.conditional import warn_unless_conditional
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps

if TYPE_CHECKING:
    from msmtfn.daily.table import LeadsTable

logger = logging.getLogger(__name__)


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
        work: root of the work in progress, by default `<leads>.work`; a location outside the leads.
        table: `"delta"` keeps a Delta Lake log over the published files; needs the extra `delta`.
        table_retention_days: days for which the files of a replaced publication are kept for the table's readers.
        delivery: the page and the table of customers to make of the published day; by default none.
        force: score the day again even if it is published.
        retry_rejected: of a published day, score again only the rejects that could succeed now.
        console: terminal for the progress bar; without a terminal the progress is logged.

    Raises:
        UsageError: the leads overlap what is read, `date` is no plain date, or options do not go together.
        LockedError: another run is working on the day, or has taken it over.
        JobError: the day could not be published; the same call resumes where this one stopped.

    Example:
        >>> success = score_day(datetime.date(2026, 1, 5), manifests="calls", leads="leads")
        >>> success.scored
        47
    """
    if type(date) is not dt.date:  # a datetime would name another folder
        raise UsageError(f"date is {date!r}; it must be a datetime.date, such as datetime.date(2026, 1, 5)")
    manifests, leads, model = os.fspath(manifests), os.fspath(leads), os.fspath(model)
    config, delivery = config or ScoringConfig(), delivery or DeliveryConfig()
    day = storage.join(manifests, f"{storage.DAY_PREFIX}{date}")
    work = default_work(leads) if work is None else os.fspath(work)
    refuse_overlapping_leads([manifests, day], leads, work, model, config.prepare.allowed_prefixes, delivery)
    kept = open_table(leads, table, table_retention_days)
    roots, options = (manifests, leads, model), {"force": force, "retry_rejected": retry_rejected}
    with open_scorer(*roots, config, console, work=work, table=kept, delivery=delivery, **options) as scorer:
        scorer.prepare_storage()
        return scorer.score(date)[1]


@dataclass(frozen=True, slots=True)
class DayScorer:
    """Scorer of days with the same roots, model and options.

    Attributes:
        manifests: root of all manifests.
        leads: root of all leads.
        work: root of all work in progress.
        table: table of the leads; None if none is kept.
        graph: scoring graph with the model.
        console: terminal for the progress bar.
        start_ray: function that starts Ray once; it takes seconds, so it is called only for days that need Ray.
        force: whether to score a published day again.
        retry_rejected: whether to score only the rejects of a published day that could succeed now.
        delivery: what to make of a published day.
    """

    manifests: str
    leads: str
    work: str
    table: LeadsTable | None
    graph: ScoringGraph
    console: Console
    start_ray: Callable[[], None]
    force: bool
    retry_rejected: bool
    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)

    def prepare_storage(self) -> None:
        """Log a warning if the storage of the leads has no conditional writes; finish what earlier runs left undone.

        Raises:
            StorageError: the storage refused.
        """
        warn_unless_conditional(storage.absolute(self.leads))
        if self.table is not None:
            self.table.repair()

    def plan(self, date: dt.date) -> DayPlan:
        """Plan a day without writing anything."""
        return plan_day(
            date,
            self.manifests,
            self.leads,
            self.graph,
            work=self.work,
            table=self.table,
            force=self.force,
            retry_rejected=self.retry_rejected,
        )

    def score(self, date: dt.date) -> tuple[DayPlan, Success]:
        """Score and publish a day, and deliver what is made of it, under its lock.

        Returns:
            The plan, whose `published` is set if there was nothing to do, and the record of the day.

        Raises:
            JobError: the day could not be published.
        """
        with lock_day(storage.absolute(self.leads), date) as check_lock:
            plan = self.plan(date)
            if self.retry_rejected and plan.retried is None:
                _refuse_retry(plan)
            if plan.published is not None:
                tidy_up(plan, check_lock)
                success = plan.published
            else:
                success = self._finish(plan, check_lock)
            # Also of a day that was published before: that run may have ended here.
            deliver_day(plan.leads, date, self.delivery, check_lock)
            return plan, success

    def _finish(self, plan: DayPlan, check_lock: Callable[[], None]) -> Success:
        run = open_run(plan)
        logger.info(
            "%s: %d of %d calls in %d files, model %s",
            plan.run_id,
            run.task.num_calls,
            plan.manifest.num_rows,
            len(plan.manifest.files),
            plan.graph.version,
        )
        if run.run_pass is not None:
            self.start_ray()
        with show_progress(self.console, run.task.num_calls) as report:
            return finish_run(run, report, check_lock)


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
) -> Iterator[DayScorer]:
    """Fetch the model and yield a scorer of days; Ray, if it was started, and the model's copy are gone afterwards.

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
        yield DayScorer(
            manifests,
            leads,
            work,
            table,
            graph,
            console or Console(),
            start_once,
            force,
            retry_rejected,
            delivery or DeliveryConfig(),
        )


def refuse_overlapping_leads(
    manifests: Sequence[str],
    leads: str,
    work: str,
    model: str,
    prefixes: Sequence[str],
    delivery: DeliveryConfig | None = None,
) -> None:
    """Refuse leads, work in progress, pages and customers that overlap what is read, or each other.

    Args:
        manifests: root of the manifests, and days in it that may lead elsewhere.
        leads: root of the leads.
        work: root of the work in progress.
        model: name of the model.
        prefixes: locations of recordings.
        delivery: where the page and the customers go.

    Raises:
        UsageError: they overlap.
    """
    inputs = [NamedLocation("--manifests", folder) for folder in manifests]
    inputs += [NamedLocation("--allowed-prefixes", prefix) for prefix in prefixes]
    if not is_demo(model):
        inputs += [NamedLocation("--model", place) for place in locations_of_model(model)]
    outputs = [NamedLocation("--leads", leads), NamedLocation("--work", work)]
    refuse_overlaps(inputs, outputs)
    refuse_overlaps(outputs[:1], outputs[1:])  # readers list the one, operators empty the other
    if delivery is not None:
        delivery.refuse_overlaps(leads, [*inputs, outputs[1]])


def _refuse_retry(plan: DayPlan) -> None:
    if plan.published is None:
        raise JobError(
            f"{plan.manifest.date} is not published with this manifest, model and options, so it has no rejects to "
            "retry; run the same command without --retry-rejected"
        )
    logger.info("%s: none of the rejects of %s could succeed now", plan.run_id, plan.manifest.date)
