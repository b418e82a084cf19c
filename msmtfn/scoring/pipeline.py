"""Scoring graph of a day on one page: read, prepare, score, write. The only module that scores with Ray Data.

A call stays one row from read to write, with the `row_id` by which Ray Data's checkpoint identifies it, so a call that
a crashed run has committed is not scored again. A call that cannot be scored travels on as a reject. An unsettled call
is dropped at the end, uncommitted, and is thereby left for another attempt (`daily/leftovers.py`).
"""

from __future__ import annotations

import datetime as dt
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.data import SaveMode

from msmtfn import storage
from msmtfn.daily.counter import Batch, RunFigures, open_counter
from msmtfn.daily.dataset import (
    ActorPool,
    PassConfig,
    failure_of,
    final_figures,
    fit_blocks,
    make_fuse,
    passthrough_columns,
    plan_pool,
    ray_data_settings,
    report_figures,
    sandboxed_dataset,
    translate_errors,
)
from msmtfn.daily.graph import Task
from msmtfn.errors import RejectCode, require
from msmtfn.features.prepare import PREPARED, Preparer
from msmtfn.features.sandbox import UNSETTLED
from msmtfn.inference.scorer import BATCH_CALLS, GPU_BATCH_CALLS, Scorer, ScorerConfig
from msmtfn.inference.trial import try_model
from msmtfn.leads.schema import LINEAGE, SCORED
from msmtfn.model.checkpoint import PackedNetwork, unpack_network
from msmtfn.progress import poll

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig(PassConfig):
    """Distribution of the work over the cluster; no option changes a result."""

    batch_calls: int = 0
    """Number of calls that are prepared and scored together; 0 means 16, or 64 for scorers with GPUs."""
    num_scorers: int = 0
    """Number of processes that run the network; 0 means one per GPU, or one per 8 CPUs if there is no GPU."""
    gpus_per_scorer: float = 1.0
    """Number of GPUs per scorer, possibly a fraction; ignored if there are no GPUs."""
    threads_per_scorer: int = 0
    """Number of threads per scorer on a machine without a GPU; 0 means all its CPUs, at most 8."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a number is out of range.
        """
        PassConfig.__post_init__(self)  # `super()` does not work in a dataclass with slots
        for name, minimum in {"batch_calls": 0, "num_scorers": 0, "threads_per_scorer": 0}.items():
            require(getattr(self, name) >= minimum, name, getattr(self, name), f"at least {minimum}")
        require(self.gpus_per_scorer > 0, "gpus_per_scorer", self.gpus_per_scorer, "more than 0")


def score_calls(
    task: Task,
    preparer: Preparer,
    network: PackedNetwork,
    scorer: ScorerConfig,
    config: PipelineConfig,
    report: Callable[[int, int], None],
    *,
    alone: bool = False,
    num_left: int | None = None,
    make_scorer: Callable[..., Scorer] = Scorer,
) -> RunFigures:
    """Score the calls that no earlier run of the same task has committed.

    Some calls stay uncommitted and are left to another pass: those in a block whose worker dies more often than the
    retries allow, those that crash their sandbox, and those whose recordings storage does not deliver.

    Args:
        task: what to read and where to write.
        preparer: prepares calls, in Ray tasks on CPUs.
        network: sent to the scorers through the object store.
        scorer: configuration of the scorers.
        config: distribution of the work over the cluster.
        report: called every `progress_sec` with the numbers of calls done and rejected by this run.
        alone: score one call at a time, so that a call that crashes its process affects no other.
        num_left: number of calls not yet committed; None means all calls of the task.
        make_scorer: makes the scorer of an actor, called with the arguments of `Scorer`.

    Returns:
        The figures of the run, including the number of calls without a recording because storage failed.

    Raises:
        ScoringError: Ray Data gave up.
    """
    if alone:
        config = replace(config, batch_calls=1, block_calls=1)
    filesystem, parts = storage.arrow_filesystem_of(task.folder.parts)
    pool = plan_pool("scorers", scorer.device, config.num_scorers, config.gpus_per_scorer, config.threads_per_scorer)
    config = _fit_to_machines(config, pool, task.num_calls)
    fuse = make_fuse(task, pool, config, alone=alone, num_left=num_left)
    make = partial(make_scorer, config=scorer)
    with (
        open_counter(task.run_id, task.num_calls if num_left is None else num_left) as counter,
        poll(partial(report_figures, counter, report, fuse), config.progress_sec),
        translate_errors("scoring"),
        ray_data_settings(task, filesystem, fuse),
    ):
        prepared = prepared_dataset(task.folder.calls, preparer, passthrough_columns(task.schema), config, counter)
        actor_args = (ray.put(network), make, task, pool.threads, counter)
        scored = _scored_dataset(prepared, actor_args, pool, config, alone=alone)
        scored.write_parquet(parts, filesystem=filesystem, mode=SaveMode.APPEND, compression="zstd")
        return final_figures(counter, fuse)


def _scored_dataset(
    prepared: ray.data.Dataset, actor_args: tuple[Any, ...], pool: ActorPool, config: PipelineConfig, *, alone: bool
) -> ray.data.Dataset:
    """Add the scoring stage, a pool of `ScoringActor`s constructed with `actor_args`."""
    return prepared.map_batches(
        ScoringActor,
        fn_constructor_args=actor_args,
        batch_size=config.batch_calls,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool.strategy(alone=alone),
        num_cpus=0,  # its threads are set explicitly; the CPUs are counted for tasks and Ray Data's own actors
        num_gpus=pool.gpus,
        max_restarts=-1,  # a pool does not replace a lost actor, and the retries of its calls are finite
        max_task_retries=config.max_retries,
    )


def prepared_dataset(
    calls: str, preparer: Preparer, passthrough: Sequence[str], config: PipelineConfig, counter: Any
) -> ray.data.Dataset:
    """Return a lazy dataset of prepared calls.

    Args:
        calls: folder of Parquet files with the manifest's rows.
        preparer: prepares calls, in Ray tasks on CPUs.
        passthrough: names of the manifest's columns that pass through.
        config: distribution of the work, with sizes of batches and blocks from `fit_to_cpus`.
        counter: `RunCounter` actor that counts the prepared calls.
    """
    batch = (config.batch_calls, config.block_calls, config.max_retries)
    return sandboxed_dataset(calls, preparer, preparer.config.guard, (passthrough, PREPARED), batch, counter)


class ScoringActor:
    """Ray actor that scores batches with the network on one GPU or on some CPU cores, for the whole run."""

    def __init__(
        self,
        network: ray.ObjectRef[PackedNetwork],
        make_scorer: Callable[..., Scorer],
        task: Task,
        threads: int,
        counter: Any,
    ) -> None:
        ray.get(counter.add_start.remote())  # arrives before a model that kills its process
        if threads:
            torch.set_num_threads(min(threads, os.cpu_count() or 1))  # Ray may be configured with more CPUs than exist
        self.task = task
        self.counter = counter
        packed: PackedNetwork = ray.get(network)
        self.scorer = make_scorer(unpack_network(packed), calibration=packed.calibration, owns_network=True)
        try_model(self.scorer)
        counter.add_ready.remote()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score a batch of prepared calls and drop the unsettled ones."""
        is_unsettled = pc.fill_null(pc.equal(batch["status"], UNSETTLED), False)
        unsettled = batch["error_code"].filter(is_unsettled).to_pylist()
        if unsettled:  # only then, since filtering copies all samples
            batch = batch.filter(pc.invert(is_unsettled))
        started = time.monotonic()
        try:
            scored = _with_lineage(self.scorer.score_batch(batch, self.task.schema), self.task)
        except torch.AcceleratorError:
            # CUDA cannot be used in this process any more; Ray sends the same calls to a new one.
            logger.exception("the GPU failed; this process exits and is replaced")
            os._exit(1)
        num_unavailable = unsettled.count(RejectCode.STORAGE_UNAVAILABLE)
        counted = self.counter.add.remote(figures_of(scored, num_unavailable, time.monotonic() - started))
        if unsettled:
            ray.get(counted)  # the run's outcome depends on this count, so it must arrive before the run ends
        return scored


def figures_of(scored: pa.Table, num_unavailable: int, seconds: float) -> Batch:
    """Return the figures of a batch of scored calls, rejects included.

    Args:
        scored: the calls, with the columns of `leads.schema.OUTCOME`.
        num_unavailable: number of calls left out because storage did not deliver their recordings.
        seconds: seconds that scoring took.
    """
    outcomes = pc.value_counts(pc.fill_null(scored["error_code"], SCORED)).to_pylist()
    reasons = pc.value_counts(scored["unranked_reason"].drop_null()).to_pylist()
    return Batch(
        outcomes={outcome["values"]: outcome["counts"] for outcome in outcomes},
        unavailable=num_unavailable,
        audio_sec=pc.sum(scored["duration_sec"]).as_py() or 0.0,
        seconds=seconds,
        failure=failure_of(scored),
        unranked={reason["values"]: reason["counts"] for reason in reasons},
    )


def _with_lineage(scored: pa.Table, task: Task) -> pa.Table:
    """Fill the columns of `LINEAGE`."""
    lineage = {"model_version": task.model_version, "run_id": task.run_id, "scored_at": dt.datetime.now(dt.UTC)}
    for field in LINEAGE:
        values = pa.repeat(pa.scalar(lineage[field.name], field.type), len(scored))
        scored = scored.set_column(scored.schema.get_field_index(field.name), field, values)
    return scored


def fit_to_cpus(config: PipelineConfig, num_calls: int, batch_calls: int = BATCH_CALLS) -> PipelineConfig:
    """Set the sizes of batches and blocks to fit a number of calls and the CPUs of the cluster.

    Every CPU gets several blocks, none larger than `config.block_calls`. Batches and blocks are multiples of each
    other: Ray Data hands over whole blocks and would otherwise cut off a small batch at the end of each.

    Args:
        config: distribution of the work.
        num_calls: number of calls to prepare.
        batch_calls: number of calls in a batch if `config.batch_calls` is 0.
    """
    batch_calls, block_calls = fit_blocks(config.batch_calls or batch_calls, config.block_calls, num_calls)
    return replace(config, block_calls=block_calls, batch_calls=batch_calls)


def _fit_to_machines(config: PipelineConfig, pool: ActorPool, num_calls: int) -> PipelineConfig:
    """Set the sizes of batches and blocks for this pool of scorers, and log them."""
    config = fit_to_cpus(config, num_calls, GPU_BATCH_CALLS if pool.gpus else BATCH_CALLS)
    logger.info("batches of %d calls, blocks of %d", config.batch_calls, config.block_calls)
    return config
