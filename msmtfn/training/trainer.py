"""Training on Ray: the calls from their manifests to the workers, the workers, and the model's folder at the end.

The calls of a run are copied into its folder once, those that can be prepared; every epoch streams them through the
stage that scoring has too. The folder holds the checkpoints as well, so the same run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from ray.data import DataContext, ExecutionOptions
from ray.exceptions import RayError
from transformers import PreTrainedTokenizerBase

import msmtfn
from msmtfn import storage
from msmtfn.errors import TrainingDataError, TrainingError
from msmtfn.evaluation.labelled import LabelledSplit, keep_ready
from msmtfn.evaluation.plots import plot_curves
from msmtfn.features.prepare import PrepareConfig
from msmtfn.model.checkpoint import Model, PackedNetwork, pack_network, save_model, unpack_network
from msmtfn.model.network import MsmtFn
from msmtfn.training.augmentation import Augmenter
from msmtfn.training.calls import LabelledCall, embedded_calls, prepared_calls
from msmtfn.training.datasets import embed_split, open_calls, prepare_split, prepared_place, read_calls
from msmtfn.training.loop import Loop, NotFiniteError
from msmtfn.training.model_card import write_card
from msmtfn.training.pretraining import learn_prosody
from msmtfn.training.recipe import Recipe

logger = logging.getLogger(__name__)

STATE_NAME: Final = "state.pt"
EPOCHS_NAME, CURVES_NAME = "epochs.jsonl", "curves.png"
SHUFFLED_CALLS: Final = 256
"""Calls that a worker draws the next one from; the calls of the whole run are in a random order already."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """How training is spread; none of it changes what is learned, but for the order of sums."""

    num_workers: int = 1
    """Processes that train together, each on its share of every step."""
    gpus_per_worker: float = 0.0
    """Share of a GPU that each takes; 0 trains on CPUs."""
    cpus_per_worker: int = 1
    """CPUs that each takes, and threads where it has no GPU."""
    max_failures: int = 3
    """Times that training goes on from the last epoch after a worker has died."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        if self.num_workers < 1 or self.cpus_per_worker < 1:
            raise ValueError("num_workers and cpus_per_worker must be at least 1")
        if self.gpus_per_worker < 0 or self.max_failures < 0:
            raise ValueError("gpus_per_worker and max_failures must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """All options of training."""

    recipe: Recipe = field(default_factory=Recipe)
    """How the network learns."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """How the work is spread."""
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    """How recordings become the network's inputs."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What one run of training has to do.

    Attributes:
        training: the calls to learn from.
        validation: the calls that tell when to stop.
        model: to start from.
        about: a line on where that model came from.
        work: folder of the run's work in progress, local or on S3, that all machines see.
        name: of the run; the same for the same work.
        calls: folder of the prepared calls, that runs may share whose calls, seed and way of reading them are the same;
            None puts them into the run's own.
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
    """What every worker is told."""

    network: ray.ObjectRef[PackedNetwork]
    tokenizer: PreTrainedTokenizerBase
    recipe: Recipe
    threads: int
    steps_per_epoch: int
    training_intents: npt.NDArray[np.int64]
    epochs_file: str
    validation: str
    board: Any


def fingerprint(splits: Sequence[LabelledSplit], start: str, config: TrainingConfig) -> str:
    """Of all that decides what is learned, 12 hexadecimal digits.

    Args:
        splits: the calls.
        start: what tells one start of training from another.
        config: how it learns.
    """
    identity = [
        *(split.fingerprint() for split in splits),
        start,
        asdict(config.recipe),
        asdict(config.prepare),
        config.cluster.num_workers,
        msmtfn.__version__,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


def train(run: TrainingRun, config: TrainingConfig, report: Callable[[Mapping[str, Any]], None]) -> Path:
    """Train, or go on training; Ray must be up.

    Args:
        run: what to do.
        config: how.
        report: told, every so often, how far the run is.

    Returns:
        A local folder with the model, its card, the figures of every epoch and their curves.

    Raises:
        JobError: the data are no good, or training failed; the same run goes on where it stopped.
    """
    _configure_engine()
    folder = storage.join(storage.absolute(run.work), run.name)
    calls = folder if run.calls is None else storage.absolute(run.calls)
    splits = [
        prepare_split(split, run.model, config.prepare, config.recipe.seed, calls)
        for split in (run.training, run.validation)
    ]
    places = [prepared_place(calls, split.name) for split in splits]
    if config.recipe.prosody_epochs and run.model.network.config.modalities != "text":
        heard = learn_prosody(
            run.model,
            places[0],
            calls,
            num_epochs=config.recipe.prosody_epochs,
            seed=config.recipe.seed,
            cpus=config.cluster.cpus_per_worker,
            gpus=config.cluster.gpus_per_worker,
            max_failures=config.cluster.max_failures,
        )
        run = replace(run, model=heard)
    if config.recipe.embedded != "nothing":
        places = [
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
    state = _fit(run, config, folder, places, splits, report)
    return _write_model(run, config, splits, state)


def _configure_engine() -> None:
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True  # the same command learns the same


def _fit(
    run: TrainingRun,
    config: TrainingConfig,
    folder: str,
    places: list[str],
    splits: list[LabelledSplit],
    report: Callable[[Mapping[str, Any]], None],
) -> dict[str, Any]:
    """Train in workers; the state of the last epoch."""
    recipe, cluster = config.recipe, config.cluster
    calls_per_worker = len(splits[0].rows) // cluster.num_workers
    if not calls_per_worker:
        raise TrainingDataError(f"there are {len(splits[0].rows)} training calls for {cluster.num_workers} workers")
    filesystem, path = storage.arrow_filesystem_of(folder)
    with _board(report) as board:
        settings = _WorkerSettings(
            network=ray.put(pack_network(run.model.network)),
            tokenizer=run.model.tokenizer,
            recipe=recipe,
            threads=min(cluster.cpus_per_worker, os.cpu_count() or 1),
            steps_per_epoch=-(-calls_per_worker // recipe.calls_per_step),
            training_intents=splits[0].intents,
            epochs_file=storage.join(folder, EPOCHS_NAME),
            validation=places[1],
            board=board,
        )
        trainer = ray.train.torch.TorchTrainer(
            _work,
            train_loop_config={"settings": settings},
            datasets={"training": read_calls(places[0])},
            dataset_config=ray.train.DataConfig(execution_options=ExecutionOptions(preserve_order=True)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=cluster.num_workers,
                use_gpu=cluster.gpus_per_worker > 0,
                resources_per_worker={"CPU": cluster.cpus_per_worker}
                | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}),
            ),
            run_config=ray.train.RunConfig(
                name="ray-train",
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=ray.train.FailureConfig(max_failures=cluster.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        result = _fitted(trainer)
        # Not by a report: without a checkpoint it would be lost, and after one the epoch before would pass for the end.
        stopped = ray.get(board.why_stopped.remote())
    if stopped:
        raise TrainingError(stopped)
    if result.checkpoint is None:
        raise TrainingError("training ended without a checkpoint; see the log above")
    return _load_state(result.checkpoint)


def _fitted(trainer: ray.train.torch.TorchTrainer) -> ray.train.Result:
    try:
        return trainer.fit()
    except (RayError, ray.train.TrainingFailedError) as exc:
        logger.exception("training failed")
        reason = " ".join(str(exc).split())[-300:]
        raise TrainingError(
            f"training failed more often than --max-failures allows ({reason}); the same command goes on from the last "
            "epoch"
        ) from exc


def _work(config: dict[str, Any]) -> None:
    """What a worker does."""
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
        _ShardSource(network, recipe, settings.validation, rank, world_size),
        steps_per_epoch=settings.steps_per_epoch,
        training_intents=settings.training_intents,
        augmenter=_augmenter(settings, network),
        device=device,
        tell=partial(_tell, settings.board) if rank == 0 else lambda _: None,
    )
    last = ray.train.get_checkpoint()
    if last is not None:
        loop.go_on(_load_state(last))
    if rank == 0:
        settings.board.tell.remote({"starts": len(loop.epochs), "workers": world_size})
    try:
        loop.run(partial(_after_epoch, settings, rank))
    except NotFiniteError as exc:  # tried again it would be the same
        if rank == 0:
            ray.get(settings.board.stop.remote(str(exc)))


def _augmenter(settings: _WorkerSettings, network: MsmtFn) -> Augmenter | None:
    augmentation = settings.recipe.augmentation
    if augmentation.augment == "none":
        return None
    config = network.config
    return Augmenter(
        augmentation, settings.tokenizer, config.encoder_sample_rate, config.max_round_samples, settings.recipe.seed
    )


def _tell(board: Any, step: dict[str, Any]) -> None:
    board.tell.remote(step)


def _after_epoch(settings: _WorkerSettings, rank: int, loop: Loop) -> None:
    """Keep what it takes to go on, and the figures."""
    epoch = loop.epochs[-1].as_row()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            torch.save(loop.state(), Path(folder) / STATE_NAME)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
            rows = "".join(json.dumps(each.as_row()) + "\n" for each in loop.epochs)
            storage.write_text(settings.epochs_file, rows)
            settings.board.tell.remote({"done": epoch})
        ray.train.report(epoch, checkpoint=checkpoint)


def _load_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(Path(folder) / STATE_NAME, map_location="cpu", weights_only=True)
    return state


class _ShardSource:
    """The calls of one worker: its shard of the training calls, and every so-manieth of the validation calls."""

    def __init__(self, network: MsmtFn, recipe: Recipe, validation: str, rank: int, world_size: int) -> None:
        self.recipe, self.place, self.rank, self.world_size = recipe, validation, rank, world_size
        text_size = network.config.text.hidden_size if recipe.embedded == "encoders" else None
        self.sizes = network.config.audio.hidden_size, text_size

    def training(self, epoch: int, size: int) -> Iterator[list[LabelledCall]]:
        """This worker's share of the training calls, in the epoch's order; all shares have the same size."""
        batches = ray.train.get_dataset_shard("training").iter_batches(
            batch_size=size,
            batch_format="pyarrow",
            local_shuffle_buffer_size=max(SHUFFLED_CALLS, size),
            local_shuffle_seed=self.recipe.seed * 1009 + epoch,
        )
        yield from map(self._calls, batches)

    def validation(self, size: int) -> Iterator[list[LabelledCall]]:
        """This worker's share of the validation calls; not a shard, whose equal sizes leave some calls out."""
        first = 0
        for batch in open_calls(self.place).to_batches(batch_size=size):
            ready = keep_ready(pa.Table.from_batches([batch]))
            mine = np.flatnonzero((np.arange(len(ready)) + first) % self.world_size == self.rank)
            first += len(ready)
            if len(mine):
                yield self._calls(ready.take(pa.array(mine)))

    def _calls(self, batch: pa.Table) -> list[LabelledCall]:
        return prepared_calls(batch) if self.recipe.embedded == "nothing" else embedded_calls(batch, *self.sizes)


class ProgressBoard:
    """Where the first worker says how far it is."""

    def __init__(self) -> None:
        self.step: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.reason = ""

    def tell(self, said: dict[str, Any]) -> None:
        """Note a step, an epoch that is done, or that the workers start."""
        if "step" in said:
            self.step = said
        else:
            self.events.append(said)

    def stop(self, reason: str) -> None:
        """Note why no further step can be taken."""
        self.reason = reason

    def why_stopped(self) -> str:
        """The reason, or nothing."""
        return self.reason

    def read(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The last step, and all events of this run."""
        return self.step, self.events


@contextlib.contextmanager
def _board(report: Callable[[Mapping[str, Any]], None]) -> Iterator[Any]:
    """Report what the workers say, every so often."""
    remote: Any = ray.remote(ProgressBoard)
    board = remote.options(num_cpus=0).remote()
    finished = threading.Event()

    def look(reported: int) -> int:
        step, events = ray.get(board.read.remote())
        for said in events[reported:]:
            report(said)
        if step:
            report(step)
        return len(events)

    def watch() -> None:
        reported = 0
        while not finished.wait(2.0):
            with contextlib.suppress(RayError):  # no figures are no reason to fail
                reported = look(reported)
        with contextlib.suppress(RayError):
            look(reported)

    watcher = threading.Thread(target=watch, daemon=True, name="progress")
    watcher.start()
    try:
        yield board
    finally:
        finished.set()
        watcher.join()


def _write_model(run: TrainingRun, config: TrainingConfig, splits: list[LabelledSplit], state: dict[str, Any]) -> Path:
    """The folder of the best epoch's model."""
    network = run.model.network
    network.load_state_dict(state["best"])
    network.config.is_trained = True
    epochs = [_as_row(each) for each in state["epochs"]]
    folder = Path(tempfile.mkdtemp(prefix="msmtfn-model-"))
    card = write_card(network, config.recipe, splits, epochs, config.cluster.num_workers, run.about)
    save_model(network, run.model.tokenizer, folder, card)
    (folder / EPOCHS_NAME).write_text("".join(json.dumps(each) + "\n" for each in epochs))
    (folder / CURVES_NAME).write_bytes(plot_curves(epochs))
    return folder


def _as_row(epoch: dict[str, Any]) -> dict[str, Any]:
    accuracy = {f"accuracy_{task}": value for task, value in epoch["accuracy"].items()}
    return {name: value for name, value in epoch.items() if name != "accuracy"} | accuracy
