"""Training on Ray Train: prepare the calls, train in workers, and write the folder of the trained model.

The calls are prepared once and written to the folder of the run, and every epoch streams them from there. The folder
holds the checkpoints as well, so that the same command resumes a run that was interrupted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
from ray.data import DataContext
from ray.exceptions import RayError
from transformers import PreTrainedTokenizerBase

import msmtfn
from msmtfn import storage
from msmtfn.errors import TrainingDataError, TrainingError
from msmtfn.evaluation.labelled import LabelledSplit, keep_ready
from msmtfn.features.prepare import PrepareConfig
from msmtfn.model.base import CallNetwork
from msmtfn.model.checkpoint import Model, PackedNetwork, pack_network, save_model, unpack_network
from msmtfn.training.augmentation import Augmenter
from msmtfn.training.calls import LabelledCall, embedded_calls, prepared_calls
from msmtfn.training.curves import plot_curves
from msmtfn.training.datasets import embed_split, open_calls, prepare_split, prepared_folder
from msmtfn.training.events import EpochDone, Report, StepDone, TrainingStarted, format_epochs
from msmtfn.training.loop import Loop, NotFiniteError
from msmtfn.training.model_card import write_card
from msmtfn.training.pretraining import learn_prosody
from msmtfn.training.progress import Progress, ProgressBoard, report_progress
from msmtfn.training.recipe import Recipe
from msmtfn.training.resources import ClusterConfig
from msmtfn.training.shares import EpochShares
from msmtfn.training.states import RUN_NAME, delete_broken_snapshot, find_state, load_state, save_state

logger = logging.getLogger(__name__)

EPOCHS_NAME, CURVES_NAME = "epochs.jsonl", "curves.png"
SHUFFLED_CALLS: Final = 256
"""Size of a worker's shuffle buffer, in calls, which mixes the calls of several files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """All options of training."""

    recipe: Recipe = field(default_factory=Recipe)
    """Hyperparameters and other choices that decide what the network learns."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """Workers and their resources."""
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """How recordings are turned into the network's inputs."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """The input of one training run.

    Attributes:
        training: the calls to learn from.
        validation: the calls whose loss decides when training stops and which epoch is the best.
        model: the model to start from.
        about: one line on the origin of that model, for the model card.
        work: folder for work in progress, local or on S3, that all machines can reach.
        name: name of the run; a run with the same name resumes this one.
        calls: folder of the prepared calls; runs with the same calls, seed and preparation may share it. None stores
            them in the folder of this run.
    """

    training: LabelledSplit
    validation: LabelledSplit
    model: Model
    about: str
    work: str
    name: str
    calls: str | None = None


@dataclass(frozen=True, slots=True)
class _WorkerSettings:
    """The settings that every worker receives."""

    network: ray.ObjectRef[PackedNetwork]
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    threads: int
    steps_per_epoch: int
    training_intents: npt.NDArray[np.int64]
    folder: str
    training: str
    validation: str
    board: Any


def fingerprint(splits: Sequence[LabelledSplit], start: str, config: TrainingConfig) -> str:
    """Return 12 hexadecimal digits that identify everything that decides what is learned.

    Args:
        splits: all calls of the run.
        start: identifies the model that training starts from, such as a digest of its weights.
        config: options of the training.
    """
    identity = [
        *(split.fingerprint() for split in splits),
        start,
        asdict(config.recipe),
        config.prepare.identity(),
        config.cluster.num_workers,
        msmtfn.__version__,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


def train_model(run: TrainingRun, config: TrainingConfig, report: Report) -> Path:
    """Train a model, or resume the run of the same name; Ray must be running.

    Args:
        run: the calls, the model to start from, and where to keep work in progress.
        config: options of the training.
        report: receives the events of the run every few seconds, from another thread.

    Returns:
        A local temporary folder with the model, its card, the figures of every epoch and their plot.

    Raises:
        JobError: the calls cannot be used, or training failed; the same run resumes where it stopped.
    """
    folder = storage.join(storage.absolute(run.work), run.name)
    calls = folder if run.calls is None else storage.absolute(run.calls)
    with _ray_data_settings():
        splits = [
            prepare_split(split, run.model, config.prepare, config.recipe.seed, calls)
            for split in (run.training, run.validation)
        ]
        folders = [prepared_folder(calls, split.name) for split in splits]
        if config.recipe.prosody_epochs and run.model.network.config.modalities != "text":
            pretrained = learn_prosody(
                run.model,
                folders[0],
                calls,
                num_epochs=config.recipe.prosody_epochs,
                seed=config.recipe.seed,
                cpus=config.cluster.cpus_per_worker,
                gpus=config.cluster.gpus_per_worker,
                max_failures=config.cluster.max_failures,
            )
            run = replace(run, model=pretrained)
        if config.recipe.embedded != "nothing":
            folders = [
                embed_split(
                    split,
                    run.model,
                    calls,
                    with_text=config.recipe.embedded == "encoders",
                    num_actors=config.cluster.num_workers,
                    threads=config.cluster.cpus_per_worker,
                    gpus=config.cluster.gpus_per_worker,
                )
                for split in splits
            ]
        state = _fit(run, config, folder, folders, splits, report)
    return _write_model(run, config, splits, state)


@contextlib.contextmanager
def _ray_data_settings() -> Iterator[None]:
    """Set the options of Ray Data for this training only; other datasets of the process keep theirs."""
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # else two equal runs would see the calls in different orders
    with DataContext.current(context):
        yield


def _fit(
    run: TrainingRun,
    config: TrainingConfig,
    folder: str,
    call_folders: list[str],
    splits: list[LabelledSplit],
    report: Report,
) -> dict[str, Any]:
    """Train in workers and return the state after the last epoch."""
    recipe, cluster = config.recipe, config.cluster
    calls_per_worker = len(splits[0].rows) // cluster.num_workers
    if not calls_per_worker:
        raise TrainingDataError(
            f"{len(splits[0].rows)} training calls are too few for {cluster.num_workers} workers; use fewer workers"
        )
    filesystem, path = storage.arrow_filesystem_of(folder)
    delete_broken_snapshot(folder)
    with _progress_board(report) as board:
        settings = _WorkerSettings(
            network=ray.put(pack_network(run.model.network)),
            tokenizer=run.model.tokenizer,
            recipe=recipe,
            threads=min(cluster.cpus_per_worker, os.cpu_count() or 1),
            steps_per_epoch=-(-calls_per_worker // recipe.calls_per_step),
            training_intents=splits[0].intents,
            folder=folder,
            training=call_folders[0],
            validation=call_folders[1],
            board=board,
        )
        trainer = ray.train.torch.TorchTrainer(
            _train_loop_per_worker,
            train_loop_config={"settings": settings},
            scaling_config=ray.train.ScalingConfig(
                num_workers=cluster.num_workers,
                use_gpu=cluster.gpus_per_worker > 0,
                resources_per_worker={"CPU": cluster.cpus_per_worker}
                | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
            ),
            run_config=ray.train.RunConfig(
                name=RUN_NAME,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        result = _run_trainer(trainer)
        # The reason comes from the board and not from `ray.train.report`: a report without a checkpoint is lost, and
        # with one an epoch that was never finished would pass for the last.
        stop_reason = ray.get(board.why_stopped.remote())
    if stop_reason:
        raise TrainingError(stop_reason)
    if result.checkpoint is None:
        raise TrainingError("training ended without a checkpoint; the log above says why")
    return load_state(result.checkpoint)


def _run_trainer(trainer: ray.train.torch.TorchTrainer) -> ray.train.Result:
    try:
        return trainer.fit()
    except (RayError, ray.train.TrainingFailedError) as exc:
        logger.exception("training failed")
        reason = " ".join(str(exc).split())[-300:]
        raise TrainingError(
            f"training failed more often than --max-failures allows ({reason}); run the same command again to resume "
            "from the last epoch"
        ) from exc


def _train_loop_per_worker(config: dict[str, Any]) -> None:
    settings: _WorkerSettings = config["settings"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(settings.threads)
    network = unpack_network(ray.get(settings.network))
    recipe = settings.recipe
    loop = Loop(
        network,
        recipe,
        _StoredCalls(network, settings, rank, world_size),
        steps_per_epoch=settings.steps_per_epoch,
        training_intents=settings.training_intents,
        augmenter=_augmenter(settings, network),
        device=device,
        on_step=partial(_post_step, settings.board) if rank == 0 else lambda _: None,
    )
    state = find_state(ray.train.get_checkpoint(), settings.folder)
    if state is not None:
        loop.load_state_dict(state)
    if rank == 0:
        settings.board.post.remote(TrainingStarted(first_epoch=len(loop.epochs), num_workers=world_size))
    try:
        loop.run(partial(_save_epoch, settings, rank))
    except NotFiniteError as exc:  # a retry would end the same way, so this must not count as a failed worker
        if rank == 0:
            ray.get(settings.board.stop.remote(str(exc)))


def _augmenter(settings: _WorkerSettings, network: CallNetwork) -> Augmenter | None:
    augmentation = settings.recipe.augmentation
    if augmentation.augment == "none":
        return None
    config = network.config
    return Augmenter(
        augmentation, settings.tokenizer, config.encoder_sample_rate, config.max_round_samples, settings.recipe.seed
    )


def _post_step(board: Any, step: StepDone) -> None:
    board.post.remote(step)


def _save_epoch(settings: _WorkerSettings, rank: int, loop: Loop) -> None:
    """Save a checkpoint and the figures of all epochs so far."""
    epoch = loop.epochs[-1]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            save_state(loop.state_dict(), Path(folder))
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            storage.write_text(storage.join(settings.folder, EPOCHS_NAME), format_epochs(loop.epochs))
            settings.board.post.remote(epoch)
        ray.train.report(epoch.as_row(), checkpoint=checkpoint)


class _StoredCalls:
    """The calls of one worker: its share of the training calls, and every n-th validation call for n workers."""

    def __init__(self, network: CallNetwork, settings: _WorkerSettings, rank: int, world_size: int) -> None:
        self.recipe, self.rank, self.world_size = settings.recipe, rank, world_size
        self.training_calls = EpochShares(settings.training)
        self.validation_folder = settings.validation
        text_size = network.config.text.hidden_size if self.recipe.embedded == "encoders" else None
        self.sizes = network.config.audio.hidden_size, text_size

    def training(self, epoch: int, size: int) -> Iterator[list[LabelledCall]]:
        """Yield this worker's share of the training calls in the epoch's order; all shares have the same size."""
        rng = np.random.default_rng([self.recipe.seed, epoch, self.rank])
        waiting: list[LabelledCall] = []
        for table in self.training_calls.read([self.recipe.seed, epoch], self.rank, self.world_size):
            waiting.extend(self._calls(table))
            while len(waiting) >= SHUFFLED_CALLS + size:
                yield _draw(waiting, size, rng)
        while waiting:
            yield _draw(waiting, size, rng)

    def validation(self, size: int) -> Iterator[list[LabelledCall]]:
        """Yield this worker's share of the validation calls; the shares differ by one call at most."""
        first = 0
        for batch in open_calls(self.validation_folder).to_batches(batch_size=size):
            ready = keep_ready(pa.Table.from_batches([batch]))
            mine = np.flatnonzero((np.arange(len(ready)) + first) % self.world_size == self.rank)
            first += len(ready)
            if len(mine):
                yield self._calls(ready.take(pa.array(mine)))

    def _calls(self, batch: pa.Table) -> list[LabelledCall]:
        return prepared_calls(batch) if self.recipe.embedded == "nothing" else embedded_calls(batch, *self.sizes)


def _draw(calls: list[LabelledCall], size: int, rng: np.random.Generator) -> list[LabelledCall]:
    """Take at most `size` calls out of the list at random."""
    drawn = []
    for _ in range(min(size, len(calls))):
        index = rng.integers(len(calls))
        calls[index], calls[-1] = calls[-1], calls[index]
        drawn.append(calls.pop())
    return drawn


@contextlib.contextmanager
def _progress_board(report: Report) -> Iterator[Any]:
    """Make an actor of a progress board, and report its events while the block runs."""
    remote: Any = ray.remote(ProgressBoard)
    board = remote.options(num_cpus=0).remote()

    def read() -> Progress | None:
        try:
            progress: Progress = ray.get(board.read.remote())
        except RayError:  # missing figures are no reason to end the training
            return None
        return progress

    with report_progress(read, report):
        yield board


def _write_model(run: TrainingRun, config: TrainingConfig, splits: list[LabelledSplit], state: dict[str, Any]) -> Path:
    """Write the folder of the best epoch's model and return its path."""
    network = run.model.network
    network.load_state_dict(state["best"])
    network.config.is_trained = True
    epochs = [EpochDone.from_fields(each) for each in state["epochs"]]
    folder = Path(tempfile.mkdtemp(prefix="msmtfn-model-"))
    card = write_card(network, config.recipe, splits, epochs, config.cluster.num_workers, run.about)
    activity = run.model.processor.with_options(config.prepare.activity).config.activity
    save_model(network, run.model.tokenizer, folder, card, activity)
    (folder / EPOCHS_NAME).write_text(format_epochs(epochs))
    (folder / CURVES_NAME).write_bytes(plot_curves(epochs))
    return folder
