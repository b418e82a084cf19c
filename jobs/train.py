"""Train the network on labelled calls and write the model's folder."""

from __future__ import annotations

import datetime as dt
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from msmtfn import storage
from msmtfn.command import run_command
from msmtfn.conditional import warn_unless_conditional
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.engine import start_engine
from msmtfn.errors import UsageError
from msmtfn.labels import TASKS
from msmtfn.leads.drift import write_distribution
from msmtfn.model.checkpoint import Model, fetch_model, load_model, start_from_encoders, weights_digest
from msmtfn.model.config import MsmtFnConfig
from msmtfn.model.registry import CURRENT, is_in_registry, places_of_model, read_current
from msmtfn.model.small import make_small_model
from msmtfn.overlap import Place, is_place, refuse_overlaps
from msmtfn.training.data import LabelledSplit, check_splits, find_days, read_labelled, split_by_customer
from msmtfn.training.gate import GateConfig
from msmtfn.training.judge import describe_calls, judge_split
from msmtfn.training.recipe import SMALL_RECIPE
from msmtfn.training.registration import Registration, find_registered, register
from msmtfn.training.trainer import EPOCHS_NAME, TrainingConfig, TrainingRun, fingerprint, train

SECONDS_A_LINE: Final = 15.0

logger = logging.getLogger("msmtfn.train")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Train the network on labelled calls and write the model's folder.

    The calls are those of a corpus (--corpus), or of the days of a root of manifests (--manifests, --from, --to), of
    which some customers are held out for the validation. Joins the Ray cluster that it was submitted to (RAY_ADDRESS),
    or starts Ray on this machine. The same command again goes on from the last epoch. Exit codes: 0 done, 1 failed, 2
    wrong usage.
    """

    out: str | None = None
    """Where the model's folder is written: a folder or an s3:// address, new or empty."""
    register: str | None = None
    """In the place of --out: root of the versions of a model, a folder or an s3:// address. The new model becomes a
    version there, and the current one if it is no worse than the present one on calls that are held out for that: of a
    corpus those in test/, of --manifests those of some customers."""
    corpus: str | None = None
    """A folder or an s3:// address with training/ and validation/, each a root of manifests; simulate_calls.py makes
    such."""
    manifests: str | None = None
    """Root of the manifests: <manifests>/date=YYYY-MM-DD/*.parquet, a folder or an s3:// address."""
    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    """The first day of --manifests to learn from; the first that there is, if left out."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """The last day of --manifests to learn from; the last that there is, if left out."""
    validation_share: float = 0.1
    """Share of the customers of --manifests, of those that are not held out, whose calls are the validation."""
    work: str | None = None
    """Folder or s3:// address for work in progress, seen by all machines; <out>.work or <register>/_work if left out.
    Deleted at the end, unless it is named here."""
    start: Literal["small", "encoders", "model"] = "encoders"
    """What training starts from: a new small network, a new network around pretrained encoders, or a model."""
    model: str | None = None
    """With --start model: a model's folder, an s3:// address or a name on the hub."""
    audio_encoder: str = MsmtFnConfig.audio_encoder
    """With --start encoders: a folder or a name on the hub, of a HuBERT or wav2vec 2.0."""
    text_encoder: str = MsmtFnConfig.text_encoder
    """With --start encoders: a folder or a name on the hub, of a BERT or RoBERTa, with its tokenizer."""
    freeze_encoders: bool = False
    """Short for --frozen encoders --augment none: the encoders' states are computed once, and the rest is trained."""
    gate: Annotated[GateConfig, tyro.conf.arg(name="")] = field(default_factory=GateConfig)
    """With --register: when the new model becomes the current one."""
    training: Annotated[TrainingConfig, tyro.conf.arg(name="")] = field(default_factory=TrainingConfig)
    """How it learns."""

    def check(self) -> None:
        """Check what the types do not say.

        Raises:
            UsageError: arguments are missing or do not go together.
        """
        if (self.out is None) == (self.register is None):
            raise UsageError("give either --out or --register")
        if (self.corpus is None) == (self.manifests is None):
            raise UsageError("give either --corpus or --manifests")
        if self.corpus is not None and (self.first_date or self.last_date):
            raise UsageError("--from and --to go with --manifests; a corpus is taken whole")
        if (self.model is None) == (self.start == "model"):
            raise UsageError("--model goes with --start model, and --start model needs it")
        if not 0 < self.validation_share < 1:
            raise UsageError(f"--validation-share is {self.validation_share}; it must be between 0 and 1")

    def complete(self) -> Arguments:
        """The same with what the short forms stand for."""
        if not self.freeze_encoders:
            return self
        recipe = self.training.recipe
        recipe = replace(recipe, frozen="encoders", augmentation=replace(recipe.augmentation, augment="none"))
        return replace(self, training=replace(self.training, recipe=recipe))


RECIPES: Final = {
    "paper": ("The paper's recipe, for pretrained encoders.", Arguments()),
    "small": (
        "A recipe for a small network from scratch.",
        Arguments(start="small", training=TrainingConfig(recipe=SMALL_RECIPE)),
    ),
}


def main() -> int:
    """Run the job; the result is its exit code."""
    return run_command(_train)


def _train() -> None:
    arguments = tyro.extras.overridable_config_cli(RECIPES, config=(tyro.conf.OmitArgPrefixes,))
    arguments.check()
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        _run(arguments.complete(), Path(scratch), Console())


def _run(arguments: Arguments, scratch: Path, console: Console) -> None:
    _refuse_overlaps(arguments)
    splits = _splits(arguments)
    check_splits(*splits)
    for split in splits:
        logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    target = storage.absolute(str(arguments.out or arguments.register))
    if arguments.out is not None and storage.exists(storage.join(target, "config.json")):
        raise UsageError(f"--out {target} holds a model already; give a new folder")
    model, about = _model(arguments, scratch)
    training, validation, *held_out = splits
    name = f"train-{fingerprint(splits, _start(arguments, target, model), arguments.training)}"
    work = storage.absolute(_work_place(arguments))
    run = TrainingRun(training, validation, model, about, work, name)
    if arguments.register is not None and (known := find_registered(target, name)) is not None:
        _clean_up(arguments, work, name)
        console.print(f"this very run is registered already; nothing was done\n{_describe_version(target, known)}")
        return
    prepare, recipe = arguments.training.prepare, arguments.training.recipe
    if arguments.register is not None:
        warn_unless_conditional(target)
    started = time.monotonic()
    with start_engine(show_workers=False), _show_progress(console, recipe.max_epochs) as report:
        folder = train(run, arguments.training, report)
        try:
            logger.info("the new model on the %d validation calls, for its distribution", len(validation.rows))
            judged = judge_split(validation, load_model(folder), prepare, storage.join(work, name, "judged-validation"))
            write_distribution(describe_calls(storage.join(work, name), judged), folder)
            epochs = [json.loads(line) for line in (folder / EPOCHS_NAME).read_text().splitlines()]
            if held_out:
                logger.info("the new model and the present one on %d held-out calls", len(held_out[0].rows))
                record = register(
                    folder,
                    Registration(
                        target, name, storage.join(work, name), held_out[0], prepare, arguments.gate, recipe.seed
                    ),
                )
                place = storage.join(target, record["version"])
            else:
                storage.put_folder(folder, target)
                place = target
        finally:
            shutil.rmtree(folder)
    _clean_up(arguments, work, name)
    console.print(_summarize(epochs, place, time.monotonic() - started))
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
    """What became of a version of the registry, in a line."""
    decision = record["decision"]
    figures = f"{100 * decision['candidate']:.1f} % of {decision['calls']} held-out calls named rightly"
    if decision["compared_with"] is not None:
        figures += f", {decision['compared_with']} {100 * decision['present']:.1f} %"
    current = read_current(root)
    verdict = "passed" if decision["passed"] else "did not pass"
    is_current = "none" if current is None else current.version
    return f"{record['version']} {verdict}: {figures}; {decision['reason']}. Current: {is_current}."


def _splits(arguments: Arguments) -> list[LabelledSplit]:
    """Training and validation calls, and the held-out ones where the model is to be registered."""
    number = 2 if arguments.register is None else 3
    if arguments.corpus is not None:
        roots = {name: storage.join(arguments.corpus, name) for name in SPLITS[:number]}
        return [read_labelled(name, root, find_days(root)) for name, root in roots.items()]
    root = str(arguments.manifests)
    days = find_days(root, arguments.first_date, arguments.last_date)
    labelled = read_labelled("training", root, days)
    gate_share = 0.0 if arguments.register is None else arguments.gate.gate_share
    sides = split_by_customer(labelled, arguments.validation_share, arguments.training.recipe.seed, gate_share)
    return list(sides[:number])


def _model(arguments: Arguments, scratch: Path) -> tuple[Model, str]:
    """What training starts from, and a line that says so."""
    if arguments.start == "small":
        return make_small_model(arguments.training.recipe.seed), "Trained from scratch: new weights, small encoders."
    if arguments.start == "model":
        (scratch / "model").mkdir()
        return load_model(fetch_model(str(arguments.model), scratch / "model")), f"Trained on from {arguments.model}."
    return start_from_encoders(
        arguments.audio_encoder, arguments.text_encoder, arguments.training.recipe.seed
    ), f"Trained from the encoders {arguments.audio_encoder} and {arguments.text_encoder}."


def _start(arguments: Arguments, target: str, model: Model) -> str:
    """What tells one start of training from another.

    Of the registry's own current model the name and not the weights: once the new model is current, the same command
    would else be another run, and train again.
    """
    starts_from = storage.absolute(arguments.model or "")
    if arguments.register is not None and starts_from == storage.join(target, CURRENT):
        return CURRENT
    return weights_digest(model.network)


class _Narrator:
    """Says how far the training is: a line an epoch, and in between one every so often."""

    def __init__(self, max_epochs: int, show: Callable[[str, float], None], say: Callable[[str], None]) -> None:
        self.max_epochs, self.show, self.say = max_epochs, show, say
        self.started = time.monotonic()
        self.first: float | None = None

    def __call__(self, said: Mapping[str, Any]) -> None:
        if "done" in said:
            epoch = said["done"]
            mark = " (best)" if epoch["is_best"] else ""
            accuracies = ", ".join(f"{task} {100 * epoch[f'accuracy_{task}']:.1f}" for task in TASKS)
            self.say(
                f"epoch {epoch['epoch']} in {epoch['seconds']:.0f} s: loss {epoch['training_loss']:.3f}, validation "
                f"loss {epoch['validation_loss']:.3f}{mark}, accuracy % {accuracies}"
            )
            return
        if "starts" in said:
            self.first = None
            self.say(f"{said['workers']} workers start with epoch {said['starts']}")
            return
        done = said["epoch"] + said["step"] / said["steps"]
        if self.first is None:  # a run that goes on did not do what was done before it
            self.first, self.started = done, time.monotonic()
        pace = (done - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = f"{(self.max_epochs - done) / pace:.0f} s left at most" if pace else "time left unknown"
        self.show(
            f"epoch {said['epoch']}, step {said['step']} of {said['steps']}, loss {said['loss']:.3f}, "
            f"{said['rounds_per_sec']:.1f} rounds/s, {left}",
            done,
        )


@contextmanager
def _show_progress(console: Console, max_epochs: int) -> Iterator[_Narrator]:
    """Show progress on a terminal, or log it where there is none."""
    if not console.is_terminal:
        last = [time.monotonic()]

        def show(line: str, _done: float) -> None:
            if time.monotonic() - last[0] >= SECONDS_A_LINE:
                last[0] = time.monotonic()
                logger.info("%s", line)

        yield _Narrator(max_epochs, show, lambda line: logger.info("%s", line))
        return
    columns = (TextColumn("training"), BarColumn(), TextColumn("{task.fields[line]}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=max_epochs, line="starting")
        yield _Narrator(
            max_epochs,
            lambda line, done: progress.update(task, completed=done, line=line),
            lambda line: progress.console.print(line, highlight=False),
        )


def _summarize(epochs: list[dict[str, Any]], out: str, seconds: float) -> Table:
    best = [each for each in epochs if each["is_best"]][-1]
    table = Table(
        title=f"Model in {out}: the best of {len(epochs)} epochs was {best['epoch']}, {seconds:.0f} s",
        title_justify="left",
    )
    table.add_column("validation")
    table.add_column("accuracy, %", justify="right")
    for task in TASKS:
        table.add_row(task, f"{100 * best[f'accuracy_{task}']:.1f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
