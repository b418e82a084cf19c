"""The calls of a training run on Ray Data: prepared once, embedded once where encoders are frozen, then read.

Every epoch reads the prepared or embedded calls from the run's folder, so that no recording is decoded twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import ray
import torch
from ray.data import ActorPoolStrategy
from ray.data.block import BlockAccessor
from ray.data.datasource import BlockBasedFileDatasink

from msmtfn import storage
from msmtfn.daily.counter import open_counter
from msmtfn.errors import RejectCode, StorageError, TrainingDataError
from msmtfn.evaluation.labelled import LabelledSplit, keep_ready
from msmtfn.features.prepare import INPUTS, PrepareConfig, Preparer
from msmtfn.inference.scorer import BATCH_CALLS, split_calls
from msmtfn.leads.drift import Distribution, describe
from msmtfn.model.checkpoint import Model, PackedNetwork, pack_network, unpack_network, weights_digest
from msmtfn.rows import ROW_ID
from msmtfn.scoring.pipeline import PipelineConfig, fit_to_cpus, prepared_dataset
from msmtfn.training.embedding import Embedder

logger = logging.getLogger(__name__)

PASSED: Final = (ROW_ID, "call_id", "intent", "language")
CALLS_AT_ONCE: Final = 256
FIGURES: Final = ("duration_sec", "num_rounds", "num_tokens", "loudness_dbfs", "language")


def prepare_split(split: LabelledSplit, model: Model, prepare: PrepareConfig, seed: int, folder: str) -> LabelledSplit:
    """Prepare a split's calls and write them to the run's folder in a random order, unless that is done already.

    Args:
        split: the labelled calls.
        model: the model whose network will be trained on them.
        prepare: how recordings are turned into the network's inputs.
        seed: seed of the order.
        folder: folder of the run.

    Returns:
        The split without the calls that cannot be prepared.

    Raises:
        StorageError: the storage did not deliver a recording; the same run tries again.
        TrainingDataError: no call can be prepared.
    """
    order = np.random.default_rng(seed).permutation(len(split.rows))
    rows = split.rows.take(pa.array(order))
    rows = rows.set_column(0, ROW_ID, pa.array(np.arange(len(rows))))
    target, marker = prepared_folder(folder, split.name), storage.join(folder, f"{split.name}.json")
    if not storage.exists(marker):
        calls = storage.join(folder, f"{split.name}-calls")
        for old in (calls, target):
            storage.delete(old)
        storage.make_folder(calls)
        storage.write_parquet(storage.join(calls, "calls.parquet"), rows)
        preparer = Preparer(prepare, model.processor, storage.absolute(split.root))
        with open_counter(split.name) as counter:
            prepared = prepared_dataset(calls, preparer, PASSED, fit_to_cpus(PipelineConfig(), len(rows)), counter)
            prepared.write_datasink(OrderedParquet(target))
    outcomes = open_calls(target).to_table(columns=[ROW_ID, "status", "error_code"])
    reasons = Counter(outcomes["error_code"].drop_null().to_pylist())
    if failed := reasons[RejectCode.STORAGE_UNAVAILABLE]:
        raise StorageError(
            f"the storage did not deliver {failed} of the {split.name} recordings; check that it can be reached and "
            "accepts the credentials of every machine, then run the same command again"
        )
    if not storage.exists(marker):
        storage.write_text(marker, json.dumps({"calls": len(rows)}) + "\n")
    if reasons:
        logger.warning("%s: %d calls cannot be learned from: %s", split.name, reasons.total(), dict(reasons))
    ready = outcomes.filter(pc.is_null(outcomes["status"]))[ROW_ID].sort()
    if not len(ready):
        raise TrainingDataError(f"none of the {split.name} calls can be prepared: {dict(reasons)}")
    return replace(split, rows=rows.take(ready))


def prepared_folder(folder: str, name: str) -> str:
    """Return the folder of a split's prepared calls inside a run's folder."""
    return storage.join(folder, f"{name}-prepared")


def open_calls(folder: str) -> pads.Dataset:
    """Open all calls of a prepared or embedded split for reading in this process."""
    filesystem, path = storage.arrow_filesystem_of(folder)
    return pads.dataset(path, filesystem=filesystem, format="parquet")


def read_samples(folder: str) -> Iterator[list[npt.NDArray[np.int16]]]:
    """Yield the samples of the rounds of a prepared split's ready calls, some calls at a time, in a fixed order."""
    for batch in open_calls(folder).to_batches(columns=["status", *INPUTS.names], batch_size=CALLS_AT_ONCE):
        ready = pa.Table.from_batches([batch.filter(pc.is_null(batch["status"]))])
        yield [each for call in split_calls(ready) for each in call.samples]


def longest_round(folder: str) -> int:
    """Return the length in samples of the longest round of a prepared split's ready calls."""
    columns = open_calls(folder).to_table(columns=["status", "round_samples"])
    ready = columns.filter(pc.is_null(columns["status"]))
    return int(pc.max(pc.list_flatten(ready["round_samples"])).as_py() or 0)


def prepared_figures(folder: str, name: str) -> pa.Table:
    """Read the columns `FIGURES`, such as duration and loudness, of a prepared split's ready calls."""
    columns = open_calls(prepared_folder(folder, name)).to_table(columns=["status", *FIGURES])
    return columns.filter(pc.is_null(columns["status"]))


class OrderedParquet(BlockBasedFileDatasink):
    """A Parquet sink that keeps the order of the rows, provided that Ray Data preserves it.

    `Dataset.write_parquet` writes the blocks of a file from several threads, in an order that differs between runs.
    """

    def __init__(self, folder: str) -> None:
        filesystem, path = storage.arrow_filesystem_of(folder)
        super().__init__(path, filesystem=filesystem, file_format="parquet")

    def write_block_to_file(self, block: BlockAccessor, file: pa.NativeFile) -> None:
        """Write one block to its file."""
        pq.write_table(block.to_arrow(), file, compression="lz4")  # audio hardly compresses, so the fastest codec wins


def read_calls(folder: str) -> ray.data.Dataset:
    """Return the ready calls of a prepared or embedded split as a Ray dataset."""
    filesystem, path = storage.arrow_filesystem_of(folder)
    dataset = ray.data.read_parquet(path, filesystem=filesystem, partitioning=None)
    return dataset.map_batches(keep_ready, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)


def embed_split(
    split: LabelledSplit, model: Model, folder: str, *, with_text: bool, num_actors: int, threads: int, gpus: float
) -> str:
    """Write the encoders' states of a split's prepared calls to the run's folder, unless that is done already.

    Args:
        split: the prepared calls.
        model: the model whose encoders embed them.
        folder: folder of the prepared calls; runs with other encoders may share it.
        with_text: also write the states of the text encoder; the tokens are always written.
        num_actors: number of processes that hold the encoders.
        threads: threads of each process without a GPU.
        gpus: GPUs per process, which may be a fraction.

    Returns:
        The folder of the embedded calls.
    """
    network = model.network
    encoders = [network.audio_encoder, network.text_encoder] if with_text else [network.audio_encoder]
    identity = json.dumps([network.config.modalities, *map(weights_digest, encoders)])
    target = storage.join(folder, f"{split.name}-embedded-{hashlib.sha256(identity.encode()).hexdigest()[:12]}")
    marker = f"{target}.json"
    if storage.exists(marker):
        return target
    storage.delete(target)
    started = time.monotonic()
    read_calls(prepared_folder(folder, split.name)).map_batches(
        EmbeddingActor,
        fn_constructor_args=(ray.put(pack_network(network)), with_text, threads),
        batch_size=BATCH_CALLS,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=num_actors),
        num_cpus=0,  # the actor sets its own number of threads
        num_gpus=gpus,
    ).write_datasink(OrderedParquet(target))
    seconds = time.monotonic() - started
    logger.info("%s: %d calls embedded in %.1f s", split.name, len(split.rows), seconds)
    storage.write_text(marker, json.dumps({"seconds": round(seconds, 3)}) + "\n")
    return target


class EmbeddingActor:
    """A Ray Data actor that holds the encoders and embeds batches of calls."""

    def __init__(self, network: ray.ObjectRef[PackedNetwork], with_text: bool, threads: int) -> None:
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
        self.embedder = Embedder(unpack_network(ray.get(network)), with_text=with_text)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Embed a batch of prepared calls."""
        return self.embedder.embed_batch(batch)


def describe_calls(folder: str, scored: pa.Table) -> Distribution:
    """Describe the distribution of the calls that a model was trained on, as a reference for drift.

    Inputs, such as duration and loudness, are described on the training calls. The model's probabilities are described
    on the validation calls, because a model is more confident on calls that it has learned from.

    Args:
        folder: folder of the training run, with its prepared calls.
        scored: the validation calls as scored by the new model.
    """
    return describe(prepared_figures(folder, "training")) | describe(scored.select(["five"]))
