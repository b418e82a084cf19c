"""Train the network on labelled calls and write or register the model."""

from __future__ import annotations

import datetime as dt
import json
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from msmtfn import storage
from msmtfn.cli.command import SafeConsole, run_command
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.engine import start_engine
from msmtfn.errors import UsageError
from msmtfn.evaluation.judge import judge_split
from msmtfn.evaluation.labelled import LabelledSplit, check_splits, find_days, read_labelled, split_by_customer
from msmtfn.labels import TASKS
from msmtfn.leads.drift import write_distribution
from msmtfn.model.checkpoint import Model, fetch_model, load_model, start_from_encoders, weights_digest
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.registry import CURRENT, is_in_registry, places_of_model, read_current
from msmtfn.model.small import make_small_model
from msmtfn.registry.gate import GateConfig
from msmtfn.registry.registration import Registration, find_registered, register
from msmtfn.storage.conditional import warn_unless_conditional
from msmtfn.storage.overlap import Place, is_place, refuse_overlaps
from msmtfn.training.datasets import describe_calls
from msmtfn.training.events import EpochDone, StepDone, TrainingEvent, TrainingStarted
from msmtfn.training.recipe import SMALL_RECIPE
from msmtfn.training.trainer import EPOCHS_NAME, TrainingConfig, TrainingRun, fingerprint, train

LOG_INTERVAL_SEC: Final = 15.0

logger = logging.getLogger("msmtfn.train")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Train the network on labelled calls and write or register the model.

    The calls come from one of two sources:
    - --corpus: a corpus, which has its own calls for validation.
    - --manifests, --from, --to: days of manifests; the calls of some customers are set aside for validation.

    Runs on the Ray cluster that it was submitted to (RAY_ADDRESS), or starts Ray on this machine.

    Run again after an interruption, the same command resumes after the last complete epoch.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

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
    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    """First day of --manifests to learn from; by default the first one that has a manifest."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """Last day of --manifests to learn from; by default the last one that has a manifest."""
    validation_share: float = 0.1
    """Share (0 to 1) of the customers of --manifests, without the held-out ones, whose calls serve for validation."""
    work: str | None = None
    """Folder or s3:// address for work in progress, visible to all machines; kept at the end.
    By default <out>.work or <register>/_work, which is deleted at the end."""
    start: Literal["small", "encoders", "model"] = "encoders"
    """Starting point: a new small network, a new network around pretrained encoders, or an existing model."""
    model: str | None = None
    """Model for --start model: a folder, an s3:// address or a name on the Hugging Face hub."""
    audio_encoder: str = MsmtFnConfig.audio_encoder
    """HuBERT or wav2vec 2.0 for --start encoders: a folder or a name on the Hugging Face hub."""
    text_encoder: str = MsmtFnConfig.text_encoder
    """BERT or RoBERTa with its tokenizer for --start encoders: a folder or a name on the Hugging Face hub."""
    freeze_encoders: bool = False
    """Same as --frozen encoders --augment none: encoder outputs are computed once and only the rest is trained."""
    gate: Annotated[GateConfig, tyro.conf.arg(name="")] = field(default_factory=GateConfig)
    """Criteria by which --register makes the new model current."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
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
        if (self.model is None) == (self.start == "model"):
            raise UsageError("--model and --start model require each other; set both or neither")
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation-share is {self.validation_share}; it must be between 0 and 1")

    def complete(self) -> Arguments:
        """Return the arguments with --freeze-encoders expanded into the options that it stands for."""
        if not self.freeze_encoders:
            return self
        recipe = self.training.recipe
        recipe = replace(recipe, frozen="encoders", augmentation=replace(recipe.augmentation, augment="none"))
        return replace(self, training=replace(self.training, recipe=recipe))


RECIPES: Final = {
    "paper": ("The paper's recipe, for pretrained encoders.", Arguments()),
    "small": (
        "A recipe for a small network trained from scratch.",
        Arguments(start="small", training=TrainingConfig(recipe=SMALL_RECIPE)),
    ),
}


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_train, program, arguments), job="train")


def _train(program: str, arguments: Sequence[str]) -> None:
    config = (tyro.conf.OmitArgPrefixes,)
    options = tyro.extras.overridable_config_cli(RECIPES, prog=program, args=arguments, config=config)
    options.check()
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        _run(options.complete(), Path(scratch), SafeConsole())


def _run(arguments: Arguments, scratch: Path, console: Console) -> None:
    _refuse_overlaps(arguments)
    splits = _splits(arguments)
    check_splits(*splits)
    for split in splits:
        logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    target = storage.absolute(str(arguments.out or arguments.register))
    if arguments.out is not None and storage.exists(storage.join(target, "config.json")):
        raise UsageError(f"--out {target} holds a model already; choose a new folder")
    model, origin = _initial_model(arguments, scratch)
    training, validation, *held_out = splits
    name = f"train-{fingerprint(splits, _start_fingerprint(arguments, target, model), arguments.training)}"
    work = storage.absolute(_work_place(arguments))
    run = TrainingRun(training, validation, model, origin, work, name)
    if arguments.register is not None and (registered := find_registered(target, name)) is not None:
        _clean_up(arguments, work, name)
        console.print(f"this same run is registered already; nothing was done\n{_describe_version(target, registered)}")
        return
    prepare, recipe = arguments.training.prepare, arguments.training.recipe
    if arguments.register is not None:
        warn_unless_conditional(target)
    started = time.monotonic()
    with start_engine(show_workers=False), _show_progress(console, recipe.max_epochs) as report:
        folder = train(run, arguments.training, report)
        try:
            logger.info("scoring the %d validation calls to record their distribution", len(validation.rows))
            judged = judge_split(validation, load_model(folder), prepare, storage.join(work, name, "judged-validation"))
            write_distribution(describe_calls(storage.join(work, name), judged), folder)
            epochs = [json.loads(line) for line in (folder / EPOCHS_NAME).read_text().splitlines()]
            if held_out:
                logger.info("comparing the new model with the current one on %d held-out calls", len(held_out[0].rows))
                record = register(
                    folder,
                    Registration(
                        target, name, storage.join(work, name), held_out[0], prepare, arguments.gate, recipe.seed
                    ),
                )
                destination = storage.join(target, record["version"])
            else:
                storage.put_folder(folder, target)
                destination = target
        finally:
            shutil.rmtree(folder)
    _clean_up(arguments, work, name)
    console.print(_summarize(epochs, destination, time.monotonic() - started))
    if held_out:
        console.print(_describe_version(target, record), highlight=False, soft_wrap=True)


def _work_place(arguments: Arguments) -> str:
    if arguments.work is not None:
        return arguments.work
    if arguments.register is not None:
        return storage.join(arguments.register, "_work")
    return f"{storage.absolute(str(arguments.out))}.work"


def _refuse_overlaps(arguments: Arguments) -> None:
    """Refuse outputs that overlap what the job reads; a registry's own versions may be what training starts from."""
    named = {"--corpus": arguments.corpus, "--manifests": arguments.manifests}
    inputs = [Place(option, location) for option, location in named.items() if location is not None]
    inputs += [Place("--allowed-prefixes", prefix) for prefix in arguments.training.prepare.allowed_prefixes]
    if arguments.start == "encoders":
        encoders = {"--audio-encoder": arguments.audio_encoder, "--text-encoder": arguments.text_encoder}
        inputs += [Place(option, location) for option, location in encoders.items() if is_place(location)]
    model = str(arguments.model)
    if arguments.start == "model" and not (arguments.register and is_in_registry(arguments.register, model)):
        inputs += [Place("--model", place) for place in places_of_model(model)]
    target = Place("--out", arguments.out) if arguments.out else Place("--register", str(arguments.register))
    refuse_overlaps(inputs, [target, Place("--work", _work_place(arguments))])


def _clean_up(arguments: Arguments, work: str, name: str) -> None:
    if arguments.work is None:
        storage.delete(storage.join(work, name))
        storage.remove_empty_folder(work)  # somebody else's files may stand there too


def _describe_version(root: str, record: Mapping[str, Any]) -> str:
    """Return one line about the decision on a registered version."""
    decision = record["decision"]
    figures = f"{100 * decision['candidate']:.1f} % of {decision['calls']} held-out calls classified correctly"
    if decision["compared_with"] is not None:
        figures += f", {decision['compared_with']} {100 * decision['present']:.1f} %"
    current = read_current(root)
    verdict = "passed" if decision["passed"] else "did not pass"
    current_version = "none" if current is None else current.version
    return f"{record['version']} {verdict}: {figures}; {decision['reason']}. Current: {current_version}."


def _splits(arguments: Arguments) -> list[LabelledSplit]:
    """Read the training and validation calls, and the held-out calls if the model is to be registered."""
    num_splits = 2 if arguments.register is None else 3
    if arguments.corpus is not None:
        roots = {name: storage.join(arguments.corpus, name) for name in SPLITS[:num_splits]}
        return [read_labelled(name, root, find_days(root)) for name, root in roots.items()]
    root = str(arguments.manifests)
    days = find_days(root, arguments.first_date, arguments.last_date)
    labelled = read_labelled("training", root, days)
    gate_share = 0.0 if arguments.register is None else arguments.gate.gate_share
    splits = split_by_customer(labelled, arguments.validation_share, arguments.training.recipe.seed, gate_share)
    return list(splits[:num_splits])


def _initial_model(arguments: Arguments, scratch: Path) -> tuple[Model, str]:
    """Return the model that training starts from, and a sentence about it for the model card."""
    if arguments.start == "small":
        return make_small_model(arguments.training.recipe.seed), "Trained from scratch: new weights, small encoders."
    if arguments.start == "model":
        (scratch / "model").mkdir()
        return load_model(fetch_model(str(arguments.model), scratch / "model")), f"Trained on from {arguments.model}."
    return start_from_encoders(
        arguments.audio_encoder, arguments.text_encoder, arguments.training.recipe.seed
    ), f"Trained from the encoders {arguments.audio_encoder} and {arguments.text_encoder}."


def _start_fingerprint(arguments: Arguments, target: str, model: Model) -> str:
    """Return a string that identifies the starting point of training.

    For the registry's own current model this is its name and not its weights. Otherwise the same command would count as
    another run, and train again, once the new model has become current.
    """
    starts_from = storage.absolute(arguments.model or "")
    if arguments.register is not None and starts_from == storage.join(target, CURRENT):
        return CURRENT
    return weights_digest(model.network)


class _TrainingReporter:
    """Reporter that describes the events of training: one line per epoch, and the progress in between.

    Args:
        max_epochs: maximum number of epochs, from which the time left is estimated.
        update: called with a line about the progress and the number of epochs done.
        print_line: called with a line about an epoch that is done, or about the start of the workers.
    """

    def __init__(
        self, max_epochs: int, update: Callable[[str, float], None], print_line: Callable[[str], None]
    ) -> None:
        self.max_epochs, self.update, self.print_line = max_epochs, update, print_line
        self.started = time.monotonic()
        self.first_done: float | None = None

    def __call__(self, event: TrainingEvent) -> None:
        match event:
            case EpochDone():
                self._say_epoch(event)
            case TrainingStarted():
                self.first_done = None
                self.print_line(f"{event.num_workers} workers start with epoch {event.first_epoch}")
            case StepDone():
                self._show_step(event)

    def _say_epoch(self, epoch: EpochDone) -> None:
        mark = " (best)" if epoch.is_best else ""
        accuracies = ", ".join(f"{task} {100 * epoch.accuracy[task]:.1f}" for task in TASKS)
        self.print_line(
            f"epoch {epoch.epoch} in {epoch.seconds:.0f} s: loss {epoch.training_loss:.3f}, validation "
            f"loss {epoch.validation_loss:.3f}{mark}, accuracy % {accuracies}"
        )

    def _show_step(self, step: StepDone) -> None:
        done = step.epoch + step.step / step.num_steps
        if self.first_done is None:  # the epochs before a resumed run must not count for its pace
            self.first_done, self.started = done, time.monotonic()
        epochs_per_sec = (done - self.first_done) / max(time.monotonic() - self.started, 1e-9)
        left = (
            f"{(self.max_epochs - done) / epochs_per_sec:.0f} s left at most" if epochs_per_sec else "time left unknown"
        )
        self.update(
            f"epoch {step.epoch}, step {step.step} of {step.num_steps}, loss {step.loss:.3f}, "
            f"{step.rounds_per_sec:.1f} rounds/s, {left}",
            done,
        )


@contextmanager
def _show_progress(console: Console, max_epochs: int) -> Iterator[_TrainingReporter]:
    """Show progress as a bar on a terminal, else in the log."""
    if not console.is_terminal:
        last_logged = time.monotonic()

        def log_sometimes(line: str, _done: float) -> None:
            nonlocal last_logged
            if time.monotonic() - last_logged >= LOG_INTERVAL_SEC:
                last_logged = time.monotonic()
                logger.info("%s", line)

        yield _TrainingReporter(max_epochs, log_sometimes, lambda line: logger.info("%s", line))
        return
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[line]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=max_epochs, line="starting")
        yield _TrainingReporter(
            max_epochs,
            lambda line, done: progress.update(task, completed=done, line=line),
            lambda line: progress.console.print(line, highlight=False),
        )


def _summarize(epochs: list[dict[str, Any]], out: str, seconds: float) -> Table:
    best = [epoch for epoch in epochs if epoch["is_best"]][-1]
    table = Table(
        title=f"Model in {out}: the best of {len(epochs)} epochs is number {best['epoch']}; {seconds:.0f} s",
        title_justify="left",
    )
    table.add_column("validation")
    table.add_column("accuracy, %", justify="right")
    for task in TASKS:
        table.add_row(task, f"{100 * best[f'accuracy_{task}']:.1f}")
    return table
