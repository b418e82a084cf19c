"""One day: plan the run, have its calls processed, publish the rows; resume where an earlier run stopped.

`state.py` says which state a run is in. `plan_day` looks; `open_run` brings a run from planned to copied; `finish_run`
brings it to complete and to published.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

import msmtfn
from msmtfn import storage
from msmtfn.calls.manifest import MEMORY_SHARE, ROW_ERROR, Manifest, iter_calls, open_manifest
from msmtfn.calls.memory import available_memory, limited_memory
from msmtfn.calls.parquet import too_large
from msmtfn.calls.reading import join_batches
from msmtfn.daily.graph import Graph, PassFigures, RunPass, Task
from msmtfn.daily.leftovers import run_until_complete
from msmtfn.daily.progress import Reporter
from msmtfn.daily.publication import RUN
from msmtfn.daily.publish import (
    day_folder,
    open_parts,
    publish_day,
    read_earlier_successes,
    read_leads,
    read_success,
    tidy_day,
)
from msmtfn.daily.retry import carry_over, count_retryable, rows_to_retry
from msmtfn.daily.state import RunFolder, RunState, find_state, open_folder
from msmtfn.daily.success import Success
from msmtfn.daily.transcripts import DayTranscripts, Transcripts
from msmtfn.daily.work import default_work, work_roots
from msmtfn.errors import LockedError, format_trace
from msmtfn.leads.drift import describe_drift
from msmtfn.rows import ROW_ID
from msmtfn.storage.untrusted import escape_controls, inside

if TYPE_CHECKING:
    from msmtfn.daily.table import LeadsTable

logger = logging.getLogger(__name__)

NOT_PUBLISHED: Final = ("turns",)
"""Columns of the manifest that stay out of the leads: the transcript is long and confidential."""


@dataclass(frozen=True, slots=True)
class DayPlan:
    """Plan of a run for one day.

    Attributes:
        manifest: the day's manifest.
        leads: root folder of all leads.
        graph: graph that the calls go through.
        run_id: the day, and a fingerprint of everything that decides the result.
        work: root of all work in progress.
        name: name of the folder that holds the run's work.
        published: record of the day if this run has published it and nothing is left to do; else None.
        retried: record of the day whose rejects are tried again; None to process the whole day.
        table: table of the leads in which the day is to be registered.
        transcripts: turns for the calls whose manifest has none; None to leave these without.
    """

    manifest: Manifest
    leads: str
    graph: Graph
    run_id: str
    work: str
    name: str
    published: Success | None
    retried: Success | None = None
    table: LeadsTable | None = None
    transcripts: DayTranscripts | None = None

    def find_state(self) -> RunState:
        """Return the state that the run is in."""
        return find_state(self.leads, self.manifest.date, self.run_id, self.open_folder())

    def open_folder(self) -> RunFolder:
        """Return the folder of the run's work, after checking that no link in it leads elsewhere.

        Raises:
            LinkError: one does.
        """
        return open_folder(self.leads, self.work, self.name)


@dataclass(frozen=True, slots=True)
class Run:
    """Run that is ready to start or resume.

    Attributes:
        plan: plan of the run.
        task: the calls, and the folder of the work in progress.
        run_pass: runs one pass of the graph; None if every call is already done.
        resumed: number of calls that an earlier run of the same plan has done.
    """

    plan: DayPlan
    task: Task
    run_pass: RunPass | None
    resumed: int

    @property
    def folder(self) -> RunFolder:
        """Folder of the work in progress."""
        return self.task.folder


def plan_day(
    date: dt.date,
    manifests: str,
    leads: str,
    graph: Graph,
    *,
    work: str | None = None,
    table: LeadsTable | None = None,
    force: bool = False,
    retry_rejected: bool = False,
    transcripts: Transcripts | None = None,
) -> DayPlan:
    """Plan a day's run from its manifest, graph and leads, without writing anything.

    Args:
        date: the day.
        manifests: root folder of all manifests.
        leads: root folder of all leads.
        graph: graph that the calls go through.
        work: root of all work in progress; `<leads>.work` by default.
        table: table of the leads in which the day is to be registered.
        force: process the day again even if it is published; the plan stays the same until that is done.
        retry_rejected: try the rejects of a published day again that could succeed now; the plan stays the same until
            that is done.
        transcripts: transcripts for the calls whose manifest has no turns.

    Raises:
        JobError: the transcripts are not published, or the manifest, the model or the leads folder cannot be used.
    """
    leads = storage.absolute(leads)
    manifest = open_manifest(manifests, date, reserved=graph.reserved)
    heard = None if transcripts is None else transcripts.open_day(date)
    parts = [manifest.fingerprint, manifest.root, graph.version, graph.options, msmtfn.__version__]
    identity = json.dumps(parts if heard is None else [*parts, heard.fingerprint])
    run_id = f"{date.isoformat()}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    success = read_success(leads, date)
    published = success if success is not None and success.run_id == run_id else None
    name, retried = run_id, None
    if force and published is not None:
        name, published = f"{run_id}-after-{published.publication}", None
    elif retry_rejected and published is not None and count_retryable(published):
        name, published, retried = f"{run_id}-retry-{published.publication}", None, published
    work = default_work(leads) if work is None else storage.absolute(work)
    return DayPlan(manifest, leads, graph, run_id, work, name, published, retried, table, heard)


def count_done(plan: DayPlan) -> int:
    """Count the calls of a plan that an earlier run has done but not published, without writing anything."""
    return len(plan.open_folder().committed_ids())


def open_run(plan: DayPlan) -> Run:
    """Prepare a day's run, new or resumed: its folder, its copy of the manifest, the model.

    This does not need Ray, so that errors show before the cluster starts.

    Raises:
        JobError: the leads folder cannot be written, or the model cannot be loaded.
    """
    folder = plan.open_folder()
    if plan.table is not None:
        plan.table.fit(
            plan.graph.table.schema(_schema_of(plan))
        )  # so that a column without a place shows before the scoring
    num_calls = folder.read_num_calls()
    if num_calls is None:
        num_calls = _copy_manifest(plan, folder)
    folder.finish_commits()
    folder.delete_crashed_rejects()
    resumed = len(folder.committed_ids())
    if resumed:
        logger.info("%s: %d of %d calls were done by an earlier run", plan.run_id, resumed, num_calls)
    task = Task(folder, num_calls, _schema_of(plan), plan.graph.version, plan.run_id)
    run_pass = plan.graph.load(plan.manifest.root) if resumed < num_calls else None
    return Run(plan, task, run_pass, resumed)


def finish_run(
    run: Run,
    report: Reporter,
    check: Callable[[], None] = lambda: None,
    accept: Callable[[Success | None, Success], None] = lambda _before, _after: None,
) -> Success:
    """Process the remaining calls of a run and publish the day; Ray must be running if any call remains.

    Args:
        run: the run to finish.
        report: callback that receives the progress.
        check: raises `LockedError` if another run has taken the day over; the day then stays unchanged.
        accept: raises `PublishError` if the published day must not be replaced; see `publish_day`.

    Returns:
        The record of the published day.

    Raises:
        JobError: the day could not be published; the same command resumes where this one stopped.
    """
    started = time.monotonic()
    plan, task = run.plan, run.task
    passes: list[PassFigures] = []
    if run.run_pass is not None:
        passes = run_until_complete(
            task,
            run.run_pass,
            plan.graph.max_crashed_share,
            lambda done, rejected: report(done, rejected, run.resumed),
        )
    rates = _rates(passes, time.monotonic() - started)
    drift = _compare(run)
    record = _make_record(run, round(time.monotonic() - started, 3), drift, rates)
    if (moved := describe_drift(drift)) is not None:
        logger.warning("%s: drift: %s", plan.run_id, moved)
    check()
    success = publish_day(
        plan.leads,
        plan.manifest.date,
        run.folder.path,
        task.schema,
        plan.manifest.num_rows,
        record,
        check,
        table=plan.table,
        kind=plan.graph.table,
        accept=accept,
    )
    delete_runs(plan, check)
    report(task.num_calls, success.rejected, run.resumed)
    logger.info("%s: published %s", plan.run_id, day_folder(plan.leads, plan.manifest.date))
    return success


def _make_record(run: Run, seconds: float, drift: dict[str, Any], rates: dict[str, Any]) -> Success:
    """Return what a run knows of itself before it is published."""
    plan = run.plan
    return Success(
        date=plan.manifest.date,
        run_id=plan.run_id,
        model=escape_controls(plan.graph.name),  # as a file's name it need not be text
        model_version=plan.graph.version,
        calls_resumed=run.resumed,
        seconds=seconds,
        **rates,
        drift=drift,
        published_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        retried=None if plan.retried is None else run.task.num_calls,
    )


def _compare(run: Run) -> dict[str, Any]:
    """Compare the day with the model's own calls and the days before; an error is logged, not raised."""
    plan = run.plan
    try:
        parts = open_parts(run.folder.parts, run.task.schema)
        return plan.graph.compare(parts, read_earlier_successes(plan.leads, plan.manifest.date))
    # The comparison is only informative, so its failure must not keep a finished day from being published.
    except Exception as exc:
        logger.error("%s: cannot be compared with the model and the days before: %s", plan.run_id, format_trace(exc))
        return {"figures": {}, "moved": [], "error": type(exc).__name__}


def _rates(passes: Sequence[PassFigures], seconds: float) -> dict[str, Any]:
    """Return the throughput figures of the passes, which took `seconds`; empty if there was no pass."""
    if not passes:
        return {}
    startup = passes[0].startup_sec or 0.0
    stages = {stage: round(sum(figures.stage_sec[stage] for figures in passes), 3) for stage in passes[0].stage_sec}
    return {
        "startup_seconds": round(startup, 3),
        "stage_seconds": stages,
        "calls_per_sec": round(sum(figures.done for figures in passes) / max(seconds - startup, 1e-3), 3),
    }


def tidy_up(plan: DayPlan, check: Callable[[], None] = lambda: None) -> None:
    """Delete the files left by a run that published the day but died before it cleaned up."""
    if plan.published is not None:
        tidy_day(plan.leads, plan.manifest.date, check, plan.table)
        delete_runs(plan, check)


def delete_runs(plan: DayPlan, check: Callable[[], None] = lambda: None) -> None:
    """Delete the work in progress of every run of the day, including the copies of the manifest.

    Folders whose names are not those of runs are kept. If another run has taken the day over, all are kept: the
    folders are listed before the check, so none of them can belong to the other run.
    """
    day = plan.manifest.date.isoformat()
    runs = []
    for root in work_roots(plan.leads, plan.work):
        names = [folder.rpartition("/")[2] for folder in storage.list_folders(root)]
        runs += [(root, name) for name in names if (found := RUN.fullmatch(name)) and found[1] == day]
    try:
        check()
    except LockedError as exc:
        logger.warning("%s: work in progress is left to the run that holds the day now: %s", plan.run_id, exc)
        return
    for root, name in runs:
        storage.delete(inside(root, name))


def _schema_of(plan: DayPlan) -> pa.Schema:
    passed = [column for column in plan.manifest.schema if column.name not in (ROW_ID, ROW_ERROR, *NOT_PUBLISHED)]
    return plan.graph.schema(passed)


def _copy_manifest(plan: DayPlan, folder: RunFolder) -> int:
    """Copy the manifest into the run's folder, so that a resumed run sees the same rows under the same ids.

    If the plan retries the rejects of a day, only these rows are copied, with new numbers; all other calls are carried
    over from the published leads.

    Returns:
        The number of calls copied.
    """
    storage.delete(folder.calls)  # what an unfinished copy has left, perhaps of a manifest that was being changed
    storage.make_folder(folder.calls)
    storage.make_folder(folder.parts)
    batches = iter_calls(plan.manifest)
    if plan.retried is not None:
        leads = read_leads(plan.leads, plan.manifest.date)
        batches = rows_to_retry(batches, leads)
    if plan.transcripts is not None:
        batches = plan.transcripts.fill(batches)
    try:
        with limited_memory(int(MEMORY_SHARE * available_memory())):
            num_calls = _write_calls(batches, folder.calls)
    except MemoryError as exc:
        raise too_large(plan.manifest.folder) from exc
    if plan.retried is not None:
        carry_over(leads, folder.parts, _schema_of(plan), num_calls, plan.graph.table.rows_per_file)
    folder.write_num_calls(num_calls)
    return num_calls


def _write_calls(batches: Iterable[pa.RecordBatch], calls: str) -> int:
    """Write rows into a folder, in few files, and return their number."""
    num_calls = 0
    for number, batch in enumerate(join_batches(batches)):
        num_calls += len(batch)
        storage.write_parquet(storage.join(calls, f"calls-{number:06d}.parquet"), pa.Table.from_batches([batch]))
    return num_calls


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("msmtfn", "ray", "torch", "transformers")}
