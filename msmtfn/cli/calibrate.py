"""Calibrate a model on labelled calls, so that its probabilities mean what they say."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from msmtfn.cli.command import PARSER_OPTIONS, SafeConsole, run_command
from msmtfn.errors import UsageError
from msmtfn.evaluation.calibrate import calibrate_folder, update_distribution
from msmtfn.evaluation.evaluate import evaluate
from msmtfn.features.prepare import PrepareConfig
from msmtfn.inference.scorer import Device
from msmtfn.labels import TASKS
from msmtfn.model.calibration import Calibration, read_calibration
from msmtfn.progress import LineLog
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps

DEFAULT_SPLIT = "validation"

logger = logging.getLogger("msmtfn.calibrate")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Calibrate a model on labelled calls that it has not learned from.

    Writes calibration.json to the model's folder, the figures to its card, and the calibrated probabilities to its
    distribution.json. Everything else stays as it is. Training does this by itself; this is for models of older
    versions, and for more calls than the training had for validation.

    The model's version changes with its calibration, so the same command scores a published day again.

    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """

    model: Path
    """Local folder of the model."""
    corpus: str | None = None
    """Folder or s3:// address of splits, all of them roots of manifests, as simulate-calls writes it."""
    split: str | None = None
    """Split of --corpus; by default validation."""
    manifests: str | None = None
    """Root of the manifests, <manifests>/date=YYYY-MM-DD/*.parquet: a local folder or an s3:// address."""
    first_date: Annotated[dt.date | None, tyro.conf.arg(name="from")] = None
    """First day of --manifests; by default the first one that has a manifest."""
    last_date: Annotated[dt.date | None, tyro.conf.arg(name="to")] = None
    """Last day of --manifests; by default the last one that has a manifest."""
    device: Device = "auto"
    """Device that the network runs on; auto uses a GPU if there is one."""
    prepare: Annotated[PrepareConfig, tyro.conf.arg(name="")] = field(default_factory=PrepareConfig)
    """Options of preparing recordings for the network."""


def main(program: str, arguments: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Args:
        program: name of the command in its help.
        arguments: command-line arguments, without the name of the command.
    """
    return run_command(partial(_calibrate, program, arguments), job="calibrate")


def _calibrate(program: str, arguments: Sequence[str]) -> None:
    options = tyro.cli(Arguments, prog=program, args=arguments, config=PARSER_OPTIONS)
    if not options.model.is_dir():
        raise UsageError(f"--model is {options.model}; it must be a local folder, since its files are written")
    given = {"--corpus": options.corpus, "--manifests": options.manifests}
    inputs = [NamedLocation(name, location) for name, location in given.items() if location is not None]
    refuse_overlaps(inputs, [NamedLocation("--model", str(options.model))])
    log, started = LineLog(logger), time.monotonic()
    result = evaluate(
        options.model,
        corpus=options.corpus,
        split=(options.split or DEFAULT_SPLIT) if options.corpus is not None else options.split,
        manifests=options.manifests,
        first_date=options.first_date,
        last_date=options.last_date,
        device=options.device,
        prepare=options.prepare,
        report=lambda stage, done, num_calls: log.show(f"{done} of {num_calls} calls {stage}"),
    )
    update_distribution(options.model, calibrate_folder(options.model, result.evaluation))
    _print_summary(SafeConsole(), options.model, read_calibration(options.model), time.monotonic() - started)


def _print_summary(console: Console, folder: Path, calibration: Calibration, seconds: float) -> None:
    table = Table(
        title=f"Calibration of {folder} on {calibration.calls:,} calls: temperature {calibration.temperature:.3f}, set "
        f"threshold {calibration.set_threshold:.3f}; {seconds:.0f} s",
        title_justify="left",
    )
    for column in ("task", "ECE of the heads, %", "ECE, %", "log loss of the heads", "log loss"):
        table.add_column(column, justify="left" if column == "task" else "right")
    before, after = calibration.before, calibration.after
    if before is not None and after is not None:
        for task in TASKS:
            errors = [f"{100 * figures.calibration_error[task]:.1f}" for figures in (before, after)]
            table.add_row(task, *errors, *(f"{figures.log_loss[task]:.3f}" for figures in (before, after)))
    console.print(table)
