"""Evaluate a model on the labelled calls of a corpus or of manifests, and write the report."""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Final

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.errors import TrainingDataError, UsageError
from msmtfn.evaluation.ceilings import read_split_ceilings
from msmtfn.evaluation.evaluator import Evaluation, Report, evaluate_calls
from msmtfn.evaluation.labelled import LabelledSplit, read_labelled
from msmtfn.evaluation.metrics import TaskMetrics
from msmtfn.evaluation.plots import plot_confusions, plot_reliability
from msmtfn.evaluation.shuffling import Shuffle
from msmtfn.features.prepare import PrepareConfig
from msmtfn.inference.classifier import find_model
from msmtfn.inference.scorer import Device, ScorerConfig
from msmtfn.model.checkpoint import Model, is_trained, load_model, model_version
from msmtfn.model.location import locations_of_model
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps

logger = logging.getLogger(__name__)

DEFAULT_SPLIT: Final = "test"
METRICS_NAME, PREDICTIONS_NAME = "metrics.json", "predictions.parquet"
CONFUSIONS_NAME, RELIABILITY_NAME = "confusions.png", "reliability.png"


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Evaluation of a model, with what it was made of.

    Attributes:
        model: name of the model as the caller gave it.
        model_version: version of the model.
        split: the labelled calls.
        of_corpus: whether they are a split of a corpus, and not days of manifests.
        shuffle: the modality that was shuffled.
        seed: seed of the shuffling.
        evaluation: the calls with the model's predictions.
        ceilings: accuracies of the best readers of a simulated corpus: `best_possible` on all calls that could be
            drawn, `best_reader_of_split` on these; both by task and reader. None for other calls.
    """

    model: str
    model_version: str
    split: LabelledSplit
    of_corpus: bool
    shuffle: Shuffle
    seed: int
    evaluation: Evaluation
    ceilings: Mapping[str, Any] | None

    @cached_property
    def metrics(self) -> dict[str, TaskMetrics]:
        """Accuracy, macro F1, calibration error and confusion, by task."""
        return self.evaluation.metrics()

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `metrics.json`."""
        return {
            "model": self.model,
            "model_version": self.model_version,
            "calls_from": self.split.root,
            "split": self.split.name if self.of_corpus else None,
            "dates": [str(date) for date in self.split.dates],
            "shuffle": self.shuffle,
            "seed": self.seed,
            "labelled": len(self.split.rows),
            "scored": len(self.evaluation.call_ids),
            "rejected": self.evaluation.rejected,
            "intents": self.split.counts,
            "tasks": {task: asdict(task_metrics) for task, task_metrics in self.metrics.items()},
            "ceilings": self.ceilings,
        }

    def write(self, out: str) -> None:
        """Write `predictions.parquet`, the two plots and, last, `metrics.json` to a folder or an `s3://` address."""
        storage.make_folder(out)
        storage.write_parquet(storage.join(out, PREDICTIONS_NAME), self.evaluation.as_table())
        storage.write_bytes(storage.join(out, CONFUSIONS_NAME), plot_confusions(self.metrics))
        storage.write_bytes(storage.join(out, RELIABILITY_NAME), plot_reliability(self.metrics))
        storage.write_text(storage.join(out, METRICS_NAME), json.dumps(self.to_dict(), indent=2) + "\n")


def evaluate(
    model: str | os.PathLike[str],
    *,
    corpus: str | os.PathLike[str] | None = None,
    split: str | None = None,
    manifests: str | os.PathLike[str] | None = None,
    first_date: dt.date | None = None,
    last_date: dt.date | None = None,
    transcripts: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    shuffle: Shuffle = "none",
    seed: int = 0,
    device: Device = "auto",
    prepare: PrepareConfig | None = None,
    report: Report = lambda _stage, _done, _all: None,
) -> EvaluationReport:
    """Evaluate a model on labelled calls in this process; the command `msmtfn evaluate` does the same.

    Args:
        model: `"demo"`, a folder, an `s3://` URI, a name on the Hugging Face hub, or `<root>/current` of a registry.
        corpus: folder or `s3://` address of splits; give either this or `manifests`.
        split: split of the corpus; by default `test`.
        manifests: root of manifests.
        first_date: first day of the manifests; by default the first one that there is.
        last_date: last day of the manifests; by default the last one.
        transcripts: root of transcripts, for calls without turns; with a corpus, the folder above those of its splits.
        out: folder or `s3://` address for the report's files, which are replaced; None writes nothing.
        shuffle: the modality of which every round receives that of a random other round.
        seed: seed of the shuffling.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        prepare: limits of recordings, and folders that may contain them.
        report: receives the progress.

    Raises:
        JobError: the arguments do not go together, something cannot be read, or no call can be scored.

    Example:
        >>> report = evaluate("demo", corpus="corpus", out="report")
        >>> report.metrics["five"].accuracy
        0.784
    """
    named = {"--corpus": corpus, "--manifests": manifests}
    given = _check_arguments(named, transcripts, split, first_date or last_date, seed)
    model, prepare = os.fspath(model), prepare or PrepareConfig()
    target = None if out is None else _check_target(os.fspath(out), model, given, prepare)
    labelled = _read_split(given, split, first_date, last_date)
    ceilings = read_split_ceilings(given["--corpus"], labelled.name) if corpus is not None else None
    score = partial(evaluate_calls, scorer=ScorerConfig(device=device), shuffle=shuffle, seed=seed, report=report)
    evaluation, version = _score(model, labelled, prepare, shuffle, score)
    made_of: dict[str, Any] = {
        "model": model,
        "model_version": version,
        "split": labelled,
        "of_corpus": corpus is not None,
    }
    result = EvaluationReport(**made_of, shuffle=shuffle, seed=seed, evaluation=evaluation, ceilings=ceilings)
    _ = result.metrics  # raises if no call was scored
    if target is not None:
        result.write(target)
    return result


def _check_target(out: str, model: str, given: Mapping[str, str], prepare: PrepareConfig) -> str:
    """Return the absolute location of the report, after checking that it overlaps nothing that is read."""
    inputs = [NamedLocation("--model", place) for place in locations_of_model(model)]
    inputs += [NamedLocation("--allowed-prefixes", prefix) for prefix in prepare.allowed_prefixes]
    inputs += [NamedLocation(option, location) for option, location in given.items()]
    refuse_overlaps(inputs, [NamedLocation("--out", out)])
    return storage.absolute(out)


def _score(
    model: str,
    labelled: LabelledSplit,
    prepare: PrepareConfig,
    shuffle: Shuffle,
    score: Callable[[Model, LabelledSplit, PrepareConfig], Evaluation],
) -> tuple[Evaluation, str]:
    """Load a model and score the calls with it; return them with the model's version."""
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        folder = find_model(model, Path(scratch))
        loaded = load_model(folder)
        _log_inputs(model, labelled, shuffle, trained=is_trained(folder))
        return score(loaded, labelled, prepare), model_version(folder)


def _check_arguments(
    named: Mapping[str, str | os.PathLike[str] | None],
    transcripts: str | os.PathLike[str] | None,
    split: str | None,
    date: dt.date | None,
    seed: int,
) -> dict[str, str]:
    """Check that the arguments go together; return the locations of calls and transcripts by the names of options."""
    given = {option: os.fspath(location) for option, location in named.items() if location is not None}
    if len(given) != 1:
        raise UsageError("give either --corpus or --manifests")
    if "--corpus" in given and date is not None:
        raise UsageError("--from and --to select days of --manifests; a split of a corpus is always used as a whole")
    if "--manifests" in given and split is not None:
        raise UsageError("--split selects a split of --corpus; use --from and --to to select days of --manifests")
    if seed < 0:
        raise UsageError(f"--seed is {seed}; it must be at least 0")
    return given if transcripts is None else {**given, "--transcripts": os.fspath(transcripts)}


def _read_split(
    given: Mapping[str, str], split: str | None, first_date: dt.date | None, last_date: dt.date | None
) -> LabelledSplit:
    transcripts = given.get("--transcripts")
    if (root := given.get("--manifests")) is not None:
        return read_labelled("manifests", root, find_days(root, first_date, last_date), transcripts)
    corpus, name = storage.absolute(given["--corpus"]), split or DEFAULT_SPLIT
    root = storage.join(corpus, name)
    if not storage.exists(root):
        existing = ", ".join(folder.rpartition("/")[2] for folder in storage.list_folders(corpus))
        raise TrainingDataError(
            f"{corpus} has no split {name}; it has {existing or 'no folders or is missing'}; check --corpus and --split"
        )
    return read_labelled(name, root, find_days(root), None if transcripts is None else storage.join(transcripts, name))


def _log_inputs(model: str, split: LabelledSplit, shuffle: Shuffle, *, trained: bool) -> None:
    logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    if not trained:
        logger.warning("the model %s was never trained, so its figures are those of chance", model)
    if shuffle != "none":
        logger.info("every round gets the %s of another round; the samples of all calls are kept in memory", shuffle)
