"""Parts of a graph on Ray Data that scoring and transcription share: the first stage, sizes, pool, checkpoint, errors.

A call stays one row from read to write, with the `row_id` by which Ray Data's checkpoint identifies it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from msmtfn import storage
from msmtfn.compat.ray import limit_queued_blocks, watch_blocks
from msmtfn.daily.counter import OUR_FAILURES, RunFigures, prepare_counted
from msmtfn.daily.fuse import RESUME, Fuse, cause_of
from msmtfn.daily.graph import Task
from msmtfn.errors import ScoringError, require
from msmtfn.features.sandbox import BatchPreparer, SandboxConfig, SandboxedPreparer
from msmtfn.rows import ROW_ID

logger = logging.getLogger(__name__)

CPUS_PER_ACTOR: Final = 8
"""Without a GPU: CPUs, and so threads, of an actor that runs a model."""

BACKPRESSURE_RATIO: Final = 2.0
"""Maximum bytes of prepared calls that wait for the actors, relative to the bytes of the batches being processed."""

BLOCKS_PER_CPU: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class PassConfig:
    """Options of a pass over the day's calls, whatever is done with them."""

    block_calls: int = 64
    """Maximum number of calls that are committed together; fewer if the day is small for the cluster's CPUs."""
    max_retries: int = 3
    """Number of times a batch of calls is retried when its process dies; then its calls are tried one by one."""
    max_crashed_share: float = 0.05
    """Maximum share of the day's calls, and at least one call, that may be rejected because their processes died; with
    more the job fails, since the calls are then not to blame."""
    progress_sec: float = 2.0
    """Seconds between two progress reports."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a number is out of range.
        """
        require(self.block_calls >= 1, "block_calls", self.block_calls, "at least 1")
        require(self.max_retries >= 0, "max_retries", self.max_retries, "at least 0")
        require(0 <= self.max_crashed_share <= 1, "max_crashed_share", self.max_crashed_share, "between 0 and 1")
        require(self.progress_sec > 0, "progress_sec", self.progress_sec, "more than 0")


@dataclass(frozen=True, slots=True)
class ActorPool:
    """Size of a pool of actors that run a model, and GPUs and threads of each (0 threads on a GPU)."""

    size: int
    gpus: float
    threads: int

    def strategy(self, *, alone: bool) -> ActorPoolStrategy:
        """Return the pool for Ray Data; `alone` hands each actor one batch at a time."""
        return ActorPoolStrategy(
            min_size=self.size,
            max_size=self.size,
            max_tasks_in_flight_per_actor=1 if alone else None,  # tasks queued at an actor die with it
        )


def plan_pool(name: str, device: str, num_actors: int, gpus_per_actor: float, threads_per_actor: int) -> ActorPool:
    """Plan a pool of actors for the cluster's machines, and log it.

    Args:
        name: what the actors are called in the log.
        device: `auto`, `cpu` or `cuda`.
        num_actors: number of actors; 0 means one per GPU, or one per `CPUS_PER_ACTOR` CPUs if there is no GPU.
        gpus_per_actor: GPUs of each, possibly a fraction.
        threads_per_actor: threads of each on CPUs; 0 means all CPUs of the smallest node, at most `CPUS_PER_ACTOR`.
    """
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), resources.get("GPU", 0.0)
    # An autoscaling cluster may have no GPU yet: with an explicit device "cuda", actors that need one make it grow.
    if device == "cuda" or (device == "auto" and gpus):
        pool = ActorPool(num_actors or max(1, int(gpus / gpus_per_actor)), gpus_per_actor, 0)
    else:
        # Head nodes that run no tasks declare no CPUs.
        node_cpus = min((int(count) for node in ray.nodes() if (count := node["Resources"].get("CPU"))), default=1)
        threads = threads_per_actor or max(1, min(CPUS_PER_ACTOR, node_cpus))
        pool = ActorPool(num_actors or max(1, cpus // CPUS_PER_ACTOR), 0.0, threads)
    logger.info(
        "%d CPUs, %g GPUs: %d %s, %g GPUs each, %d threads each", cpus, gpus, pool.size, name, pool.gpus, pool.threads
    )
    return pool


def fit_blocks(batch_calls: int, block_calls: int, num_calls: int) -> tuple[int, int]:
    """Return the number of calls of a batch and of a block, to fit a number of calls and the CPUs of the cluster.

    Every CPU gets several blocks, none larger than `block_calls`. Batches and blocks are multiples of each other: Ray
    Data hands over whole blocks and would otherwise cut off a small batch at the end of each.
    """
    blocks = BLOCKS_PER_CPU * int(ray.cluster_resources().get("CPU", 1))
    block_calls = max(1, min(block_calls, -(-num_calls // blocks)))
    while batch_calls % block_calls and block_calls % batch_calls:
        block_calls -= 1
    return batch_calls, block_calls


def sandboxed_dataset(
    calls: str,
    preparer: BatchPreparer,
    guard: SandboxConfig,
    columns: tuple[Sequence[str], pa.Schema],
    batch: tuple[int, int, int],
    counter: Any,
) -> ray.data.Dataset:
    """Return a lazy dataset of calls that a preparer has prepared, in Ray tasks on CPUs, each with a child process.

    Args:
        calls: folder of Parquet files with the manifest's rows.
        preparer: prepares calls.
        guard: limits on preparing one call.
        columns: names of the manifest's columns that pass through, and the columns that the preparer adds.
        batch: numbers of calls in a batch and in a block, and of retries where a worker dies.
        counter: `RunCounter` actor that counts the prepared calls.
    """
    # Ray 2.64 is to drop `ray_remote_args`, but there is no other way to limit the retries of the tasks.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    sandboxed = SandboxedPreparer(preparer, guard, *columns)
    filesystem, path = storage.arrow_filesystem_of(calls)
    batch_calls, block_calls, max_retries = batch
    return (
        ray.data.read_parquet(path, filesystem=filesystem, partitioning=None)
        .repartition(target_num_rows_per_block=block_calls)
        .map_batches(
            # Functions of light modules: importing a graph's would cost the worker of every task seconds.
            partial(prepare_counted, sandboxed.prepare_batch, counter),
            batch_size=batch_calls,
            batch_format="pyarrow",
            zero_copy_batch=True,
            max_retries=max_retries,
        )
    )


def passthrough_columns(schema: pa.Schema) -> list[str]:
    """Return the columns of a run's parts that come from the manifest: those before the first that a graph adds."""
    return list(schema.names[: schema.names.index("status")])


def make_fuse(task: Task, pool: ActorPool, config: PassConfig, *, alone: bool, num_left: int | None) -> Fuse:
    """Make the fuse of a pass.

    Args:
        task: the calls.
        pool: actors that run the model.
        config: options of the pass.
        alone: whether the pass tries calls one by one.
        num_left: number of calls that are not committed; None means all.
    """
    return Fuse(
        folder=task.folder.path,
        pool_size=pool.size,
        num_cpus=int(ray.cluster_resources().get("CPU", 1)),
        allowed=max(1, int(config.max_crashed_share * task.num_calls)),
        alone=alone,
        begun=num_left is not None and num_left < task.num_calls,
    )


@contextlib.contextmanager
def ray_data_settings(task: Task, filesystem: pa.fs.FileSystem, fuse: Fuse) -> Iterator[None]:
    """Set the options of Ray Data for this graph only; other datasets of the process keep theirs.

    Args:
        task: what to read and where to write.
        filesystem: file system of the run's folder.
        fuse: ends the graph if what fails cannot be mended.
    """
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    # Otherwise Ray Data warns every half minute that a network takes much memory.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    # Committed calls are recorded, and those of earlier runs are skipped.
    context.checkpoint_config = CheckpointConfig(
        ROW_ID, task.folder.checkpoint, override_filesystem=filesystem, delete_checkpoint_on_success=False
    )
    # Backpressure: no more calls are prepared than the actors will soon need.
    with (
        limit_queued_blocks(context, BACKPRESSURE_RATIO),
        watch_blocks(context, fuse.find_failure, fuse.add_failed_block),
        DataContext.current(context),
    ):
        try:
            yield
        finally:
            fuse.log_repeated()


@contextlib.contextmanager
def translate_errors(graph: str) -> Iterator[None]:
    """Turn errors of Ray Data into a one-line `ScoringError` that says what to do, and log the full error."""
    try:
        yield
    except (RayError, pa.ArrowException, OSError, ValueError) as exc:
        logger.exception("the %s graph failed", graph)
        cause = f"{type(exc).__name__}: {cause_of(exc)}; more above"
        raise ScoringError(f"the {graph} graph failed ({cause}); {RESUME}") from exc


def report_figures(counter: Any, report: Callable[[int, int], None], fuse: Fuse) -> None:
    """Report the counter's figures, also to the fuse."""
    with contextlib.suppress(RayError):  # missing figures must not fail the run
        figures: RunFigures = ray.get(counter.read.remote())
        report(figures.done, figures.rejected)
        fuse.see(figures)


def final_figures(counter: Any, fuse: Fuse) -> RunFigures:
    """Return the counter's figures at the end of a pass, with the cause of what has failed."""
    figures: RunFigures = ray.get(counter.read.remote())
    return replace(figures, cause=fuse.cause)


def failure_of(batch: pa.Table) -> str:
    """Return the code and the detail of a reject for which not the call is to blame; empty if there is none."""
    failed = batch.filter(pc.is_in(batch["error_code"], pa.array(sorted(OUR_FAILURES))))
    return f"{failed['error_code'][0]}: {failed['error_detail'][0]}" if len(failed) else ""
