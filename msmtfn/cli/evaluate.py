"""Evaluate a model on labelled calls: accuracy, macro F1 and calibration in the four tasks, next to their ceilings.

With --ablations, train and evaluate the variants of the network that the paper compares.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from msmtfn import storage
from msmtfn.cli.command import SafeConsole, run_command
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.engine import start_engine
from msmtfn.errors import TrainingDataError, UsageError
from msmtfn.evaluation.evaluator import Evaluation, Shuffle, evaluate_calls, read_ceilings
from msmtfn.evaluation.labelled import LabelledSplit, check_splits, find_days, read_labelled
from msmtfn.evaluation.metrics import TaskMetrics
from msmtfn.evaluation.plots import plot_confusions, plot_reliability
from msmtfn.features.prepare import PrepareConfig
from msmtfn.inference.scorer import ScorerConfig
from msmtfn.model.checkpoint import fetch_model, is_trained, load_model, model_version
from msmtfn.model.registry import places_of_model
from msmtfn.storage.overlap import Place, refuse_overlaps
from msmtfn.training.ablations import AblationConfig, as_markdown, as_table, explain, run_ablations, tabulate

LOG_INTERVAL_SEC: Final = 15.0
DEFAULT_SPLIT: Final = "test"
METRICS_NAME, PREDICTIONS_NAME = "metrics.json", "predictions.parquet"
CONFUSIONS_NAME, RELIABILITY_NAME = "confusions.png", "reliability.png"
ABLATIONS_OPTION: Final = "--ablations"
ABLATIONS_WIDTH: Final = 140
"""Minimum width of the table; on a narrower terminal wrapped lines are easier to read than truncated figures."""
ABLATIONS_TABLE, ABLATIONS_ROWS = "ablations.md", "ablations.parquet"
SHOWN_READERS: Final = ("text", "audio", "both")

logger = logging.getLogger("msmtfn.evaluate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Evaluate a model on labelled calls: accuracy, macro F1 and calibration in the four tasks.

    The calls come from one of two sources:
    - --corpus, --split: a split of a corpus. A simulated one has ceilings: the accuracy of the best possible readers.
    - --manifests, --from, --to: days of manifests.

    With --ablations, trains and evaluates the variants of the network that the paper compares instead of a model.

    The options of --ablations are different; `--ablations --help` lists them.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    model: str
    """Model to evaluate: a folder, an s3:// address or a name on the Hugging Face hub."""
    out: str
    """Folder or s3:// address for metrics.json, predictions.parquet, confusions.png and reliability.png.
    Existing files of these names are replaced."""
    corpus: str | None = None
    """Folder or s3:// address of splits, all of them roots of manifests, as simulate-calls writes it."""
    split: str | None = None
    """Split of --corpus; by default test."""
    manifests: str | None = None
    """Root of the manifests, <manifests>/date=YYYY-MM-DD/*.parquet: a local folder or an s3:// address."""
    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    """First day of --manifests; by default the first one that has a manifest."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """Last day of --manifests; by default the last one that has a manifest."""
    shuffle: Shuffle = "none"
    """Give every round the audio or the text of a random other round, to measure how much the network relies on it.
    This keeps the samples of all calls in memory, about 1 MB per minute of speech at 8 kHz."""
    seed: int = 0
    """Random seed of --shuffle."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that the network runs on; auto uses a GPU if there is one."""
    prepare: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)
    """Options of preparing recordings for the network."""

    def __post_init__(self) -> None:
        """Check that the options are in range and go together.

        Raises:
            UsageError: an option is missing, out of range or conflicts with another.
        """
        if (self.corpus is None) == (self.manifests is None):
            raise UsageError("give either --corpus or --manifests")
        if self.corpus is not None and (self.first_date or self.last_date):
            raise UsageError(
                "--from and --to select days of --manifests; a split of a corpus is always used as a whole"
            )
        if self.manifests is not None and self.split is not None:
            raise UsageError("--split selects a split of --corpus; use --from and --to to select days of --manifests")
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; it must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationArguments:
    """Train and evaluate the ablations of the paper's tables 1 and 6 on a corpus, with the network of `train small`.

    Every variant is trained on training/ and validation/ once per seed, and evaluated on test/.

    The result is one table of all variants, with the ceilings of a simulated corpus.

    Runs on the Ray cluster that it was submitted to (RAY_ADDRESS), or starts Ray on this machine.

    Run again after an interruption, the same command keeps the finished runs and continues with the others.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    corpus: str
    """Folder or s3:// address with training/, validation/ and test/, as simulate-calls writes it."""
    out: str
    """Folder or s3:// address for ablations.md and ablations.parquet, visible to all machines.
    The metrics.json and the model of every run are written below runs/."""
    ablations: Annotated[AblationConfig, tyro.conf.arg(name="")] = field(default_factory=AblationConfig)
    """Variants to compare, and options of their training."""


class _LogReporter:
    """Reporter that logs the progress at most every `LOG_INTERVAL_SEC` seconds, and at the end."""

    def __init__(self, num_calls: int) -> None:
        self.num_calls = num_calls
        self.started = self.last_line = time.monotonic()

    def __call__(self, step: str, done: int) -> None:
        now = time.monotonic()
        if now - self.last_line < LOG_INTERVAL_SEC and not (step == "scored" and done == self.num_calls):
            return
        self.last_line = now
        logger.info("%d of %d calls %s, after %.0f s", done, self.num_calls, step, now - self.started)


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_evaluate, program, arguments), job="evaluate")


def _evaluate(program: str, arguments: Sequence[str]) -> None:
    config = (tyro.conf.OmitArgPrefixes,)
    mode_parser = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    mode_parser.add_argument(ABLATIONS_OPTION, action="store_true", dest="ablations")
    mode, remaining = mode_parser.parse_known_args(arguments)
    if mode.ablations:  # has options of its own, without a required --model
        program = f"{program} {ABLATIONS_OPTION}"
        _run_ablations(tyro.cli(AblationArguments, prog=program, args=remaining, config=config), SafeConsole())
        return
    options = tyro.cli(Arguments, prog=program, args=remaining, config=config)
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        _run(options, Path(scratch), SafeConsole())


def _run(arguments: Arguments, scratch: Path, console: Console) -> None:
    started = time.monotonic()
    _refuse_overlaps(arguments)
    out = storage.absolute(arguments.out)
    split = _read_split(arguments)
    ceilings = _read_ceilings_of(arguments.corpus, split.name)
    folder = fetch_model(arguments.model, scratch)
    model = load_model(folder)
    logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    if not is_trained(folder):
        logger.warning("the model %s was never trained, so its figures are those of chance", arguments.model)
    if arguments.shuffle != "none":
        logger.info(
            "every round gets the %s of another round; the samples of all calls are kept in memory", arguments.shuffle
        )
    evaluation = evaluate_calls(
        model,
        split,
        arguments.prepare,
        ScorerConfig(device=arguments.device),
        shuffle=arguments.shuffle,
        seed=arguments.seed,
        report=_LogReporter(len(split.rows)),
    )
    metrics = evaluation.metrics()
    facts = _collect_facts(arguments, split, evaluation, model_version(folder))
    _write(out, evaluation, metrics, facts, ceilings)
    console.print(_summarize(out, facts, metrics, ceilings, time.monotonic() - started))


def _refuse_overlaps(arguments: Arguments) -> None:
    inputs = [Place("--model", place) for place in places_of_model(arguments.model)]
    inputs += [Place("--allowed-prefixes", prefix) for prefix in arguments.prepare.allowed_prefixes]
    named = {"--corpus": arguments.corpus, "--manifests": arguments.manifests}
    inputs += [Place(option, location) for option, location in named.items() if location is not None]
    refuse_overlaps(inputs, [Place("--out", arguments.out)])


def _run_ablations(arguments: AblationArguments, console: Console) -> None:
    prefixes = arguments.ablations.training.prepare.allowed_prefixes
    inputs = [Place("--corpus", arguments.corpus), *(Place("--allowed-prefixes", prefix) for prefix in prefixes)]
    refuse_overlaps(inputs, [Place("--out", arguments.out)])
    out, corpus = storage.absolute(arguments.out), storage.absolute(arguments.corpus)
    roots = {name: storage.join(corpus, name) for name in SPLITS}
    splits = [read_labelled(name, root, find_days(root)) for name, root in roots.items()]
    check_splits(*splits)
    for split in splits:
        logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    ceilings = _read_ceilings_of(corpus, DEFAULT_SPLIT)
    with start_engine(show_workers=False):
        runs = run_ablations(splits, out, arguments.ablations)
    storage.write_parquet(storage.join(out, ABLATIONS_ROWS), as_table(runs))
    header, lines = tabulate(runs, ceilings)
    explanation = explain(runs, ceilings)
    storage.write_text(storage.join(out, ABLATIONS_TABLE), as_markdown(header, lines, explanation))
    console.width = max(console.width, ABLATIONS_WIDTH)
    console.print(_make_table(f"Ablations in {out}", header, lines, explanation))


def _make_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], caption: str) -> Table:
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    for column in header:
        table.add_column(column, justify="left" if column == header[0] else "right")
    for line in lines:
        table.add_row(*line)
    return table


def _read_split(arguments: Arguments) -> LabelledSplit:
    if arguments.corpus is None:
        root = str(arguments.manifests)
        return read_labelled("manifests", root, find_days(root, arguments.first_date, arguments.last_date))
    corpus, name = storage.absolute(arguments.corpus), arguments.split or DEFAULT_SPLIT
    root = storage.join(corpus, name)
    if not storage.exists(root):
        existing = ", ".join(folder.rpartition("/")[2] for folder in storage.list_folders(corpus))
        raise TrainingDataError(
            f"{corpus} has no split {name}; it has {existing or 'no folders or is missing'}; check --corpus and --split"
        )
    return read_labelled(name, root, find_days(root))


def _read_ceilings_of(corpus: str | None, split: str) -> dict[str, Any] | None:
    """Return the best readers' accuracy on all calls and on this split; None if the corpus has no ceilings."""
    content = None if corpus is None else read_ceilings(corpus)
    if content is None or split not in content["best_reader_of"]:
        return None
    return {"best_possible": content["best_possible"], "best_reader_of_split": content["best_reader_of"][split]}


def _collect_facts(arguments: Arguments, split: LabelledSplit, evaluation: Evaluation, version: str) -> dict[str, Any]:
    return {
        "model": arguments.model,
        "model_version": version,
        "calls_from": split.root,
        "split": split.name if arguments.corpus is not None else None,
        "dates": [str(date) for date in split.dates],
        "shuffle": arguments.shuffle,
        "seed": arguments.seed,
        "labelled": len(split.rows),
        "scored": len(evaluation.call_ids),
        "rejected": evaluation.rejected,
        "intents": split.counts,
    }


def _write(
    out: str,
    evaluation: Evaluation,
    metrics: Mapping[str, TaskMetrics],
    facts: Mapping[str, Any],
    ceilings: Mapping[str, Any] | None,
) -> None:
    """Write the four files of the evaluation, the metrics last."""
    storage.make_folder(out)
    storage.write_parquet(storage.join(out, PREDICTIONS_NAME), evaluation.as_table())
    storage.write_bytes(storage.join(out, CONFUSIONS_NAME), plot_confusions(metrics))
    storage.write_bytes(storage.join(out, RELIABILITY_NAME), plot_reliability(metrics))
    tasks = {task: asdict(task_metrics) for task, task_metrics in metrics.items()}
    content = {**facts, "tasks": tasks, "ceilings": ceilings}
    storage.write_text(storage.join(out, METRICS_NAME), json.dumps(content, indent=2) + "\n")


def _summarize(
    out: str,
    facts: Mapping[str, Any],
    metrics: Mapping[str, TaskMetrics],
    ceilings: Mapping[str, Any] | None,
    seconds: float,
) -> RenderableType:
    """Return a summary of the model's metrics and of the best possible ones."""
    num_rejected = facts["labelled"] - facts["scored"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in facts["rejected"].items())
    shown = {
        "model": f"{facts['model']}, version {facts['model_version']}",
        "calls": f"{facts['scored']:,} of {facts['labelled']:,} labelled calls in {facts['calls_from']}",
        "rejected": f"{num_rejected:,}" + (f" ({reasons})" if reasons else ""),
        "shuffled": facts["shuffle"],
        "time": f"{seconds:.1f} seconds",
        "folder": out,
    }
    lines = Text("\n".join(f"  {name:<9} {value}" for name, value in shown.items()))
    return Group(Text("Evaluation", style="bold"), lines, _make_metrics_table(metrics, ceilings))


def _make_metrics_table(metrics: Mapping[str, TaskMetrics], ceilings: Mapping[str, Any] | None) -> Table:
    table = Table(title="Metrics of the model (%)", title_justify="left", caption_justify="left")
    for column in ("task", "accuracy", "macro F1", "ECE"):
        table.add_column(column, justify="left" if column == "task" else "right")
    if ceilings is not None:
        table.caption = "ceiling: accuracy of the best possible reader on these calls (on all possible calls)"
        for reader in SHOWN_READERS:
            table.add_column(f"ceiling\n{reader}", justify="right")
    for task, result in metrics.items():
        figures = [f"{100 * value:.1f}" for value in (result.accuracy, result.macro_f1, result.calibration_error)]
        if ceilings is not None:
            of_split, of_all = ceilings["best_reader_of_split"][task], ceilings["best_possible"][task]
            figures += [f"{100 * of_split[reader]:.1f} ({100 * of_all[reader]:.1f})" for reader in SHOWN_READERS]
        table.add_row(task, *figures)
    return table
