"""The calls of a training run on Ray Data: prepared once, embedded once where the encoders are frozen, then read.

Every epoch reads what stands in the run's folder, so that none decodes a recording again.
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
from msmtfn.errors import RejectCode, StorageError, TrainingDataError
from msmtfn.evaluation.labelled import LabelledSplit, keep_ready
from msmtfn.features.prepare import INPUTS, PrepareConfig, Preparer
from msmtfn.inference.scorer import BATCH_CALLS, split_calls
from msmtfn.leads.drift import Distribution, describe
from msmtfn.model.checkpoint import Model, PackedNetwork, pack_network, unpack_network, weights_digest
from msmtfn.rows import ROW_ID
from msmtfn.scoring.counter import open_counter
from msmtfn.scoring.pipeline import PipelineConfig, fit_to_cpus, prepared_dataset
from msmtfn.training.embedding import Embedder

logger = logging.getLogger(__name__)

PASSED: Final = (ROW_ID, "call_id", "intent", "language")
CALLS_AT_ONCE: Final = 256
FIGURES: Final = ("duration_sec", "num_rounds", "num_tokens", "loudness_dbfs", "language")


def prepare_split(split: LabelledSplit, model: Model, prepare: PrepareConfig, seed: int, folder: str) -> LabelledSplit:
    """Write a split's calls, in a random order and as the network reads them, to the run's folder, once.

    Args:
        split: its calls.
        model: whose network will read them.
        prepare: how recordings become its inputs.
        seed: of the order.
        folder: of the run.

    Returns:
        The split without the calls that cannot be prepared.

    Raises:
        TrainingDataError: none can.
    """
    order = np.random.default_rng(seed).permutation(len(split.rows))
    rows = split.rows.take(pa.array(order))
    rows = rows.set_column(0, ROW_ID, pa.array(np.arange(len(rows))))
    place, marker = prepared_place(folder, split.name), storage.join(folder, f"{split.name}.json")
    if not storage.exists(marker):
        calls = storage.join(folder, f"{split.name}-calls")
        for old in (calls, place):
            storage.delete(old)
        storage.make_folder(calls)
        storage.write_parquet(storage.join(calls, "calls.parquet"), rows)
        preparer = Preparer(prepare, model.network.config, model.tokenizer, storage.absolute(split.root))
        with open_counter(split.name) as counter:
            prepared = prepared_dataset(calls, preparer, PASSED, fit_to_cpus(PipelineConfig(), len(rows)), counter)
            prepared.write_datasink(OrderedParquet(place))
    seen = open_calls(place).to_table(columns=[ROW_ID, "status", "error_code"])
    reasons = Counter(seen["error_code"].drop_null().to_pylist())
    if failed := reasons[RejectCode.STORAGE_UNAVAILABLE]:
        raise StorageError(
            f"storage did not give {failed} of the {split.name} recordings; see that it answers, and takes the "
            "credentials of every machine; then run the same command again"
        )
    if not storage.exists(marker):
        storage.write_text(marker, json.dumps({"calls": len(rows)}) + "\n")
    if reasons:
        logger.warning("%s: %d calls cannot be learned from: %s", split.name, reasons.total(), dict(reasons))
    ready = seen.filter(pc.is_null(seen["status"]))[ROW_ID].sort()
    if not len(ready):
        raise TrainingDataError(f"none of the {split.name} calls can be read: {dict(reasons)}")
    return replace(split, rows=rows.take(ready))


def prepared_place(folder: str, name: str) -> str:
    """Where a split's prepared calls stand in a run's folder."""
    return storage.join(folder, f"{name}-prepared")


def open_calls(place: str) -> pads.Dataset:
    """All calls of a prepared or embedded split, for one process."""
    filesystem, path = storage.arrow_filesystem_of(place)
    return pads.dataset(path, filesystem=filesystem, format="parquet")


def read_rounds(place: str) -> Iterator[list[npt.NDArray[np.int16]]]:
    """The samples of all rounds of a prepared split's ready calls, those of some calls at a time, in one order."""
    for batch in open_calls(place).to_batches(columns=["status", *INPUTS.names], batch_size=CALLS_AT_ONCE):
        ready = pa.Table.from_batches([batch.filter(pc.is_null(batch["status"]))])
        yield [each for call in split_calls(ready) for each in call.samples]


def longest_round(place: str) -> int:
    """Samples of the longest round of a prepared split's ready calls."""
    columns = open_calls(place).to_table(columns=["status", "round_samples"])
    ready = columns.filter(pc.is_null(columns["status"]))
    return int(pc.max(pc.list_flatten(ready["round_samples"])).as_py() or 0)


def prepared_figures(folder: str, name: str) -> pa.Table:
    """How long, how loud and so on the calls of a prepared split are: `FIGURES`, a row a call that is ready."""
    columns = open_calls(prepared_place(folder, name)).to_table(columns=["status", *FIGURES])
    return columns.filter(pc.is_null(columns["status"]))


class OrderedParquet(BlockBasedFileDatasink):
    """Writes a dataset to a folder so that its rows are read back in its order, where the engine preserves that.

    `Dataset.write_parquet` has several threads write the blocks of a file, in whatever order they get there.
    """

    def __init__(self, place: str) -> None:
        filesystem, path = storage.arrow_filesystem_of(place)
        super().__init__(path, filesystem=filesystem, file_format="parquet")

    def write_block_to_file(self, block: BlockAccessor, file: pa.NativeFile) -> None:
        """Write what one task has to write."""
        pq.write_table(block.to_arrow(), file, compression="lz4")  # sound hardly gets smaller


def read_calls(place: str) -> ray.data.Dataset:
    """The ready calls of a prepared or embedded split, for shards of them."""
    filesystem, path = storage.arrow_filesystem_of(place)
    dataset = ray.data.read_parquet(path, filesystem=filesystem, partitioning=None)
    return dataset.map_batches(keep_ready, batch_format="pyarrow", batch_size=None, zero_copy_batch=True)


def embed_split(
    split: LabelledSplit, model: Model, folder: str, *, with_text: bool, num_actors: int, threads: int, gpus: float
) -> str:
    """Write the encoders' states of a split's prepared calls to the run's folder, once.

    Args:
        split: its calls.
        model: whose encoders embed them.
        folder: of the prepared calls; runs with other encoders may share it.
        with_text: whether the text encoder's states are written, too; the tokens always are.
        num_actors: processes that hold the encoders.
        threads: of each, where it has no GPU.
        gpus: share of a GPU that each takes.

    Returns:
        Where they stand.
    """
    network = model.network
    encoders = [network.audio_encoder, network.text_encoder] if with_text else [network.audio_encoder]
    identity = json.dumps([network.config.modalities, *map(weights_digest, encoders)])
    place = storage.join(folder, f"{split.name}-embedded-{hashlib.sha256(identity.encode()).hexdigest()[:12]}")
    marker = f"{place}.json"
    if storage.exists(marker):
        return place
    storage.delete(place)
    started = time.monotonic()
    read_calls(prepared_place(folder, split.name)).map_batches(
        EmbeddingActor,
        fn_constructor_args=(ray.put(pack_network(network)), with_text, threads),
        batch_size=BATCH_CALLS,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=num_actors),
        num_cpus=0,  # its threads are set by hand
        num_gpus=gpus,
    ).write_datasink(OrderedParquet(place))
    seconds = time.monotonic() - started
    logger.info("%s: %d calls embedded in %.1f s", split.name, len(split.rows), seconds)
    storage.write_text(marker, json.dumps({"seconds": round(seconds, 3)}) + "\n")
    return place


class EmbeddingActor:
    """Holds the encoders while the calls are embedded."""

    def __init__(self, network: ray.ObjectRef[PackedNetwork], with_text: bool, threads: int) -> None:
        torch.set_num_threads(min(threads, os.cpu_count() or 1))
        self.embedder = Embedder(unpack_network(ray.get(network)), with_text=with_text)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Embed a batch of prepared calls."""
        return self.embedder.embed_batch(batch)


def describe_calls(folder: str, judged: pa.Table) -> Distribution:
    """The distribution of the calls that a model was made on.

    Of what is known before a model listens, that of the training calls; of its probabilities, that of calls that it
    did not learn from, since it is surer of those that it knows by heart.

    Args:
        folder: of the training run, with its prepared calls.
        judged: validation calls as the new model has scored them.
    """
    return describe(prepared_figures(folder, "training")) | describe(judged.select(["five"]))
