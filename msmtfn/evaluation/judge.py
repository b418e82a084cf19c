"""Scoring of labelled calls on the whole cluster, with the same graph as the daily job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa

from msmtfn import storage
from msmtfn.daily.leftovers import forget_crashed, left_over, score_until_complete, settle_commits
from msmtfn.daily.publish import PARTS_FOLDER, open_parts
from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.leads.schema import parts_schema
from msmtfn.model.checkpoint import Model, pack_network
from msmtfn.rows import ROW_ID
from msmtfn.scoring.pipeline import PipelineConfig, ScoringTask

PASSED: Final = ("call_id", "intent", "language")


def judge_split(
    split: LabelledSplit,
    model: Model,
    prepare: PrepareConfig,
    folder: str,
    report: Callable[[int, int], None] = lambda _done, _rejected: None,
) -> pa.Table:
    """Score a split's calls, or resume doing so; Ray must be running.

    Args:
        split: the labelled calls.
        model: the model that scores them.
        prepare: how recordings are turned into the network's inputs.
        folder: folder for work in progress; each split and model needs its own.
        report: receives the numbers of finished and of rejected calls every few seconds.

    Returns:
        One row per call, with its label and either the model's prediction or the reason of the reject.

    Raises:
        JobError: the calls cannot be scored; calling this again resumes where it stopped.
    """
    rows = split.rows.set_column(0, ROW_ID, pa.array(np.arange(len(split.rows))))
    passed = [rows.schema.field(name) for name in PASSED]
    task = ScoringTask(
        calls=storage.join(folder, "calls"),
        parts=storage.join(folder, PARTS_FOLDER),
        checkpoint=storage.join(folder, "checkpoint"),
        num_calls=len(rows),
        schema=parts_schema(passed),
        model_version="",
        run_id=f"judging {split.name}",
    )
    storage.make_folder(task.calls)
    storage.make_folder(task.parts)
    storage.write_parquet(storage.join(task.calls, "calls.parquet"), rows)
    settle_commits(task)
    forget_crashed(task)
    if len(left_over(task)):
        preparer = Preparer(prepare, model.processor, storage.absolute(split.root))
        score_until_complete(task, preparer, pack_network(model.network), ScorerConfig(), PipelineConfig(), report)
    return open_parts(task.parts, task.schema).to_table()
