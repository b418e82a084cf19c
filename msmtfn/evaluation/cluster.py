"""Scoring of labelled calls on the whole cluster, with the same graph as the daily job."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from msmtfn import storage
from msmtfn.daily.graph import Task
from msmtfn.daily.leftovers import run_until_complete
from msmtfn.daily.publish import open_parts
from msmtfn.daily.state import RunFolder
from msmtfn.model.checkpoint import Model
from msmtfn.scoring.graph import ScoringConfig, ScoringPass


def score_on_cluster(
    rows: pa.Table,
    schema: pa.Schema,
    model: Model,
    config: ScoringConfig,
    root: str,
    folder: str,
    report: Callable[[int], None],
) -> pa.Table:
    """Score calls with the graph, or resume doing so; Ray must be running.

    Args:
        rows: the calls, as rows of a manifest with different row ids.
        schema: schema of the result, as `leads.schema.parts_schema` returns it.
        model: the model that scores them.
        config: the scoring options.
        root: root of the manifests, which relative names of recordings refer to.
        folder: folder for work in progress; each set of calls and model needs its own.
        report: receives the number of finished calls every few seconds.

    Returns:
        One row per call, in any order.

    Raises:
        JobError: the calls cannot be scored; calling this again resumes where it stopped.
    """
    run = RunFolder(folder)
    task = Task(run, len(rows), schema, model_version="", run_id="evaluation")
    storage.make_folder(run.calls)
    storage.make_folder(run.parts)
    storage.write_parquet(storage.join(run.calls, "calls.parquet"), rows)
    run.finish_commits()
    run.delete_crashed_rejects()
    if len(run.uncommitted_ids(len(rows))):
        score = ScoringPass(model, config, root)
        run_until_complete(task, score, config.pipeline.max_crashed_share, lambda done, _rejected: report(done))
    return open_parts(run.parts, task.schema).to_table()
