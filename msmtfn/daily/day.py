"""Score one day: plan the run, score the calls, publish the leads; resume where an earlier run stopped."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

import msmtfn
from msmtfn import storage
from msmtfn.calls.manifest import ROW_ERROR, Manifest, iter_calls, open_manifest
from msmtfn.daily.leftovers import committed_ids, forget_crashed, score_until_complete, settle_commits
from msmtfn.daily.progress import Reporter
from msmtfn.daily.publication import RUN
from msmtfn.daily.publish import (
    PARTS_FOLDER,
    RUNS_FOLDER,
    day_folder,
    open_parts,
    publish_day,
    published_before,
    read_leads,
    read_success,
    run_folder,
    tidy_day,
)
from msmtfn.daily.retry import carry_over, count_retryable, rows_to_retry
from msmtfn.errors import LockedError, format_trace
from msmtfn.features.prepare import INPUTS, PrepareConfig, Preparer
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.leads.drift import compare_day, describe_drift
from msmtfn.leads.schema import RESERVED, parts_schema
from msmtfn.model.checkpoint import Model, load_model, model_version, pack_network
from msmtfn.rows import ROW_ID
from msmtfn.scoring.counter import RunFigures
from msmtfn.scoring.pipeline import PipelineConfig, ScoringTask
from msmtfn.storage.untrusted import inside

logger = logging.getLogger(__name__)

NOT_PUBLISHED: Final = ("turns",)
"""Columns of the manifest that stay out of the leads: the transcript is long and confidential."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringConfig:
    """All options of scoring a day."""

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """How recordings become the network's inputs."""
    scorer: ScorerConfig = field(default_factory=ScorerConfig)
    """How the network is run."""
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    """How the work is spread."""

    def fingerprint(self) -> str:
        """Return the options that change a result, as JSON."""
        scorer = {"lead_weights": asdict(self.scorer.lead_weights), "precision": self.scorer.precision}
        return json.dumps({"prepare": asdict(self.prepare), **scorer}, sort_keys=True)


@dataclass(frozen=True, slots=True)
class DayPlan:
    """Plan of a run for one day.

    Attributes:
        manifest: the day's manifest.
        leads: root folder of all leads.
        model: name of the model as the caller gave it.
        model_folder: local folder of the model.
        model_version: fingerprint of the model's content.
        run_id: the day, and a fingerprint of everything that decides the result.
        work: name of the folder that holds the run's work in progress.
        published: content of `_SUCCESS` if this run is already published and nothing is left to do; else None.
        retried: content of `_SUCCESS` of the day whose rejects are scored again; None to score the whole day.
    """

    manifest: Manifest
    leads: str
    model: str
    model_folder: Path
    model_version: str
    run_id: str
    work: str
    published: dict[str, Any] | None
    retried: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """Run that is ready to start or resume.

    Attributes:
        plan: plan of the run.
        folder: folder of its work in progress.
        task: task for the scoring pipeline.
        model: model to score with; None if every call is already scored.
        resumed: number of calls that an earlier run of the same plan has scored.
    """

    plan: DayPlan
    folder: str
    task: ScoringTask
    model: Model | None
    resumed: int


def plan_day(
    date: dt.date,
    manifests: str,
    leads: str,
    model_folder: Path,
    config: ScoringConfig,
    *,
    model: str = "",
    force: bool = False,
    retry_rejected: bool = False,
) -> DayPlan:
    """Plan a day's run from its manifest, model and leads, without writing anything.

    Args:
        date: the day.
        manifests: root folder of all manifests.
        leads: root folder of all leads.
        model_folder: local folder of the model.
        config: the scoring options.
        model: name of the model as the caller gave it.
        force: score the day again even if it is published; the plan stays the same until that is done.
        retry_rejected: score again the rejects of a published day that could succeed now; the plan stays the same
            until that is done.

    Raises:
        JobError: the manifest, the model or the leads folder cannot be used.
    """
    leads = storage.absolute(leads)
    manifest = open_manifest(manifests, date, reserved=RESERVED | set(INPUTS.names))
    version = model_version(model_folder)
    identity = json.dumps([manifest.fingerprint, manifest.root, version, config.fingerprint(), msmtfn.__version__])
    run_id = f"{date.isoformat()}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    success = read_success(leads, date)
    published = success if success is not None and success.get("run_id") == run_id else None
    work, retried = run_id, None
    if force and published is not None:
        work, published = f"{run_id}-after-{published['publication']}", None
    elif retry_rejected and published is not None and count_retryable(published):
        work, published, retried = f"{run_id}-retry-{published['publication']}", None, published
    return DayPlan(manifest, leads, model, model_folder, version, run_id, work, published, retried)


def count_done(plan: DayPlan) -> int:
    """Count the calls of a plan that an earlier run has scored but not published, without writing anything."""
    task = _task_of(plan, _run_folder(plan), plan.manifest.num_rows)
    return len(committed_ids(task))


def open_run(plan: DayPlan) -> Run:
    """Prepare a day's run, new or resumed: its folder, its copy of the manifest, the model.

    This does not need Ray, so that errors show before the cluster starts.

    Raises:
        JobError: the leads folder cannot be written, or the model cannot be loaded.
    """
    folder = _run_folder(plan)
    task = _take_snapshot(plan, folder)
    settle_commits(task)
    forget_crashed(task)
    resumed = len(committed_ids(task))
    if resumed:
        logger.info("%s: %d of %d calls were scored by an earlier run", plan.run_id, resumed, task.num_calls)
    model = load_model(plan.model_folder) if resumed < task.num_calls else None
    return Run(plan, folder, task, model, resumed)


def finish_run(
    run: Run, config: ScoringConfig, report: Reporter, check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Score the remaining calls of a run and publish the day; Ray must be running if any call remains.

    Args:
        run: the run to finish.
        config: the scoring options.
        report: callback that receives the progress.
        check: raises `LockedError` if another run has taken the day over; the day then stays unchanged.

    Returns:
        The content of `_SUCCESS`.

    Raises:
        JobError: the day could not be published; the same command resumes where this one stopped.
    """
    started = time.monotonic()
    plan, task = run.plan, run.task
    passes = [] if run.model is None else _score(run, run.model, config, report)
    scored_in = time.monotonic() - started
    drift = _compare(run)
    about = {
        "date": plan.manifest.date.isoformat(),
        "run_id": plan.run_id,
        "model": plan.model or plan.model_folder.name,
        "model_version": plan.model_version,
        "calls_resumed": run.resumed,
        "seconds": round(time.monotonic() - started, 3),
        **_rates(passes, scored_in),
        "drift": drift,
        "published_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }
    if plan.retried is not None:
        about["retried"] = task.num_calls
    if (moved := describe_drift(drift)) is not None:
        logger.warning("%s: has moved: %s", plan.run_id, moved)
    check()
    success = publish_day(plan.leads, plan.manifest.date, run.folder, task.schema, plan.manifest.num_rows, about, check)
    forget_runs(plan, check)
    report(task.num_calls, success["rejected"], run.resumed)
    logger.info("%s: published %s", plan.run_id, day_folder(plan.leads, plan.manifest.date))
    return success


def _compare(run: Run) -> dict[str, Any]:
    """Compare the day with the model's own calls and the days before; an error is logged, not raised."""
    plan = run.plan
    try:
        parts = open_parts(run.task.parts, run.task.schema)
        return compare_day(parts, plan.model_folder, published_before(plan.leads, plan.manifest.date))
    # The comparison is only informative, so its failure must not keep a finished day from being published.
    except Exception as exc:
        logger.error("%s: cannot be compared with the model and the days before: %s", plan.run_id, format_trace(exc))
        return {"figures": {}, "moved": [], "error": type(exc).__name__}


def _rates(passes: Sequence[RunFigures], seconds: float) -> dict[str, Any]:
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


def _score(run: Run, model: Model, config: ScoringConfig, report: Reporter) -> list[RunFigures]:
    """Score the remaining calls and return the figures of each pass."""
    return score_until_complete(
        run.task,
        Preparer(config.prepare, model.processor, run.plan.manifest.root),
        pack_network(model.network),
        config.scorer,
        config.pipeline,
        lambda done, rejected: report(done, rejected, run.resumed),
    )


def tidy_up(plan: DayPlan, check: Callable[[], None] = lambda: None) -> None:
    """Delete the files left by a run that published the day but died before it cleaned up."""
    if plan.published is not None:
        tidy_day(plan.leads, plan.manifest.date, check)
        forget_runs(plan, check)


def forget_runs(plan: DayPlan, check: Callable[[], None] = lambda: None) -> None:
    """Delete the work in progress of every run of the day, including the copies of the manifest.

    Folders whose names are not those of runs are kept. If another run has taken the day over, all are kept: the
    folders are listed before the check, so none of them can belong to the other run.
    """
    names = [folder.rpartition("/")[2] for folder in storage.list_folders(inside(plan.leads, RUNS_FOLDER))]
    runs = [name for name in names if (found := RUN.fullmatch(name)) and found[1] == plan.manifest.date.isoformat()]
    try:
        check()
    except LockedError as exc:
        logger.warning("%s: work in progress is left to the run that has the day now: %s", plan.run_id, exc)
        return
    for name in runs:
        storage.delete(inside(plan.leads, RUNS_FOLDER, name))


def _run_folder(plan: DayPlan) -> str:
    """Return the run's folder, after checking that no symbolic link in it leads elsewhere."""
    task = _task_of(plan, run_folder(plan.leads, plan.work), plan.manifest.num_rows)
    for folder in (task.calls, task.parts, task.checkpoint):
        inside(plan.leads, RUNS_FOLDER, plan.work, folder.rpartition("/")[2])
    return run_folder(plan.leads, plan.work)


def _task_of(plan: DayPlan, run: str, num_calls: int) -> ScoringTask:
    passed = [column for column in plan.manifest.schema if column.name not in (ROW_ID, ROW_ERROR, *NOT_PUBLISHED)]
    return ScoringTask(
        calls=storage.join(run, "calls"),
        parts=storage.join(run, PARTS_FOLDER),
        checkpoint=storage.join(run, "checkpoint"),
        num_calls=num_calls,
        schema=parts_schema(passed),
        model_version=plan.model_version,
        run_id=plan.run_id,
    )


def _take_snapshot(plan: DayPlan, run: str) -> ScoringTask:
    """Copy the manifest into the run's folder, so that a resumed run sees the same rows under the same ids.

    If the plan retries the rejects of a day, only these rows are copied, with new numbers; all other calls are carried
    over from the published leads.
    """
    task = _task_of(plan, run, plan.manifest.num_rows)
    marker = storage.join(run, "calls.json")
    snapshot = storage.read_text(marker)
    if snapshot is not None:
        return replace(task, num_calls=json.loads(snapshot)["calls"])
    storage.make_folder(task.calls)
    storage.make_folder(task.parts)
    batches = iter_calls(plan.manifest)
    if plan.retried is not None:
        leads = read_leads(plan.leads, plan.manifest.date)
        batches = rows_to_retry(batches, leads)
    num_calls = 0
    for number, batch in enumerate(batches):
        num_calls += len(batch)
        storage.write_parquet(storage.join(task.calls, f"calls-{number:06d}.parquet"), pa.Table.from_batches([batch]))
    if plan.retried is not None:
        carry_over(leads, task, num_calls)
    storage.write_text(marker, json.dumps({"calls": num_calls}) + "\n")
    return replace(task, num_calls=num_calls)


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("msmtfn", "ray", "torch", "transformers")}
