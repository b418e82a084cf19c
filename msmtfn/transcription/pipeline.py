"""Transcription graph of a day on one page: read, listen, recognise, write. The only module that transcribes with Ray.

A call stays one row from read to write, as in scoring (`scoring/pipeline.py`). The recognisers are actors that hold the
model on a GPU, or on some CPUs; they are gone when the graph ends, so scorers find the GPUs free.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
from ray.data import SaveMode

from msmtfn import storage
from msmtfn.daily.counter import LISTEN, RECOGNISE, Batch, RunFigures, open_counter
from msmtfn.daily.dataset import (
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
from msmtfn.features.sandbox import UNSETTLED
from msmtfn.leads.schema import REJECTED
from msmtfn.progress import poll
from msmtfn.rows import ROW_ID
from msmtfn.speech.models import PATTERNS, RecogniserConfig, load_recogniser
from msmtfn.speech.recogniser import Recogniser
from msmtfn.transcription.listening import LISTENED, Listener
from msmtfn.transcription.recognising import BatchRecogniser

logger = logging.getLogger(__name__)

STDERR: Final = 2
"""File descriptor of the worker's log; Ray puts another object in the place of `sys.stderr`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpreadConfig(PassConfig):
    """Distribution of the work over the cluster; no option changes a transcript."""

    batch_calls: int = 16
    """Number of calls that are listened to and recognised together."""
    num_recognisers: int = 0
    """Number of processes that run the recogniser; 0 means one per GPU, or one per 8 CPUs if there is no GPU."""
    gpus_per_recogniser: float = 1.0
    """Number of GPUs per recogniser, possibly a fraction; ignored if there are no GPUs."""
    threads_per_recogniser: int = 0
    """Number of threads per recogniser on a machine without a GPU; 0 means all its CPUs, at most 8."""
    asr_timeout_sec: float = 600.0
    """Seconds that a recogniser may take for one batch of clips; a call for which it takes longer even alone is
    rejected."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a number is out of range.
        """
        PassConfig.__post_init__(self)  # `super()` does not work in a dataclass with slots
        for name, minimum in {"batch_calls": 1, "num_recognisers": 0, "threads_per_recogniser": 0}.items():
            require(getattr(self, name) >= minimum, name, getattr(self, name), f"at least {minimum}")
        for name in ("gpus_per_recogniser", "asr_timeout_sec"):
            require(getattr(self, name) > 0, name, getattr(self, name), "more than 0")


@dataclass(frozen=True, slots=True)
class PackedRecogniser:
    """Recogniser as the content of its files, which Ray brings to every node.

    Attributes:
        files: content of each file, by its name.
        config: how it is run.
    """

    files: dict[str, bytes]
    config: RecogniserConfig

    @classmethod
    def of(cls, folder: Path, config: RecogniserConfig) -> PackedRecogniser:
        """Pack the recogniser in a folder."""
        paths = sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})
        return cls({path.name: path.read_bytes() for path in paths}, config)

    def load(self, *, device: str, threads: int) -> Recogniser:
        """Load the recogniser on this node."""
        with tempfile.TemporaryDirectory(prefix="msmtfn-") as folder:
            for name, data in self.files.items():
                (Path(folder) / name).write_bytes(data)
            return load_recogniser(Path(folder), self.config, device=device, threads=threads)


def transcribe_calls(
    task: Task,
    listener: Listener,
    recogniser: PackedRecogniser,
    make_batch_recogniser: Callable[[Recogniser], BatchRecogniser],
    config: SpreadConfig,
    report: Callable[[int, int], None],
    *,
    alone: bool,
    num_left: int,
) -> RunFigures:
    """Transcribe the calls that no earlier run of the same task has committed; see `daily.graph.RunPass`.

    Args:
        task: what to read and where to write.
        listener: listens to calls, in Ray tasks on CPUs.
        recogniser: sent to the actors through the object store.
        make_batch_recogniser: makes what recognises batches, out of the loaded recogniser.
        config: distribution of the work over the cluster.
        report: called every `progress_sec` with the numbers of calls done and rejected by this run.
        alone: transcribe one call at a time, so that a call that crashes its process affects no other.
        num_left: number of calls not yet committed.

    Raises:
        ScoringError: Ray Data gave up.
    """
    if alone:
        config = replace(config, batch_calls=1, block_calls=1)
    filesystem, parts = storage.arrow_filesystem_of(task.folder.parts)
    device = recogniser.config.recogniser_device
    pool = plan_pool(
        "recognisers", device, config.num_recognisers, config.gpus_per_recogniser, config.threads_per_recogniser
    )
    batch = (*fit_blocks(config.batch_calls, config.block_calls, task.num_calls), config.max_retries)
    fuse = make_fuse(task, pool, config, alone=alone, num_left=num_left)
    columns = (passthrough_columns(task.schema), LISTENED)
    with (
        open_counter(task.run_id, num_left, (LISTEN, RECOGNISE)) as counter,
        poll(partial(report_figures, counter, report, fuse), config.progress_sec),
        translate_errors("transcription"),
        ray_data_settings(task, filesystem, fuse),
    ):
        listened = sandboxed_dataset(task.folder.calls, listener, listener.config.guard, columns, batch, counter)
        limits = (pool.threads, config.asr_timeout_sec, alone)
        transcribed = listened.map_batches(
            RecognisingActor,
            fn_constructor_args=(ray.put(recogniser), make_batch_recogniser, task.schema, limits, counter),
            batch_size=batch[0],
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=pool.strategy(alone=alone),
            num_cpus=0,  # its threads are set explicitly; the CPUs are counted for tasks and Ray Data's own actors
            num_gpus=pool.gpus,
            max_restarts=-1,  # a pool does not replace a lost actor, and the retries of its calls are finite
            max_task_retries=config.max_retries,
        )
        transcribed.write_parquet(parts, filesystem=filesystem, mode=SaveMode.APPEND, compression="zstd")
        return final_figures(counter, fuse)


class RecognisingActor:
    """Ray actor that recognises batches of calls on one GPU or on some CPU cores, for the whole run.

    A recogniser that never returns is ended by a watchdog, a thread that needs neither the interpreter nor its lock.
    Ray then starts the actor again and hands it the same batch. Whose attempt was ended so is left out, for the pass
    that takes one call at a time, and is rejected there.
    """

    def __init__(
        self,
        recogniser: ray.ObjectRef[PackedRecogniser],
        make_batch_recogniser: Callable[[Recogniser], BatchRecogniser],
        schema: pa.Schema,
        limits: tuple[int, float, bool],
        counter: Any,
    ) -> None:
        ray.get(counter.add_start.remote())  # arrives before a model that kills its process
        threads, self.timeout_sec, self.alone = limits
        threads = min(threads, os.cpu_count() or 1)  # Ray may be configured with more CPUs than exist
        if threads:
            torch.set_num_threads(threads)
        loaded = ray.get(recogniser).load(device="cpu" if threads else "cuda", threads=threads)
        self.batch_recogniser = make_batch_recogniser(loaded)
        self.schema = schema
        self.counter = counter
        self.watched: Sequence[int] = ()
        counter.add_ready.remote()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Recognise a batch of calls and drop those that another pass may settle."""
        is_unsettled = pc.fill_null(pc.equal(batch["status"], UNSETTLED), False)
        unsettled = batch["error_code"].filter(is_unsettled).to_pylist()
        if unsettled:
            batch = batch.filter(pc.invert(is_unsettled))
        row_ids = batch[ROW_ID].to_pylist()
        overdue = ray.get(self.counter.find_overdue.remote(row_ids, self.timeout_sec))
        if overdue:
            logger.warning("rows %s: the recogniser did not return within %g s", overdue, self.timeout_sec)
            batch = self._settle_overdue(batch, overdue)
        started = time.monotonic()
        try:
            transcribed = self.batch_recogniser.recognise_batch(batch, self.schema, self._watch)
        except torch.AcceleratorError:
            # CUDA cannot be used in this process any more; Ray sends the same calls to a new one.
            logger.exception("the GPU failed; this process exits and is replaced")
            os._exit(1)
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.counter.end.remote(self.watched)
        outcomes = pc.value_counts(pc.coalesce(transcribed["error_code"], transcribed["status"])).to_pylist()
        counted = self.counter.add.remote(
            Batch(
                outcomes={outcome["values"]: outcome["counts"] for outcome in outcomes},
                unavailable=unsettled.count(RejectCode.STORAGE_UNAVAILABLE),
                audio_sec=pc.sum(transcribed["duration_sec"]).as_py() or 0.0,
                seconds=time.monotonic() - started,
                failure=failure_of(transcribed),
            )
        )
        if unsettled:
            ray.get(counted)  # the run's outcome depends on this count, so it must arrive before the run ends
        return transcribed

    def _watch(self, row_ids: Sequence[int]) -> None:
        """Set the watchdog before a batch of clips, and note whose clips they are."""
        ray.get(self.counter.begin.remote(row_ids, self.watched))
        self.watched = row_ids
        faulthandler.dump_traceback_later(self.timeout_sec, exit=True, file=STDERR)

    def _settle_overdue(self, batch: pa.Table, overdue: Sequence[int]) -> pa.Table:
        """Leave out the calls whose attempt has not ended, or reject the one that was tried alone."""
        if not self.alone:
            return batch.filter(pc.invert(pc.is_in(batch[ROW_ID], pa.array(overdue, pa.int64()))))
        detail = f"the recogniser did not return within {self.timeout_sec:g} s (--asr-timeout-sec)"
        verdict = {"status": REJECTED, "error_code": str(RejectCode.ASR_TIMEOUT), "error_detail": detail}
        for name, value in verdict.items():
            values = pa.array([value] * len(batch), pa.string())
            batch = batch.set_column(batch.schema.get_field_index(name), name, values)
        return batch
