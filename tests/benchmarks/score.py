"""The overhead of the engine: the job's graph compared with a plain loop over the same scorer and calls."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from msmtfn import storage
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.daily.counter import RunFigures
from msmtfn.daily.graph import Task
from msmtfn.daily.state import RunFolder
from msmtfn.engine import start_engine
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.scorer import BATCH_CALLS, Scorer, ScorerConfig
from msmtfn.leads.schema import SCORED, parts_schema
from msmtfn.model.checkpoint import Model, pack_network
from msmtfn.rows import ROW_ID
from msmtfn.scoring.pipeline import PipelineConfig, score_calls
from tests.benchmarks.mix import DATE, draw_lengths, write_day

PASSED: Final = (ROW_ID, "call_id")


def measure_score(model: Model, num_calls: int, seed: int, pipeline: PipelineConfig) -> list[dict[str, Any]]:
    """Score calls of the mix with the graph on its own Ray instance, and with a plain loop.

    The graph also prepares the calls, while the loop gets calls that are already prepared.

    Args:
        model: network and tokenizer.
        num_calls: number of calls in the mix.
        seed: random seed of lengths, samples and text.
        pipeline: distribution of the work in the graph; the loop is one scorer with all threads of the machine.

    Returns:
        One row with the seconds of both. Those of the graph start with the first batch at a scorer; `startup_sec` is
        the time before.
    """
    lengths = draw_lengths(num_calls, np.random.default_rng(seed))
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as folder:
        root = write_day(Path(folder) / "calls", lengths, np.random.default_rng(seed), "PCM_16")
        task = make_task(root, Path(folder) / "run", num_calls)
        preparer = Preparer(PrepareConfig(), model.processor, str(root))
        started = time.perf_counter()
        with start_engine():
            engine_sec = time.perf_counter() - started
            figures, graph_sec = timed_graph(task, preparer, model, pipeline)
        loop_sec = _timed_loop(task, preparer, model)
    startup_sec = figures.startup_sec or 0.0
    return [
        {
            "calls": num_calls,
            "rounds": sum(map(len, lengths)),
            "audio_sec": round(sum(map(sum, lengths)), 1),
            "loop_sec": round(loop_sec, 2),
            "job_sec": round(graph_sec - startup_sec, 2),
            "ratio": round((graph_sec - startup_sec) / loop_sec, 3),
            "startup_sec": round(startup_sec, 2),
            "ray_sec": round(engine_sec, 2),
            "times_real_time": round(sum(map(sum, lengths)) / (graph_sec - startup_sec), 1),
        }
    ]


def make_task(root: Path, run: Path, num_calls: int) -> Task:
    """Make the graph's task for a day that `write_day` has written."""
    folder = RunFolder(str(run))
    schema = parts_schema([pa.field("call_id", pa.string())])
    task = Task(folder, num_calls, schema, model_version="", run_id="a trial")
    for place in (folder.calls, folder.parts):
        storage.make_folder(place)
    for number, batch in enumerate(iter_calls(open_manifest(str(root), DATE))):
        storage.write_parquet(f"{folder.calls}/{number:06d}.parquet", pa.Table.from_batches([batch]))
    return task


def timed_graph(task: Task, preparer: Preparer, model: Model, pipeline: PipelineConfig) -> tuple[RunFigures, float]:
    """Run the graph and return its figures and seconds; Ray must be running."""
    started = time.perf_counter()
    figures = score_calls(
        task, preparer, pack_network(model.network), ScorerConfig(), pipeline, lambda _done, _rejected: None
    )
    seconds = time.perf_counter() - started
    if figures.done != task.num_calls or figures.rejected:
        raise RuntimeError(f"{figures.done} of {task.num_calls} calls are done and {figures.rejected} rejected")
    return figures, seconds


def _timed_loop(task: Task, preparer: Preparer, model: Model) -> float:
    """Time the scorer over prepared batches of the size that the graph uses."""
    calls = storage.arrow_filesystem_of(task.folder.calls)[1]
    rows = pq.read_table(calls)
    size = BATCH_CALLS
    batches = [preparer.prepare_batch(rows.slice(start, size), PASSED) for start in range(0, len(rows), size)]
    scorer = Scorer(model.network, ScorerConfig())
    scorer.score_batch(batches[0].slice(0, 1), task.schema)
    started = time.perf_counter()
    scored = [scorer.score_batch(batch, task.schema) for batch in batches]
    seconds = time.perf_counter() - started
    if any(set(table["status"].to_pylist()) != {SCORED} for table in scored):
        raise RuntimeError("a call was rejected in the loop")
    return seconds
