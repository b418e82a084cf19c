"""Run days of one graph: plan, lock, resume, process, publish; what every daily command does with each of its days."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from rich.console import Console

from msmtfn import storage
from msmtfn.daily.day import DayPlan, finish_run, open_run, plan_day, tidy_up
from msmtfn.daily.graph import Graph
from msmtfn.daily.lock import lock_day
from msmtfn.daily.progress import show_progress
from msmtfn.daily.replacement import MAX_REJECTED_SHARE, refuse_worse
from msmtfn.daily.success import Success
from msmtfn.daily.transcripts import Transcripts
from msmtfn.errors import JobError
from msmtfn.storage.conditional import warn_unless_conditional

if TYPE_CHECKING:
    from msmtfn.daily.table import LeadsTable

logger = logging.getLogger(__name__)

DayGraph = TypeVar("DayGraph", bound=Graph)


@dataclass(frozen=True, kw_only=True, slots=True)
class DayRunner(Generic[DayGraph]):
    """Runner of days with the same roots, graph and options.

    Attributes:
        manifests: root of all manifests.
        root: root of what the days publish.
        work: root of all work in progress.
        graph: graph that the calls go through, with its model.
        console: terminal for the progress bar.
        start_ray: function that starts Ray once; it takes seconds, so it is called only for days that need Ray.
        verb: what is done with a call, for the progress bar.
        force: whether to process a published day again.
        retry_rejected: whether to process only the rejects of a published day that could succeed now.
        transcripts: transcripts for the calls whose manifest has no turns; None if there are none.
        table: table of the leads; None if none is kept.
        deliver: makes things of a published day under its lock, also of one that was published before; called with the
            root, the day, and a function that raises `LockedError` if another run has taken the day over.
        max_rejected_share: maximum share of rejects with which a day may replace a better one, unless `force` is set.
    """

    manifests: str
    root: str
    work: str
    graph: DayGraph
    console: Console
    start_ray: Callable[[], None]
    verb: str
    force: bool = False
    retry_rejected: bool = False
    transcripts: Transcripts | None = None
    table: LeadsTable | None = None
    deliver: Callable[[str, dt.date, Callable[[], None]], None] | None = None
    max_rejected_share: float = MAX_REJECTED_SHARE

    def prepare_storage(self) -> None:
        """Log a warning if the storage of the root has no conditional writes; finish what earlier runs left undone.

        Raises:
            StorageError: the storage refused.
        """
        warn_unless_conditional(storage.absolute(self.root))
        if self.table is not None:
            self.table.repair()

    def plan(self, date: dt.date) -> DayPlan:
        """Plan a day without writing anything."""
        return plan_day(
            date,
            self.manifests,
            self.root,
            self.graph,
            work=self.work,
            table=self.table,
            force=self.force,
            retry_rejected=self.retry_rejected,
            transcripts=self.transcripts,
        )

    def run(self, date: dt.date) -> tuple[DayPlan, Success]:
        """Process and publish a day, and deliver what is made of it, under its lock.

        Returns:
            The plan, whose `published` is set if there was nothing to do, and the record of the day.

        Raises:
            JobError: the day could not be published.
        """
        with lock_day(storage.absolute(self.root), date) as check_lock:
            plan = self.plan(date)
            if self.retry_rejected and plan.retried is None:
                _refuse_retry(plan)
            if plan.published is not None:
                tidy_up(plan, check_lock)
                success = plan.published
            else:
                success = self._finish(plan, check_lock)
            if self.deliver is not None:
                # Also of a day that was published before: that run may have ended here.
                self.deliver(plan.leads, date, check_lock)
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
        with show_progress(self.console, run.task.num_calls, self.verb) as report:
            return finish_run(run, report, check_lock, self._accept)

    def _accept(self, before: Success | None, after: Success) -> None:
        if not self.force:
            refuse_worse(before, after, self.max_rejected_share)


def _refuse_retry(plan: DayPlan) -> None:
    if plan.published is None:
        raise JobError(
            f"{plan.manifest.date} is not published with this manifest, model and options, so it has no rejects to "
            "retry; run the same command without --retry-rejected"
        )
    logger.info("%s: none of the rejects of %s could succeed now", plan.run_id, plan.manifest.date)
