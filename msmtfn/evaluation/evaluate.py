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
from typing import Any, Final, get_args

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.corpora import is_demo, replace_demo
from msmtfn.errors import TrainingDataError, UsageError
from msmtfn.evaluation.baselines import predict_by_rules, predict_by_words, require_scikit_learn
from msmtfn.evaluation.ceilings import read_split_ceilings
from msmtfn.evaluation.evaluator import Evaluation, Report, evaluate_calls
from msmtfn.evaluation.labelled import LabelledSplit, read_labelled
from msmtfn.evaluation.metrics import TaskMetrics
from msmtfn.evaluation.plots import plot_confusions, plot_reliability
from msmtfn.evaluation.ranking import RankingMetrics, group_probabilities, ranking_metrics
from msmtfn.evaluation.shuffling import Shuffle
from msmtfn.features.prepare import PrepareConfig
from msmtfn.inference.scorer import Device, ScorerConfig
from msmtfn.leads.ranking import LeadWeights, lead_scores
from msmtfn.model.checkpoint import Model, fetch_model, is_trained, load_model, model_version
from msmtfn.model.config import NetworkConfig
from msmtfn.model.location import locations_of_model
from msmtfn.rows import ROW_ID
from msmtfn.storage.overlap import NamedLocation, refuse_overlaps

logger = logging.getLogger(__name__)

DEFAULT_SPLIT: Final = "test"
METRICS_NAME, PREDICTIONS_NAME = "metrics.json", "predictions.parquet"
CONFUSIONS_NAME, RELIABILITY_NAME = "confusions.png", "reliability.png"


@dataclass(frozen=True)
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
        network: configuration of the model's network.
        baseline_calls: calls that the bag of words has learned from; None leaves that baseline out.
    """

    model: str
    model_version: str
    split: LabelledSplit
    of_corpus: bool
    shuffle: Shuffle
    seed: int
    evaluation: Evaluation
    ceilings: Mapping[str, Any] | None
    network: NetworkConfig
    baseline_calls: LabelledSplit | None = None

    @cached_property
    def metrics(self) -> dict[str, TaskMetrics]:
        """Accuracy, macro F1, calibration error, log loss and confusion, by task."""
        return self.evaluation.metrics()

    @cached_property
    def ranking(self) -> dict[str, RankingMetrics]:
        """Measures of the ranking by the model and by the baselines, on the calls that were scored."""
        scored, intents, call_ids = self.evaluation.scored, self.evaluation.intents, self.evaluation.call_ids
        turns = self.split.rows["turns"].take(scored[ROW_ID].combine_chunks()).to_pylist()
        found = {"model": self.evaluation.probabilities, "rules": group_probabilities(predict_by_rules(turns))}
        if self.baseline_calls is not None:
            learned = self.baseline_calls
            five = predict_by_words(learned.rows["turns"].to_pylist(), learned.intents, turns)
            found["bag_of_words"] = group_probabilities(five)
        return {
            name: ranking_metrics(lead_scores(each["five"], LeadWeights()), each, intents, call_ids)
            for name, each in found.items()
        }

    @cached_property
    def head_metrics(self) -> dict[str, TaskMetrics]:
        """The same of the four heads as they are, before calibration."""
        return self.evaluation.head_metrics()

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `metrics.json`."""
        return {
            "model": self.model,
            "model_version": self.model_version,
            "network": self.network.title,
            "about_rounds": self.network.about_rounds,
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
            "heads": {task: asdict(task_metrics) for task, task_metrics in self.head_metrics.items()},
            "ranking": {reader: asdict(ranking) for reader, ranking in self.ranking.items()},
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
    baseline_calls: str | os.PathLike[str] | None = None,
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
        baseline_calls: root of labelled calls from which the bag of words learns; None leaves that baseline out.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
        prepare: limits of recordings, and folders that may contain them.
        report: receives the progress.

    Raises:
        JobError: the arguments do not go together, something cannot be read, or no call can be scored.

    Example:
        >>> evaluate("demo", corpus="corpus", out="report").metrics["five"].accuracy
        0.784
    """
    named = {"--corpus": corpus, "--manifests": manifests}
    given = _check_given(named, transcripts, split, first_date or last_date, shuffle, seed)
    model, prepare = os.fspath(model), prepare or PrepareConfig()
    learned_from = {} if baseline_calls is None else {"--baseline-calls": os.fspath(baseline_calls)}
    target = None if out is None else _check_target(os.fspath(out), model, given | learned_from, prepare)
    labelled = _read_split(given, split, first_date, last_date)
    learned = _read_baseline_calls(learned_from["--baseline-calls"], labelled) if learned_from else None
    ceilings = read_split_ceilings(given["--corpus"], labelled.name) if corpus is not None else None
    score = partial(evaluate_calls, scorer=ScorerConfig(device=device), shuffle=shuffle, seed=seed, report=report)
    evaluation, version, network = _score(model, labelled, prepare, shuffle, score)
    of_corpus = corpus is not None
    result = EvaluationReport(
        model, version, labelled, of_corpus, shuffle, seed, evaluation, ceilings, network, baseline_calls=learned
    )
    _ = result.metrics  # raises if no call was scored
    if target is not None:
        result.write(target)
    return result


def _check_target(out: str, model: str, given: Mapping[str, str], prepare: PrepareConfig) -> str:
    """Return the absolute location of the report, after checking that it overlaps nothing that is read."""
    places = [] if is_demo(model) else locations_of_model(model)
    inputs = [NamedLocation("--model", place) for place in places]
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
) -> tuple[Evaluation, str, NetworkConfig]:
    """Load a model and score the calls with it; return them, the model's version and its network's configuration."""
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        folder = fetch_model(replace_demo(model), Path(scratch))
        loaded = load_model(folder)
        _log_inputs(model, labelled, shuffle, trained=is_trained(folder))
        return score(loaded, labelled, prepare), model_version(folder), loaded.network.config


def _check_given(
    named: Mapping[str, str | os.PathLike[str] | None],
    transcripts: str | os.PathLike[str] | None,
    split: str | None,
    date: dt.date | None,
    shuffle: Shuffle,
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
    if shuffle not in get_args(Shuffle):
        raise UsageError(f"--shuffle is {shuffle!r}; it must be one of {', '.join(get_args(Shuffle))}")
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


def _read_baseline_calls(root: str, split: LabelledSplit) -> LabelledSplit:
    """Read the calls that the bag of words learns from, and check that it is not judged on them."""
    require_scikit_learn()
    learned = read_labelled("baseline", root, find_days(root))
    shared = set(learned.rows["uri"].to_pylist()) & set(split.rows["uri"].to_pylist())
    if shared:
        raise TrainingDataError(
            f"{len(shared)} recordings of {root} are evaluated, too, so the bag of words would know their labels; give "
            "other calls as --baseline-calls"
        )
    return learned


def _log_inputs(model: str, split: LabelledSplit, shuffle: Shuffle, *, trained: bool) -> None:
    logger.info("%s: %d calls of %d days, %s", split.name, len(split.rows), len(split.dates), split.counts)
    if not trained:
        logger.warning("the model %s was never trained, so its figures are those of chance", model)
    if shuffle != "none":
        logger.info("every round gets the %s of another round; the samples of all calls are kept in memory", shuffle)
