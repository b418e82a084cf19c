"""A training job, from labelled calls to a model in its folder or registry: what `msmtfn train` does."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.corpora import is_demo, replace_demo
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.engine import start_engine
from msmtfn.errors import ModelError, UsageError
from msmtfn.evaluation.calibrate import calibrate_folder
from msmtfn.evaluation.evaluator import evaluate_calls
from msmtfn.evaluation.labelled import LabelledSplit, check_splits, read_labelled, split_by_customer
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.leads.drift import write_distribution
from msmtfn.model.checkpoint import Model, build_model_from_encoders, fetch_model, load_model, weights_digest
from msmtfn.model.config import CONFIGS, Architecture, MsmtFnConfig
from msmtfn.model.location import CURRENT, is_in_registry, locations_of_model
from msmtfn.model.settings import SETTINGS, check_names, make_config, make_config_of_encoders
from msmtfn.model.small import character_vocabulary, make_small_model, small_fields
from msmtfn.registry.records import GateConfig, VersionRecord
from msmtfn.registry.registration import Registration, find_registered, register_model
from msmtfn.storage.conditional import warn_unless_conditional
from msmtfn.storage.overlap import NamedLocation, is_location, refuse_overlaps
from msmtfn.training.datasets import describe_calls
from msmtfn.training.events import EpochDone, Report, TrainingEvent, parse_epochs
from msmtfn.training.recipe import MMML_RECIPE, SMALL_RECIPE
from msmtfn.training.trainer import EPOCHS_NAME, TrainingConfig, TrainingRun, fingerprint, train_model

logger = logging.getLogger(__name__)

RecipeName = Literal["paper", "small", "mmml"]
Start = Literal["small", "encoders", "model"]
Location = str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingJob:
    """The calls to train on, what training starts from, and where the model goes."""

    out: str | None = None
    """Folder that the model is written to: a new or empty local folder or s3:// address."""
    register: str | None = None
    """Root of a model's versions, a local folder or an s3:// address; replaces --out.
    The new model is added as a version, and becomes current if it is no worse than the current one on held-out calls.
    The held-out calls are test/ of a corpus, or those of some customers of --manifests."""
    corpus: str | None = None
    """Folder or s3:// address with training/ and validation/, both roots of manifests, as simulate-calls writes it."""
    manifests: str | None = None
    """Root of the manifests, <manifests>/date=YYYY-MM-DD/*.parquet: a local folder or an s3:// address."""
    first_date: dt.date | None = None
    """First day of --manifests to learn from; by default the first one that has a manifest."""
    last_date: dt.date | None = None
    """Last day of --manifests to learn from; by default the last one that has a manifest."""
    transcripts: str | None = None
    """Root of the transcripts that transcribe-daily publishes, for calls whose manifest has no turns.
    With --corpus, the folder above those of its splits: training/, validation/ and test/."""
    validation_share: float = 0.1
    """Share (0 to 1) of the customers of --manifests, without the held-out ones, whose calls serve for validation."""
    work: str | None = None
    """Folder or s3:// address for work in progress, visible to all machines; kept at the end.
    By default <out>.work or <register>/_work, which is deleted at the end."""
    start: Start = "encoders"
    """Starting point: a new small network, a new network around pretrained encoders, or an existing model."""
    architecture: Architecture = "msmtfn"
    """Architecture of a new network: MSMT-FN, or MMML, the baseline; --start model keeps the model's own."""
    model: str | None = None
    """Model for --start model: a folder, an s3:// address, a name on the Hugging Face hub, or "demo"."""
    audio_encoder: str = MsmtFnConfig.audio_encoder
    """HuBERT or wav2vec 2.0 for --start encoders: a folder or a name on the Hugging Face hub."""
    text_encoder: str = MsmtFnConfig.text_encoder
    """BERT or RoBERTa with its tokenizer for --start encoders: a folder or a name on the Hugging Face hub."""
    network: Mapping[str, Any] = field(default_factory=dict)
    """Settings of a new network that replace those of --start: fields of its configuration by their names."""
    gate: GateConfig = field(default_factory=GateConfig)
    """Criteria by which --register makes the new model current."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """Options of training."""

    def check(self) -> None:
        """Check that the options are in range and go together.

        Raises:
            UsageError: an option is missing, out of range or conflicts with another.
        """
        if (self.out is None) == (self.register is None):
            raise UsageError("give either --out or --register")
        if (self.corpus is None) == (self.manifests is None):
            raise UsageError("give either --corpus or --manifests")
        if self.corpus is not None and (self.first_date or self.last_date):
            raise UsageError("--from and --to select days of --manifests; a corpus is always used as a whole")
        if self.start not in get_args(Start):
            raise UsageError(f"--start is {self.start!r}; it must be one of {', '.join(get_args(Start))}")
        if (self.model is None) == (self.start == "model"):
            raise UsageError("--model and --start model require each other; set both or neither")
        if self.architecture not in CONFIGS:
            raise UsageError(f"--architecture is {self.architecture!r}; it must be one of {', '.join(CONFIGS)}")
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation-share is {self.validation_share}; it must be between 0 and 1")
        self._check_network()

    def _check_network(self) -> None:
        """Check the settings of the network, before any call is read."""
        check_names(self.network, self.architecture)
        if self.network and self.start == "model":
            given = ", ".join(SETTINGS[name].option for name in self.network)
            raise UsageError(
                f"{given} cannot be used with --start model, which has its own settings; start a new network"
            )
        if self.start == "small":
            if self.network.get("audio_frontend") == "wav2vec2" or self.network.get("frontend_encoder"):
                raise UsageError(
                    "a wav2vec 2.0 frontend needs --start encoders; the small network has its own encoders"
                )
            fields = small_fields(len(character_vocabulary()), self.architecture)
            make_config(fields, self.network, self.architecture)
        elif self.network:
            try:
                make_config_of_encoders(self.audio_encoder, self.text_encoder, self.network, self.architecture)
            except (OSError, ValueError) as exc:
                raise ModelError(
                    f"the configuration of an encoder cannot be read: {' '.join(str(exc).split())[:300]}"
                ) from exc

    @property
    def target(self) -> str:
        """Location of the model's folder, or of the registry."""
        return storage.absolute(str(self.out or self.register))

    @property
    def work_folder(self) -> str:
        """Location of the folder for work in progress."""
        if self.work is not None:
            return storage.absolute(self.work)
        return storage.join(self.target, "_work") if self.register is not None else f"{self.target}.work"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingResult:
    """The outcome of a training job.

    Attributes:
        folder: location of the model's folder.
        epochs: figures of every epoch, in order; empty where this same run was registered earlier, so nothing was done.
        version: the registry's record of the model, with the decision whether it became current; None without a
            registry.
        seconds: duration of training, validation and comparison.
    """

    folder: str
    epochs: Sequence[EpochDone]
    version: VersionRecord | None = None
    seconds: float = 0.0

    @property
    def best_epoch(self) -> EpochDone:
        """The epoch with the lowest validation loss, whose weights the model has."""
        return [epoch for epoch in self.epochs if epoch.is_best][-1]


TRAINING_CONFIGS: Final[Mapping[RecipeName, TrainingConfig]] = {
    "paper": TrainingConfig(),
    "small": TrainingConfig(recipe=SMALL_RECIPE),
    "mmml": TrainingConfig(recipe=MMML_RECIPE),
}
ARCHITECTURES: Final[Mapping[RecipeName, Architecture]] = {"paper": "msmtfn", "small": "msmtfn", "mmml": "mmml"}
"""The network that a recipe trains unless another is chosen."""


def _ignore(_event: TrainingEvent) -> None:
    pass


def train(
    recipe: RecipeName | TrainingConfig = "paper",
    *,
    corpus: Location | None = None,
    manifests: Location | None = None,
    first_date: dt.date | None = None,
    last_date: dt.date | None = None,
    transcripts: Location | None = None,
    validation_share: float = 0.1,
    out: Location | None = None,
    register: Location | None = None,
    work: Location | None = None,
    start: Start | None = None,
    architecture: Architecture | None = None,
    model: Location | None = None,
    audio_encoder: str = MsmtFnConfig.audio_encoder,
    text_encoder: str = MsmtFnConfig.text_encoder,
    network: Mapping[str, Any] | None = None,
    gate: GateConfig | None = None,
    report: Report = _ignore,
) -> TrainingResult:
    """Train a network on labelled calls, and write or register the model; the same call resumes an interrupted one.

    The recipe is `"paper"`, which fine-tunes pretrained encoders, `"small"`, which trains a small network from scratch,
    `"mmml"`, which fine-tunes the baseline, or all options of training. It decides `start` and `architecture` unless
    these are given. `report` receives the events from another thread. The others are the fields of `TrainingJob`.

    Uses the Ray that runs in this process, else the cluster at `RAY_ADDRESS`, else one that it starts on this machine.

    Raises:
        JobError: an argument is wrong (`UsageError`), the calls or the model cannot be used, or training failed.

    Example:
        >>> msmtfn.train("small", corpus="corpus", out="model").best_epoch.accuracy["five"]
        0.71
    """
    if not isinstance(recipe, TrainingConfig) and recipe not in get_args(RecipeName):
        raise UsageError(f"recipe is {recipe!r}; it must be one of {', '.join(TRAINING_CONFIGS)}, or a TrainingConfig")
    if start is None:
        start = "model" if model is not None else "small" if recipe == "small" else "encoders"
    job = TrainingJob(
        corpus=_as_text(corpus),
        manifests=_as_text(manifests),
        first_date=first_date,
        last_date=last_date,
        transcripts=_as_text(transcripts),
        validation_share=validation_share,
        out=_as_text(out),
        register=_as_text(register),
        work=_as_text(work),
        start=start,
        architecture=architecture or ("msmtfn" if isinstance(recipe, TrainingConfig) else ARCHITECTURES[recipe]),
        model=_as_text(model),
        audio_encoder=audio_encoder,
        text_encoder=text_encoder,
        network=network or {},
        gate=gate or GateConfig(),
        training=recipe if isinstance(recipe, TrainingConfig) else TRAINING_CONFIGS[recipe],
    )
    return run_job(job, report)


def run_job(job: TrainingJob, report: Report) -> TrainingResult:
    """Run a training job, or resume it.

    Args:
        job: the calls, the starting point, the options and the destination.
        report: receives the events of the training, from another thread.

    Raises:
        UsageError: an option is missing, out of range or conflicts with another.
        JobError: the calls or the model cannot be used, or training failed.
    """
    job.check()
    _refuse_overlaps(job)
    splits = _read_splits(job)
    check_splits(*splits)
    for split in splits:
        logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    if job.out is not None and storage.exists(storage.join(job.target, "config.json")):
        raise UsageError(f"--out {job.target} holds a model already; choose a new folder")
    model, origin = _initial_model(job)
    model.processor.with_options(job.training.prepare.activity)  # fails here rather than after the start of Ray
    name = f"train-{fingerprint(splits, _start_fingerprint(job, model), job.training)}"
    if job.register is not None:
        if (version := find_registered(job.target, name)) is not None:
            _clean_up(job, name)
            return TrainingResult(folder=storage.join(job.target, version.version), epochs=(), version=version)
        warn_unless_conditional(job.target)
    started = time.monotonic()
    training, validation, *held_out = splits
    run = TrainingRun(training, validation, model, origin, job.work_folder, name)
    with start_engine(show_workers=False):
        folder = train_model(run, job.training, report)
        try:
            epochs = parse_epochs((folder / EPOCHS_NAME).read_text(), str(folder / EPOCHS_NAME))
            _describe_data(job, run, folder)
            version = _register(job, run, held_out[0], folder) if held_out else None
            if version is None:
                storage.put_folder(folder, job.target)
        finally:
            shutil.rmtree(folder)
    _clean_up(job, name)
    return TrainingResult(
        folder=job.target if version is None else storage.join(job.target, version.version),
        epochs=epochs,
        version=version,
        seconds=time.monotonic() - started,
    )


def _refuse_overlaps(job: TrainingJob) -> None:
    """Refuse outputs that overlap what the job reads; a registry's own versions may be what training starts from."""
    named = {"--corpus": job.corpus, "--manifests": job.manifests, "--transcripts": job.transcripts}
    inputs = [NamedLocation(option, location) for option, location in named.items() if location is not None]
    inputs += [NamedLocation("--allowed-prefixes", prefix) for prefix in job.training.prepare.allowed_prefixes]
    if job.start == "encoders":
        encoders = {"--audio-encoder": job.audio_encoder, "--text-encoder": job.text_encoder}
        if frontend := job.network.get("frontend_encoder"):
            encoders[SETTINGS["frontend_encoder"].option] = frontend
        inputs += [NamedLocation(option, location) for option, location in encoders.items() if is_location(location)]
    model = str(job.model)
    if job.start == "model" and not is_demo(model) and not (job.register and is_in_registry(job.register, model)):
        inputs += [NamedLocation("--model", place) for place in locations_of_model(model)]
    target = NamedLocation("--out", job.out) if job.out else NamedLocation("--register", str(job.register))
    refuse_overlaps(inputs, [target, NamedLocation("--work", job.work or job.work_folder)])


def _read_splits(job: TrainingJob) -> list[LabelledSplit]:
    """Read the training and validation calls, and the held-out calls if the model is to be registered."""
    num_splits = 2 if job.register is None else 3
    if job.corpus is not None:
        roots = {name: storage.join(job.corpus, name) for name in SPLITS[:num_splits]}
        heard = {name: None if job.transcripts is None else storage.join(job.transcripts, name) for name in roots}
        return [read_labelled(name, root, find_days(root), heard[name]) for name, root in roots.items()]
    root = str(job.manifests)
    labelled = read_labelled("training", root, find_days(root, job.first_date, job.last_date), job.transcripts)
    gate_share = 0.0 if job.register is None else job.gate.gate_share
    splits = split_by_customer(labelled, job.validation_share, job.training.recipe.seed, gate_share)
    return list(splits[:num_splits])


def _initial_model(job: TrainingJob) -> tuple[Model, str]:
    """Return the model that training starts from, and a sentence about it for the model card."""
    seed = job.training.recipe.seed
    if job.start == "small":
        model = make_small_model(seed, job.architecture, **job.network)
        return model, "Trained from scratch: new weights, small encoders."
    if job.start == "model":
        with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
            return load_model(fetch_model(replace_demo(str(job.model)), Path(scratch))), f"Trained on from {job.model}."
    origin = f"Trained from the encoders {job.audio_encoder} and {job.text_encoder}."
    encoders = job.audio_encoder, job.text_encoder
    return build_model_from_encoders(*encoders, seed, job.architecture, **job.network), origin


def _start_fingerprint(job: TrainingJob, model: Model) -> str:
    """Return a string that identifies the starting point of training.

    For the registry's own current model this is its name and not its weights. Otherwise the same command would count as
    another run, and train again, once the new model has become current.
    """
    starts_from = storage.absolute(job.model or "")
    if job.register is not None and starts_from == storage.join(job.target, CURRENT):
        return CURRENT
    digest = weights_digest(model.network)
    # Networks with other settings may have equal weights.
    return f"{digest} {json.dumps(job.network, sort_keys=True)}" if job.network else digest


def _describe_data(job: TrainingJob, run: TrainingRun, folder: Path) -> None:
    """Calibrate the model on the validation calls, and write the distributions of the calls and of their scores."""
    logger.info("scoring the %d validation calls to calibrate the model", len(run.validation.rows))
    work = storage.join(run.work, run.name)
    scoring = storage.join(work, "scored-validation")
    scored = evaluate_calls(load_model(folder), run.validation, job.training.prepare, ScorerConfig(), work=scoring)
    if len(scored.scored):
        scored = calibrate_folder(folder, scored)
    else:
        logger.warning("none of the validation calls can be scored, so the model is not calibrated")
    write_distribution(describe_calls(work, scored.calls), folder)


def _register(job: TrainingJob, run: TrainingRun, held_out: LabelledSplit, folder: Path) -> VersionRecord:
    logger.info("comparing the new model with the current one on %d held-out calls", len(held_out.rows))
    registration = Registration(
        root=job.target,
        run=run.name,
        work=storage.join(run.work, run.name),
        held_out=held_out,
        prepare=job.training.prepare,
        gate=job.gate,
        seed=job.training.recipe.seed,
    )
    return register_model(folder, registration)


def _clean_up(job: TrainingJob, name: str) -> None:
    """Delete a run's work in progress, unless the user named the folder for it."""
    if job.work is None:
        storage.delete(storage.join(job.work_folder, name))
        storage.remove_empty_folder(job.work_folder)  # somebody else's files may stand there too


def _as_text(location: Location | None) -> str | None:
    return None if location is None else os.fspath(location)
