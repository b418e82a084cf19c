"""Scoring of labelled calls on the whole cluster, with the same graph as the daily job."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa

from msmtfn import storage
from msmtfn.daily.graph import Task
from msmtfn.daily.leftovers import run_until_complete
from msmtfn.daily.publish import open_parts
from msmtfn.daily.state import RunFolder
from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.features.prepare import PrepareConfig
from msmtfn.leads.schema import parts_schema
from msmtfn.model.checkpoint import Model
from msmtfn.rows import ROW_ID
from msmtfn.scoring.graph import ScoringConfig, ScoringPass

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
    run = RunFolder(folder)
    task = Task(run, len(rows), parts_schema(passed), model_version="", run_id=f"judging {split.name}")
    storage.make_folder(run.calls)
    storage.make_folder(run.parts)
    storage.write_parquet(storage.join(run.calls, "calls.parquet"), rows)
    run.finish_commits()
    run.delete_crashed_rejects()
    if len(run.uncommitted_ids(len(rows))):
        config = ScoringConfig(prepare=prepare)
        score = ScoringPass(model, config, storage.absolute(split.root))
        run_until_complete(task, score, config.pipeline.max_crashed_share, report)
    return open_parts(run.parts, task.schema).to_table()
