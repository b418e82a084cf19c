"""Train the network on labelled calls and write or register the model."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Final

import tyro
from rich.console import Console
from rich.table import Table

from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.cli.network_options import NetworkOptions, given_options
from msmtfn.labels import TASKS
from msmtfn.model.location import read_current
from msmtfn.progress import LineLog, TimeLeft, show_bar
from msmtfn.registry.records import GateConfig
from msmtfn.training.events import EpochDone, StepDone, TrainingEvent, TrainingStarted
from msmtfn.training.job import TRAINING_CONFIGS, TrainingJob, TrainingResult, run_job
from msmtfn.training.trainer import TrainingConfig

logger = logging.getLogger("msmtfn.train")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments(TrainingJob):
    """Train the network on labelled calls and write or register the model.

    The calls come from one of two sources:
    - --corpus: a corpus, which has its own calls for validation.
    - --manifests, --from, --to: days of manifests; the calls of some customers are set aside for validation.

    Runs on the Ray cluster that it was submitted to (RAY_ADDRESS), or starts Ray on this machine.

    Run again after an interruption, the same command resumes after the last complete epoch.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    gate: Annotated[GateConfig, tyro.conf.arg(name="")] = field(default_factory=GateConfig)
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    network: tyro.conf.Suppress[Mapping[str, Any]] = field(default_factory=dict)
    network_options: Annotated[NetworkOptions, tyro.conf.arg(name="")] = field(default_factory=NetworkOptions)
    freeze_encoders: bool = False
    """Same as --frozen encoders --augment none: encoder outputs are computed once and only the rest is trained."""

    def complete(self) -> Arguments:
        """Return the arguments with the network's settings, and what --freeze-encoders stands for, in their places."""
        network = {**self.network, **given_options(self.network_options)}
        if not self.freeze_encoders:
            return replace(self, network=network)
        recipe = self.training.recipe
        recipe = replace(recipe, frozen="encoders", augmentation=replace(recipe.augmentation, augment="none"))
        return replace(self, network=network, training=replace(self.training, recipe=recipe))


RECIPES: Final = {
    "paper": ("The paper's recipe, for pretrained encoders.", Arguments(training=TRAINING_CONFIGS["paper"])),
    "small": (
        "A recipe for a small network trained from scratch.",
        Arguments(start="small", training=TRAINING_CONFIGS["small"]),
    ),
    "mmml": (
        "The recipe of MMML, the baseline of the paper's table 1, for pretrained encoders.",
        Arguments(architecture="mmml", training=TRAINING_CONFIGS["mmml"]),
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
    options = tyro.extras.overridable_config_cli(RECIPES, prog=program, args=arguments, config=PARSER_OPTIONS)
    job, console = options.complete(), SafeConsole()
    job.check()
    with _show_progress(console, job.training.recipe.max_epochs) as report:
        result = run_job(job, report)
    if result.epochs:
        console.print(_summarize(result))
    else:
        console.print("this same run is registered already; nothing was done")
    if result.version is not None and result.version.decision is not None:
        decision = f"{result.version.version} {result.version.decision.describe()}"
        console.print(f"{decision}. Current: {_current(job)}.", highlight=False, soft_wrap=True)


def _current(job: TrainingJob) -> str:
    current = read_current(job.target)
    return "none" if current is None else current.version


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
        self.time_left: TimeLeft | None = None

    def __call__(self, event: TrainingEvent) -> None:
        match event:
            case EpochDone():
                self._say_epoch(event)
            case TrainingStarted():
                self.time_left = None
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
        if self.time_left is None:  # the epochs before a resumed run must not count for its pace
            self.time_left = TimeLeft(self.max_epochs, done)
        left = self.time_left.describe(done).replace("s left", "s left at most")
        self.update(
            f"epoch {step.epoch}, step {step.step} of {step.num_steps}, loss {step.loss:.3f}, "
            f"{step.rounds_per_sec:.1f} rounds/s, {left}",
            done,
        )


@contextmanager
def _show_progress(console: Console, max_epochs: int) -> Iterator[_TrainingReporter]:
    """Show progress as a bar on a terminal, else in the log."""
    if not console.is_terminal:
        log = LineLog(logger)
        yield _TrainingReporter(max_epochs, lambda line, _done: log.show(line), lambda line: logger.info("%s", line))
        return
    with show_bar(console, "training", max_epochs) as show:
        yield _TrainingReporter(max_epochs, show, lambda line: console.print(line, highlight=False))


def _summarize(result: TrainingResult) -> Table:
    num_epochs, best = len(result.epochs), result.best_epoch
    table = Table(
        title=f"Model in {result.folder}: the best of {num_epochs} epochs is number {best.epoch}; "
        f"{result.seconds:.0f} s",
        title_justify="left",
    )
    table.add_column("validation")
    table.add_column("accuracy, %", justify="right")
    for task in TASKS:
        table.add_row(task, f"{100 * best.accuracy[task]:.1f}")
    return table
