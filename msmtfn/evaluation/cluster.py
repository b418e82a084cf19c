"""Scoring of labelled calls on the whole cluster, with the same graph as the daily job."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from msmtfn import storage
from msmtfn.daily.leftovers import forget_crashed, left_over, score_until_complete, settle_commits
from msmtfn.daily.publish import PARTS_FOLDER, open_parts
from msmtfn.features.prepare import Preparer
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.model.checkpoint import Model, pack_network
from msmtfn.scoring.pipeline import PipelineConfig, ScoringTask


def score_on_cluster(
    rows: pa.Table,
    schema: pa.Schema,
    model: Model,
    preparer: Preparer,
    scorer: ScorerConfig,
    folder: str,
    report: Callable[[int], None],
) -> pa.Table:
    """Score calls with the graph, or resume doing so; Ray must be running.

    Args:
        rows: the calls, as rows of a manifest with different row ids.
        schema: schema of the result, as `leads.schema.parts_schema` returns it.
        model: the model that scores them.
        preparer: prepares the calls for that model.
        scorer: how the network is run.
        folder: folder for work in progress; each set of calls and model needs its own.
        report: receives the number of finished calls every few seconds.

    Returns:
        One row per call, in any order.

    Raises:
        JobError: the calls cannot be scored; calling this again resumes where it stopped.
    """
    task = ScoringTask(
        calls=storage.join(folder, "calls"),
        parts=storage.join(folder, PARTS_FOLDER),
        checkpoint=storage.join(folder, "checkpoint"),
        num_calls=len(rows),
        schema=schema,
        model_version="",
        run_id="evaluation",
    )
    storage.make_folder(task.calls)
    storage.make_folder(task.parts)
    storage.write_parquet(storage.join(task.calls, "calls.parquet"), rows)
    settle_commits(task)
    forget_crashed(task)
    if len(left_over(task)):
        packed = pack_network(model.network)
        score_until_complete(task, preparer, packed, scorer, PipelineConfig(), lambda done, _rejected: report(done))
    return open_parts(task.parts, task.schema).to_table()
