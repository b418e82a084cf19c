"""The graph of a day on one page: read, prepare, score, write. The only place where Ray Data is used to score.

A call is one row from read to write, under the `row_id` by which the engine's checkpoint knows it: what a crashed run
has committed is not scored again. What cannot be scored travels on as a reject; a call of which nothing is known yet is
left out at the end, uncommitted, and so is left over for another try (`leftovers`).
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext, SaveMode
from ray.data.checkpoint import CheckpointConfig
from ray.exceptions import RayError

from msmtfn import storage
from msmtfn.compat.ray import limit_waiting_blocks
from msmtfn.errors import RejectCode, ScoringError
from msmtfn.features.prepare import PREPARED, Preparer
from msmtfn.features.sandbox import UNSETTLED, GuardedPreparer
from msmtfn.inference.scorer import BATCH_CALLS, BATCH_CALLS_OF_GPU, Scorer, ScorerConfig
from msmtfn.leads.schema import SCORED
from msmtfn.model.checkpoint import PackedNetwork, unpack_network
from msmtfn.rows import ROW_ID
from msmtfn.scoring.counter import Batch, RunFigures, open_counter, prepare_counted

logger = logging.getLogger(__name__)

CPUS_PER_SCORER: Final = 8
"""Where there is no GPU: threads, each with rounds of its own, for which a batch of calls has enough."""

WAITING_RATIO: Final = 2.0
"""Bytes of prepared calls that may wait for the scorers, to those of the batches that are at the scorers."""

BLOCKS_PER_CPU: Final = 4

LONGEST_CAUSE: Final = 300
"""Characters of what ended the engine, in the job's last line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """How the work is spread over the cluster; none of it changes a result."""

    batch_calls: int = 0
    """Calls that are prepared, and scored, together; 0 takes 16, or 64 where scorers have GPUs."""
    block_calls: int = 64
    """Calls that are committed together, at most; fewer where the day has few for the cluster's CPUs."""
    num_scorers: int = 0
    """Processes that hold the network; 0 takes one for each GPU, or one for each 8 CPUs where there is no GPU."""
    gpus_per_scorer: float = 1.0
    """Share of a GPU that each of them takes, where there are GPUs."""
    threads_per_scorer: int = 0
    """Threads of the network on a machine without a GPU; 0 takes all its CPUs, 8 at most."""
    max_retries: int = 3
    """Times that a batch of calls is tried again after its process has died; then its calls are tried one by one."""
    max_crashed_share: float = 0.05
    """Share of the day's calls, at least one call, that may be rejected because their processes died; more fail the
    job, since then it is not the calls."""
    progress_sec: float = 2.0
    """Seconds between two reports of progress."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        for name, least in {
            "batch_calls": 0,
            "block_calls": 1,
            "num_scorers": 0,
            "threads_per_scorer": 0,
            "max_retries": 0,
        }.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not 0 <= self.max_crashed_share <= 1:
            raise ValueError(f"max_crashed_share is {self.max_crashed_share}; it must be between 0 and 1")
        if self.gpus_per_scorer <= 0 or self.progress_sec <= 0:
            raise ValueError("gpus_per_scorer and progress_sec must be more than 0")


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """What one run of the graph has to do.

    Attributes:
        calls: folder of the run's copy of the manifest.
        parts: folder that the scored calls are written to.
        checkpoint: folder of the engine's notes on what is committed.
        num_calls: calls of the day.
        schema: of the parts.
        model_version: of the network.
        run_id: of the run.
    """

    calls: str
    parts: str
    checkpoint: str
    num_calls: int
    schema: pa.Schema
    model_version: str
    run_id: str


def score_calls(
    task: ScoringTask,
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

    A block whose worker dies more often than the retries allow is left over, uncommitted, and so is a call that kills
    the process in which it is prepared, or for which storage fails; see `leftovers`.

    Args:
        task: what to read and where to write.
        preparer: makes the network's inputs, in tasks on CPUs.
        network: handed to the scorers through the object store.
        scorer: how they run it.
        config: how the work is spread.
        report: told, every so often, how many calls this run has done and rejected so far.
        alone: one call at a time, so that one that kills its process takes no other with it.
        num_left: calls that are not committed; all of the task's where nothing is.
        make_scorer: makes what the actors hold, from `Scorer`'s arguments.

    Returns:
        What was done, and how many calls were left over because storage would not give their recordings.

    Raises:
        ScoringError: the engine gave up.
    """
    if alone:
        config = replace(config, batch_calls=1, block_calls=1)
    filesystem, parts = storage.arrow_filesystem_of(task.parts)
    _configure_engine()
    pool = _plan_scorers(config, scorer)
    config = _fit_to_machines(config, pool, task.num_calls)
    make = partial(make_scorer, config=scorer)
    with (
        open_counter(task.run_id, task.num_calls if num_left is None else num_left) as counter,
        _progress(counter, report, config.progress_sec),
        _explained(),
        _noting_what_is_committed(task, filesystem),
    ):
        (
            prepared_dataset(task.calls, preparer, _passed(task.schema), config, counter)
            .map_batches(
                ScoringActor,
                fn_constructor_args=(ray.put(network), make, task, pool.threads, counter),
                batch_size=config.batch_calls,
                batch_format="pyarrow",
                zero_copy_batch=True,
                compute=ActorPoolStrategy(
                    min_size=pool.size,
                    max_size=pool.size,
                    max_tasks_in_flight_per_actor=1 if alone else None,  # those that wait at an actor die with it
                ),
                num_cpus=0,  # its threads are set by hand; the count is for the tasks and the engine's own actors
                num_gpus=pool.gpus,
                max_restarts=-1,  # a pool does not replace an actor that is gone; its calls' retries are finite
                max_task_retries=config.max_retries,
            )
            .write_parquet(parts, filesystem=filesystem, mode=SaveMode.APPEND, compression="zstd")
        )
        figures: RunFigures = ray.get(counter.read.remote())
        return figures


def prepared_dataset(
    calls: str, preparer: Preparer, passed: Sequence[str], config: PipelineConfig, counter: Any
) -> ray.data.Dataset:
    """The calls of a folder as the network reads them; nothing is read before the dataset is used.

    Args:
        calls: folder of Parquet files with rows of the manifest.
        preparer: makes the network's inputs, in tasks on CPUs.
        passed: the manifest's columns that pass through.
        config: how the work is spread, with sizes of batches and blocks that fit the calls and the machines.
        counter: told which node has prepared how many calls.
    """
    # Retries can be bounded in this way only, whatever is to come in Ray 2.64.
    warnings.filterwarnings("ignore", "`ray_remote_args` is deprecated")
    guarded = GuardedPreparer(preparer, preparer.config.guard, passed, PREPARED)
    filesystem, path = storage.arrow_filesystem_of(calls)
    return (
        ray.data.read_parquet(path, filesystem=filesystem, partitioning=None)
        .repartition(target_num_rows_per_block=config.block_calls)
        .map_batches(
            # Not a function of this module, whose imports would cost each of the tasks' workers seconds.
            partial(prepare_counted, guarded.prepare_batch, counter),
            batch_size=config.batch_calls,
            batch_format="pyarrow",
            zero_copy_batch=True,
            max_retries=config.max_retries,
        )
    )


class ScoringActor:
    """Holds the network of one GPU, or of some cores, for the length of the run."""

    def __init__(
        self,
        network: ray.ObjectRef[PackedNetwork],
        make_scorer: Callable[..., Scorer],
        task: ScoringTask,
        threads: int,
        counter: Any,
    ) -> None:
        if threads:
            torch.set_num_threads(min(threads, os.cpu_count() or 1))  # the cluster's CPUs are what it was told
        self.task = task
        self.counter = counter
        self.scorer = make_scorer(
            unpack_network(ray.get(network)),
            model_version=task.model_version,
            run_id=task.run_id,
            owns_network=True,
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score a batch of prepared calls, but for the unsettled ones, which are left out."""
        is_unsettled = pc.fill_null(pc.equal(batch["status"], UNSETTLED), False)
        unsettled = batch["error_code"].filter(is_unsettled).to_pylist()
        if unsettled:  # to filter is to copy all samples
            batch = batch.filter(pc.invert(is_unsettled))
        started = time.monotonic()
        try:
            scored = self.scorer.score_batch(batch, self.task.schema)
        except torch.AcceleratorError:
            # After it the GPU answers nothing in this process any more: a new one gets the same calls.
            logger.exception("the GPU failed; this process ends")
            os._exit(1)
        outcomes = pc.value_counts(pc.fill_null(scored["error_code"], SCORED)).to_pylist()
        counted = self.counter.add.remote(
            Batch(
                outcomes={each["values"]: each["counts"] for each in outcomes},
                unavailable=unsettled.count(RejectCode.STORAGE_UNAVAILABLE),
                audio_sec=pc.sum(scored["duration_sec"]).as_py() or 0.0,
                seconds=time.monotonic() - started,
            )
        )
        if unsettled:
            ray.get(counted)  # this count decides something, so it must be there before the end
        return scored


@dataclass(frozen=True, slots=True)
class _ScorerPool:
    size: int
    gpus: float
    threads: int


def _passed(schema: pa.Schema) -> list[str]:
    """The columns that come from the manifest: those before the first that scoring adds."""
    return list(schema.names[: schema.names.index("status")])


def _configure_engine() -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    # No more calls are prepared than the scorers will soon need, however many the day has.
    limit_waiting_blocks(context, WAITING_RATIO)
    # It would say every half minute how much memory a network takes.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1


@contextlib.contextmanager
def _noting_what_is_committed(task: ScoringTask, filesystem: pa.fs.FileSystem) -> Iterator[None]:
    """Leave out what earlier runs have committed, of this graph's rows and of no other dataset of the process."""
    context = DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(
        ROW_ID, task.checkpoint, override_filesystem=filesystem, delete_checkpoint_on_success=False
    )
    try:
        yield
    finally:
        context.checkpoint_config = None


def fit_to_cpus(config: PipelineConfig, num_calls: int, batch_calls: int = BATCH_CALLS) -> PipelineConfig:
    """The configuration with sizes of batches and blocks for so many calls on the CPUs of the cluster.

    Enough blocks for every CPU to have several, none larger than the configuration says. A batch is several whole
    blocks, or a block several whole batches: the engine hands over whole blocks, and would cut what does not fit into
    batches with a small one at the end.

    Args:
        config: how the work is spread.
        num_calls: to be prepared.
        batch_calls: calls of a batch where the configuration leaves that open.
    """
    blocks = BLOCKS_PER_CPU * int(ray.cluster_resources().get("CPU", 1))
    batch_calls = config.batch_calls or batch_calls
    block_calls = max(1, min(config.block_calls, -(-num_calls // blocks)))
    while batch_calls % block_calls and block_calls % batch_calls:
        block_calls -= 1
    return replace(config, block_calls=block_calls, batch_calls=batch_calls)


def _fit_to_machines(config: PipelineConfig, pool: _ScorerPool, num_calls: int) -> PipelineConfig:
    """The same for scorers of this pool, with a line on it in the log."""
    config = fit_to_cpus(config, num_calls, BATCH_CALLS_OF_GPU if pool.gpus else BATCH_CALLS)
    logger.info("batches of %d calls, blocks of %d", config.batch_calls, config.block_calls)
    return config


def _plan_scorers(config: PipelineConfig, scorer: ScorerConfig) -> _ScorerPool:
    resources = ray.cluster_resources()
    cpus, gpus = int(resources.get("CPU", 1)), resources.get("GPU", 0.0)
    # A cluster that grows on demand may have no GPU yet: who asks for one by name gets the actors that make it grow.
    if scorer.device == "cuda" or (scorer.device == "auto" and gpus):
        size = config.num_scorers or max(1, int(gpus / config.gpus_per_scorer))
        pool = _ScorerPool(size, config.gpus_per_scorer, 0)
    else:
        size = config.num_scorers or max(1, cpus // CPUS_PER_SCORER)
        # A head node that is to run nothing has no CPU.
        node_cpus = min((int(count) for node in ray.nodes() if (count := node["Resources"].get("CPU"))), default=1)
        threads = config.threads_per_scorer or max(1, min(CPUS_PER_SCORER, node_cpus))
        pool = _ScorerPool(size, 0.0, threads)
    logger.info(
        "%d CPUs, %g GPUs: %d scorers, %g GPUs each, %d threads each", cpus, gpus, pool.size, pool.gpus, pool.threads
    )
    return pool


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Turn what ends the engine into one line that says what to do; the engine's own words go to the log."""
    try:
        yield
    except (RayError, pa.ArrowException, OSError, ValueError) as exc:
        logger.exception("the scoring graph failed")
        cause = str(exc).strip().rpartition("\n")[2][:LONGEST_CAUSE]  # behind the traces of all processes between
        raise ScoringError(
            f"the scoring graph failed ({type(exc).__name__}: {cause}; more above); once that is mended, the same "
            "command goes on where it stopped"
        ) from exc


@contextlib.contextmanager
def _progress(counter: Any, report: Callable[[int, int], None], every_sec: float) -> Iterator[None]:
    """Report what the counter has counted, every so often."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(every_sec):
            with contextlib.suppress(RayError):  # no figures are no reason to fail
                figures: RunFigures = ray.get(counter.read.remote())
                report(figures.done, figures.rejected)

    watcher = threading.Thread(target=watch, daemon=True, name="progress")
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
