"""Judge a model on labelled calls: accuracy, F1 and calibration in the four tasks, beside what is possible.

With --ablations it trains and judges the variants of the network that the paper compares.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from msmtfn import storage
from msmtfn.command import run_command
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.engine import start_engine
from msmtfn.errors import TrainingDataError, UsageError
from msmtfn.model.checkpoint import fetch_model, is_trained, load_model, model_version
from msmtfn.model.registry import places_of_model
from msmtfn.overlap import Place, refuse_overlaps
from msmtfn.scoring.prepare import PrepareConfig
from msmtfn.scoring.scorer import ScorerConfig
from msmtfn.training.ablations import AblationConfig, as_markdown, as_table, explain, run_ablations, tabulate
from msmtfn.training.data import LabelledSplit, check_splits, find_days, read_labelled
from msmtfn.training.evaluation import Evaluation, Shuffle, evaluate_calls, read_ceilings
from msmtfn.training.metrics import TaskMetrics
from msmtfn.training.plots import plot_confusions, plot_reliability

SECONDS_A_LINE: Final = 15.0
DEFAULT_SPLIT: Final = "test"
METRICS_NAME, PREDICTIONS_NAME = "metrics.json", "predictions.parquet"
CONFUSIONS_NAME, RELIABILITY_NAME = "confusions.png", "reliability.png"
ABLATIONS_OPTION: Final = "--ablations"
ABLATIONS_WIDTH: Final = 140
"""Columns of the screen at least; a narrower one breaks the lines, which is better to read than broken figures."""
ABLATIONS_TABLE, ABLATIONS_ROWS = "ablations.md", "ablations.parquet"
SHOWN_READERS: Final = ("text", "audio", "both")

logger = logging.getLogger("msmtfn.evaluate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Judge a model on labelled calls: accuracy, macro F1 and calibration in the four tasks.

    The calls are one split of a corpus (--corpus, --split), or the days of a root of manifests (--manifests, --from,
    --to). Beside the figures of a simulated corpus stand its ceilings: what the best possible readers get. With
    --ablations no model is judged but the variants of the network that the paper compares are trained and judged;
    `--ablations --help` has the options. Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    model: str
    """The model: a folder, an s3:// address or a name on the hub."""
    out: str
    """Where metrics.json, predictions.parquet, confusions.png and reliability.png are written: a folder or an s3://
    address; files of these names are replaced."""
    corpus: str | None = None
    """A folder or an s3:// address of splits, each a root of manifests; simulate_calls.py makes such."""
    split: str | None = None
    """The split of --corpus; test if left out."""
    manifests: str | None = None
    """Root of the manifests: <manifests>/date=YYYY-MM-DD/*.parquet, a folder or an s3:// address."""
    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    """The first day of --manifests; the first that there is, if left out."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """The last day of --manifests; the last that there is, if left out."""
    shuffle: Shuffle = "none"
    """Give every round the audio, or the text, of a random other round of these calls, to see how much the network
    listens, or reads. Keeps the samples of all calls in memory: about 1 MB a minute of speech at 8 kHz."""
    seed: int = 0
    """Of --shuffle."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network runs; auto takes a GPU where there is one."""
    prepare: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)
    """How recordings become the network's inputs."""

    def __post_init__(self) -> None:
        """Check what the types do not say.

        Raises:
            UsageError: arguments are missing, out of range or do not go together.
        """
        if (self.corpus is None) == (self.manifests is None):
            raise UsageError("give either --corpus or --manifests")
        if self.corpus is not None and (self.first_date or self.last_date):
            raise UsageError("--from and --to go with --manifests; a split of a corpus is taken whole")
        if self.manifests is not None and self.split is not None:
            raise UsageError("--split goes with --corpus; --from and --to choose days of --manifests")
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; give 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationArguments:
    """Train and judge the ablations of the paper's tables 1 and 6 on a corpus, with the small network of train.py.

    Every variant learns from training/ and validation/ once a seed and is judged on test/. One table comes out, beside
    the ceilings of a simulated corpus. Joins the Ray cluster that it was submitted to (RAY_ADDRESS), or starts Ray on
    this machine. The same command again goes on where it stopped, with the runs that are done taken as they are. Exit
    codes: 0 done, 1 failed, 2 wrong usage.
    """

    corpus: str
    """A folder or an s3:// address with training/, validation/ and test/, each a root of manifests; simulate_calls.py
    makes such."""
    out: str
    """Where ablations.md and ablations.parquet are written, and below runs/ each run's metrics.json and its model: a
    folder or an s3:// address, seen by all machines."""
    ablations: Annotated[AblationConfig, tyro.conf.arg(name="")] = field(default_factory=AblationConfig)
    """Which variants, and how they learn."""


class _LogReporter:
    """Logs how far it is, a line every so often."""

    def __init__(self, num_calls: int) -> None:
        self.num_calls = num_calls
        self.started = self.last_line = time.monotonic()

    def __call__(self, step: str, done: int) -> None:
        now = time.monotonic()
        if now - self.last_line < SECONDS_A_LINE and not (step == "scored" and done == self.num_calls):
            return
        self.last_line = now
        logger.info("%d of %d calls %s, after %.0f s", done, self.num_calls, step, now - self.started)


def main() -> int:
    """Run the job; the result is its exit code."""
    return run_command(_evaluate)


def _evaluate() -> None:
    options = sys.argv[1:]
    if ABLATIONS_OPTION in options:  # of which the other options are others, --model not among them
        options.remove(ABLATIONS_OPTION)
        program = f"evaluate.py {ABLATIONS_OPTION}"
        config = (tyro.conf.OmitArgPrefixes,)
        _run_ablations(tyro.cli(AblationArguments, prog=program, args=options, config=config), Console())
        return
    arguments = tyro.cli(Arguments, config=(tyro.conf.OmitArgPrefixes,))
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        _run(arguments, Path(scratch), Console())


def _run(arguments: Arguments, scratch: Path, console: Console) -> None:
    started = time.monotonic()
    _refuse_overlaps(arguments)
    out = storage.absolute(arguments.out)
    split = _labelled(arguments)
    ceilings = _ceilings(arguments.corpus, split.name)
    folder = fetch_model(arguments.model, scratch)
    model = load_model(folder)
    logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    if not is_trained(folder):
        logger.warning("the model %s was never trained: the figures say how far chance goes", arguments.model)
    if arguments.shuffle != "none":
        logger.info("every round gets the %s of another; the samples of all calls stay in memory", arguments.shuffle)
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
    about = _about(arguments, split, evaluation, model_version(folder))
    _write(out, evaluation, metrics, about, ceilings)
    console.print(_summarize(out, about, metrics, ceilings, time.monotonic() - started))


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
    ceilings = _ceilings(corpus, DEFAULT_SPLIT)
    with start_engine(show_workers=False):
        runs = run_ablations(splits, out, arguments.ablations)
    storage.write_parquet(storage.join(out, ABLATIONS_ROWS), as_table(runs))
    header, lines = tabulate(runs, ceilings)
    explanation = explain(runs, ceilings)
    storage.write_text(storage.join(out, ABLATIONS_TABLE), as_markdown(header, lines, explanation))
    console.width = max(console.width, ABLATIONS_WIDTH)
    console.print(_show(f"Ablations in {out}", header, lines, explanation))


def _show(title: str, header: Sequence[str], lines: Sequence[Sequence[str]], caption: str) -> Table:
    table = Table(
        title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE, padding=(0, 1, 0, 0)
    )
    for column in header:
        table.add_column(column, justify="left" if column == header[0] else "right")
    for line in lines:
        table.add_row(*line)
    return table


def _labelled(arguments: Arguments) -> LabelledSplit:
    if arguments.corpus is None:
        root = str(arguments.manifests)
        return read_labelled("manifests", root, find_days(root, arguments.first_date, arguments.last_date))
    corpus, name = storage.absolute(arguments.corpus), arguments.split or DEFAULT_SPLIT
    root = storage.join(corpus, name)
    if not storage.exists(root):
        held = ", ".join(folder.rpartition("/")[2] for folder in storage.list_folders(corpus))
        raise TrainingDataError(
            f"{corpus} has no split {name}; it has {held or 'no folders, or is none'}; check --corpus and --split"
        )
    return read_labelled(name, root, find_days(root))


def _ceilings(corpus: str | None, split: str) -> dict[str, Any] | None:
    """Of the best possible readers, over all calls and on this split's; None where the corpus knows none."""
    content = None if corpus is None else read_ceilings(corpus)
    if content is None or split not in content["best_reader_of"]:
        return None
    return {"best_possible": content["best_possible"], "best_reader_of_split": content["best_reader_of"][split]}


def _about(arguments: Arguments, split: LabelledSplit, evaluation: Evaluation, version: str) -> dict[str, Any]:
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
    about: Mapping[str, Any],
    ceilings: Mapping[str, Any] | None,
) -> None:
    """Write the four files, the metrics last."""
    storage.make_folder(out)
    storage.write_parquet(storage.join(out, PREDICTIONS_NAME), evaluation.as_table())
    storage.write_bytes(storage.join(out, CONFUSIONS_NAME), plot_confusions(metrics))
    storage.write_bytes(storage.join(out, RELIABILITY_NAME), plot_reliability(metrics))
    tasks = {task: asdict(each) for task, each in metrics.items()}
    content = {**about, "tasks": tasks, "ceilings": ceilings}
    storage.write_text(storage.join(out, METRICS_NAME), json.dumps(content, indent=2) + "\n")


def _summarize(
    out: str,
    about: Mapping[str, Any],
    metrics: Mapping[str, TaskMetrics],
    ceilings: Mapping[str, Any] | None,
    seconds: float,
) -> RenderableType:
    """Tell how good the model is, and how good one could be."""
    num_rejected = about["labelled"] - about["scored"]
    reasons = ", ".join(f"{reason} {count}" for reason, count in about["rejected"].items())
    facts = {
        "model": f"{about['model']}, version {about['model_version']}",
        "calls": f"{about['scored']:,} of {about['labelled']:,} labelled ones of {about['calls_from']}",
        "rejected": f"{num_rejected:,}" + (f" ({reasons})" if reasons else ""),
        "shuffled": about["shuffle"],
        "time": f"{seconds:.1f} seconds",
        "folder": out,
    }
    lines = Text("\n".join(f"  {name:<9} {value}" for name, value in facts.items()))
    return Group(Text("Evaluation", style="bold"), lines, _table_of(metrics, ceilings))


def _table_of(metrics: Mapping[str, TaskMetrics], ceilings: Mapping[str, Any] | None) -> Table:
    table = Table(title="What the model gets (%)", title_justify="left", caption_justify="left")
    for column in ("task", "accuracy", "macro F1", "ECE"):
        table.add_column(column, justify="left" if column == "task" else "right")
    if ceilings is not None:
        table.caption = "ceiling: accuracy of the best reader on these calls (on all possible calls)"
        for reader in SHOWN_READERS:
            table.add_column(f"ceiling\n{reader}", justify="right")
    for task, each in metrics.items():
        figures = [f"{100 * value:.1f}" for value in (each.accuracy, each.macro_f1, each.calibration_error)]
        if ceilings is not None:
            of_split, of_all = ceilings["best_reader_of_split"][task], ceilings["best_possible"][task]
            figures += [f"{100 * of_split[reader]:.1f} ({100 * of_all[reader]:.1f})" for reader in SHOWN_READERS]
        table.add_row(task, *figures)
    return table


if __name__ == "__main__":
    sys.exit(main())
