"""One day from its manifest to its leads: plan, score, publish; and go on where an earlier run stopped."""

from __future__ import annotations

import datetime as dt
import hashlib
import importlib.metadata
import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

import msmtfn
from msmtfn import storage
from msmtfn.calls.manifest import ROW_ERROR, Manifest, iter_calls, open_manifest
from msmtfn.leads.publish import PARTS_FOLDER, day_folder, publish_day, read_success, run_folder
from msmtfn.leads.schema import RESERVED, ROW_ID, parts_schema
from msmtfn.model.checkpoint import Model, load_model, model_version, pack_network
from msmtfn.scoring.pipeline import PipelineConfig, ScoringTask, score_calls
from msmtfn.scoring.prepare import INPUTS, PrepareConfig, Preparer
from msmtfn.scoring.progress import Reporter
from msmtfn.scoring.scorer import ScorerConfig

logger = logging.getLogger(__name__)

CALLS_PER_FILE: Final = 4096
NOT_PUBLISHED: Final = ("turns",)
"""Columns of the manifest that stay out of the leads: the transcript is long and nobody's business there."""


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
        """Of the options that change a result, as JSON."""
        return json.dumps(
            {"prepare": asdict(self.prepare), "lead_weights": asdict(self.scorer.lead_weights)}, sort_keys=True
        )


@dataclass(frozen=True, slots=True)
class DayPlan:
    """What is to be done for a day.

    Attributes:
        manifest: of the day.
        leads: the root of all leads.
        model_folder: of the model, on this machine.
        model_version: of its content.
        run_id: the day, and a fingerprint of all that decides the result.
        published: what `_SUCCESS` says, where this very run is published already.
    """

    manifest: Manifest
    leads: str
    model_folder: Path
    model_version: str
    run_id: str
    published: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is ready to go on.

    Attributes:
        plan: what it is to do.
        folder: where its work in progress stands.
        task: for the graph.
        model: to score with; None where every call is scored already.
        resumed: calls that an earlier run of the same plan has scored.
    """

    plan: DayPlan
    folder: str
    task: ScoringTask
    model: Model | None
    resumed: int


def plan_day(date: dt.date, manifests: str, leads: str, model_folder: Path, config: ScoringConfig) -> DayPlan:
    """Look at a day's manifest, model and leads, without touching anything.

    Raises:
        JobError: of the manifest, the model or the leads folder.
    """
    leads = storage.absolute(leads)
    manifest = open_manifest(manifests, date, reserved=RESERVED | set(INPUTS.names))
    version = model_version(model_folder)
    identity = json.dumps([manifest.fingerprint, manifest.root, version, config.fingerprint(), msmtfn.__version__])
    run_id = f"{date.isoformat()}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    success = read_success(leads, date)
    done = success is not None and success.get("run_id") == run_id
    return DayPlan(manifest, leads, model_folder, version, run_id, success if done else None)


def open_run(plan: DayPlan) -> Run:
    """Make ready for a day's run, or for going on with one: its folder, its copy of the manifest, the model.

    Nothing of it needs Ray, so that what can be wrong is seen at once.

    Raises:
        JobError: the leads folder cannot be written, or the model cannot be loaded.
    """
    folder = run_folder(plan.leads, plan.run_id)
    task = _take_snapshot(plan, folder)
    resumed = _count_committed(task)
    if resumed:
        logger.info("%s: %d of %d calls were scored by an earlier run", plan.run_id, resumed, task.num_calls)
    model = load_model(plan.model_folder) if resumed < task.num_calls else None
    return Run(plan, folder, task, model, resumed)


def finish_run(run: Run, config: ScoringConfig, report: Reporter) -> dict[str, Any]:
    """Score the calls of a run that are left, and publish the day; Ray must be up.

    Args:
        run: what to do.
        config: how.
        report: told, every so often, how far the run is.

    Returns:
        What `_SUCCESS` says.

    Raises:
        JobError: the day could not be published; the same command goes on where this one stopped.
    """
    started = time.monotonic()
    plan, task = run.plan, run.task
    if run.model is not None:
        score_calls(
            task,
            Preparer(config.prepare, run.model.network.config, run.model.tokenizer, plan.manifest.root),
            pack_network(run.model.network),
            config.scorer,
            config.pipeline,
            lambda done, rejected: report(min(run.resumed + done, task.num_calls), rejected, run.resumed),
        )
    about = {
        "date": plan.manifest.date.isoformat(),
        "run_id": plan.run_id,
        "model": plan.model_folder.name,
        "model_version": plan.model_version,
        "calls_resumed": run.resumed,
        "seconds": round(time.monotonic() - started, 3),
        "published_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "versions": _versions(),
    }
    success = publish_day(plan.leads, plan.manifest.date, run.folder, task.schema, task.num_calls, about)
    storage.delete(run.folder)
    logger.info("%s: published %s", plan.run_id, day_folder(plan.leads, plan.manifest.date))
    return success


def forget_run(plan: DayPlan) -> None:
    """Drop what an unfinished run of the same plan has done, so that every call is scored again."""
    storage.delete(run_folder(plan.leads, plan.run_id))


def _take_snapshot(plan: DayPlan, run: str) -> ScoringTask:
    """Copy the manifest into the run's folder, so that every run of it sees the same rows under the same ids."""
    passed = [column for column in plan.manifest.schema if column.name not in (ROW_ID, ROW_ERROR, *NOT_PUBLISHED)]
    task = ScoringTask(
        calls=storage.join(run, "calls"),
        parts=storage.join(run, PARTS_FOLDER),
        checkpoint=storage.join(run, "checkpoint"),
        num_calls=plan.manifest.num_rows,
        schema=parts_schema(passed),
        model_version=plan.model_version,
        run_id=plan.run_id,
    )
    marker = storage.join(run, "calls.json")
    if storage.exists(marker):
        return task
    storage.make_folder(task.calls)
    storage.make_folder(task.parts)
    for number, batch in enumerate(iter_calls(plan.manifest)):
        filesystem, path = storage.arrow_filesystem_of(storage.join(task.calls, f"calls-{number:06d}.parquet"))
        pq.write_table(pa.Table.from_batches([batch]), path, filesystem=filesystem, compression="zstd")
    storage.write_text(marker, json.dumps({"calls": task.num_calls}) + "\n")
    return task


def _count_committed(task: ScoringTask) -> int:
    """Calls that an earlier run has committed, by the engine's notes."""
    count = 0
    for file in storage.list_files(task.checkpoint, ".parquet"):
        if not file.endswith(".pending.parquet"):
            with storage.open_for_reading(file) as handle:
                count += pq.ParquetFile(handle).metadata.num_rows
    return count


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in ("msmtfn", "ray", "torch", "transformers")}
