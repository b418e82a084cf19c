"""Evaluate a model on labelled calls: accuracy, macro F1 and calibration in the four tasks, next to their ceilings.

With --ablations, train and evaluate the variants of the network that the paper compares.
"""

from __future__ import annotations

import argparse
import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Final, Literal

import tyro
from rich.box import SIMPLE
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.corpora.simulation.plan import SPLITS
from msmtfn.engine import start_engine
from msmtfn.evaluation.ceilings import read_split_ceilings
from msmtfn.evaluation.evaluate import DEFAULT_SPLIT, EvaluationReport, evaluate
from msmtfn.evaluation.labelled import check_splits, read_labelled
from msmtfn.evaluation.ranking import TOP_SHARES, RankingMetrics
from msmtfn.evaluation.shuffling import Shuffle
from msmtfn.features.prepare import PrepareConfig
from msmtfn.progress import LineLog
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps
from msmtfn.training.ablations import AblationConfig, as_markdown, as_table, explain, run_ablations, tabulate

ABLATIONS_OPTION: Final = "--ablations"
ABLATIONS_WIDTH: Final = 140
"""Minimum width of the table; on a narrower terminal wrapped lines are easier to read than truncated figures."""
ABLATIONS_TABLE, ABLATIONS_ROWS = "ablations.md", "ablations.parquet"
SHOWN_READERS: Final = ("text", "audio", "both")

logger = logging.getLogger("msmtfn.evaluate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Evaluate a model on labelled calls: accuracy, macro F1 and calibration in the four tasks, and its ranking.

    The ranking is compared with two simple readers of the transcript: rules, and a bag of words (--baseline-calls).

    The calls come from one of two sources:
    - --corpus, --split: a split of a corpus. A simulated one has ceilings: the accuracy of the best possible readers.
    - --manifests, --from, --to: days of manifests.

    With --ablations, trains and evaluates the variants of the network that the paper compares instead of a model.

    The options of --ablations are different; `--ablations --help` lists them.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    model: str
    """Model to evaluate: a folder, an s3:// address, a name on the Hugging Face hub, or "demo"."""
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
    transcripts: str | None = None
    """Root of the transcripts that transcribe-daily publishes, for calls whose manifest has no turns.
    With --corpus, the folder above those of its splits, such as test/."""
    shuffle: Shuffle = "none"
    """Give every round the audio or the text of a random other round, to measure how much the network relies on it.
    This keeps the samples of all calls in memory, about 1 MB per minute of speech at 8 kHz."""
    seed: int = 0
    """Random seed of --shuffle."""
    baseline_calls: str | None = None
    """Root of the manifests whose labelled calls the bag-of-words baseline learns from, such as <corpus>/training.
    Without it, only the baseline of rules is shown beside the model."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device that the network runs on; auto uses a GPU if there is one."""
    prepare: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)
    """Options of preparing recordings for the network."""


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


def _make_reporter() -> Callable[[str, int, int], None]:
    """Return a function that logs the progress now and then, and at the end."""
    log, started = LineLog(logger), time.monotonic()

    def report(stage: str, done: int, num_calls: int) -> None:
        line = f"{done} of {num_calls} calls {stage}, after {time.monotonic() - started:.0f} s"
        log.show(line, is_last=stage == "scored" and done == num_calls)

    return report


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_evaluate, program, arguments), job="evaluate")


def _evaluate(program: str, arguments: Sequence[str]) -> None:
    mode_parser = argparse.ArgumentParser(prog=program, add_help=False, allow_abbrev=False)
    mode_parser.add_argument(ABLATIONS_OPTION, action="store_true", dest="ablations")
    mode, remaining = mode_parser.parse_known_args(arguments)
    if mode.ablations:  # has options of its own, without a required --model
        program = f"{program} {ABLATIONS_OPTION}"
        _run_ablations(tyro.cli(AblationArguments, prog=program, args=remaining, config=PARSER_OPTIONS), SafeConsole())
        return
    options = tyro.cli(Arguments, prog=program, args=remaining, config=PARSER_OPTIONS)
    _run(options, SafeConsole())


def _run(arguments: Arguments, console: Console) -> None:
    started = time.monotonic()
    result = evaluate(
        arguments.model,
        corpus=arguments.corpus,
        split=arguments.split,
        manifests=arguments.manifests,
        first_date=arguments.first_date,
        last_date=arguments.last_date,
        transcripts=arguments.transcripts,
        out=arguments.out,
        shuffle=arguments.shuffle,
        seed=arguments.seed,
        baseline_calls=arguments.baseline_calls,
        device=arguments.device,
        prepare=arguments.prepare,
        report=_make_reporter(),
    )
    console.print(_summarize(storage.absolute(arguments.out), result, time.monotonic() - started))


def _run_ablations(arguments: AblationArguments, console: Console) -> None:
    prefixes = arguments.ablations.training.prepare.allowed_prefixes
    inputs = [
        NamedLocation("--corpus", arguments.corpus),
        *(NamedLocation("--allowed-prefixes", prefix) for prefix in prefixes),
    ]
    refuse_overlaps(inputs, [NamedLocation("--out", arguments.out)])
    out, corpus = storage.absolute(arguments.out), storage.absolute(arguments.corpus)
    roots = {name: storage.join(corpus, name) for name in SPLITS}
    splits = [read_labelled(name, root, find_days(root)) for name, root in roots.items()]
    check_splits(*splits)
    for split in splits:
        logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    ceilings = read_split_ceilings(corpus, DEFAULT_SPLIT)
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


def _summarize(out: str, result: EvaluationReport, seconds: float) -> RenderableType:
    """Return a summary of the model's metrics and of the best possible ones."""
    rejected = result.evaluation.rejected
    num_labelled, num_rejected = len(result.split.rows), sum(rejected.values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.items())
    shown = {
        "model": f"{result.model}, version {result.model_version}",
        "calls": f"{num_labelled - num_rejected:,} of {num_labelled:,} labelled calls in {result.split.root}",
        "rejected": f"{num_rejected:,}" + (f" ({reasons})" if reasons else ""),
        "shuffled": result.shuffle,
        "time": f"{seconds:.1f} seconds",
        "folder": out,
    }
    lines = Text("\n".join(f"  {name:<9} {value}" for name, value in shown.items()))
    tables = _make_metrics_table(result), _make_calibration_table(result), _make_ranking_table(result.ranking)
    return Group(Text("Evaluation", style="bold"), lines, *tables)


def _make_ranking_table(ranking: Mapping[str, RankingMetrics]) -> Table:
    table = Table(title="Ranking by lead score (%)", title_justify="left", caption_justify="left")
    table.caption = "A or B at top: share of these among the best calls; kappa: quadratic, of A, B, C, DE"
    for column in ("reader", *(f"A or B\nat top {share:.0%}" for share in TOP_SHARES), "NDCG", "kappa", "accuracy"):
        table.add_column(column, justify="left" if column == "reader" else "right")
    for reader, result in ranking.items():
        figures = [*result.precision_at.values(), result.ndcg, result.quadratic_kappa, result.accuracy]
        table.add_row(
            reader.replace("_", " "), *("-" if figure is None else f"{100 * figure:.1f}" for figure in figures)
        )
    return table


def _make_metrics_table(result: EvaluationReport) -> Table:
    title = f"Metrics of the model, {result.network.title} (%)"
    table = Table(title=title, title_justify="left", caption=result.network.about_rounds, caption_justify="left")
    for column in ("task", "accuracy", "macro F1"):
        table.add_column(column, justify="left" if column == "task" else "right")
    ceilings = result.ceilings
    if ceilings is not None:
        ceiling = "ceiling: accuracy of the best possible reader on these calls (on all possible calls)"
        table.caption = f"{result.network.about_rounds}\n{ceiling}"
        for reader in SHOWN_READERS:
            table.add_column(f"ceiling\n{reader}", justify="right")
    for task, metrics in result.metrics.items():
        figures = [f"{100 * value:.1f}" for value in (metrics.accuracy, metrics.macro_f1)]
        if ceilings is not None:
            of_split, of_all = ceilings["best_reader_of_split"][task], ceilings["best_possible"][task]
            figures += [f"{100 * of_split[reader]:.1f} ({100 * of_all[reader]:.1f})" for reader in SHOWN_READERS]
        table.add_row(task, *figures)
    return table


def _make_calibration_table(result: EvaluationReport) -> Table:
    """Return the errors of the leads' probabilities, and those of the heads, from which they are made."""
    table = Table(title="Calibration", title_justify="left", caption_justify="left")
    table.caption = "ECE: expected calibration error, 15 bins"
    for column in ("task", "ECE (%)", "ECE (%)\nof heads", "log loss", "log loss\nof heads"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for task, metrics in result.metrics.items():
        heads = result.head_metrics[task]
        errors = [f"{100 * value:.1f}" for value in (metrics.calibration_error, heads.calibration_error)]
        table.add_row(task, *errors, *(f"{value:.3f}" for value in (metrics.log_loss, heads.log_loss)))
    return table
