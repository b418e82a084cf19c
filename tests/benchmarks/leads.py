"""How far the leads of labelled calls can be trusted: calibration, prediction sets, ranking and evidence.

"Before" is what the four heads of the network say as they are, "after" is what is published.

Shapes: R rounds of a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
import torch
from torch import Tensor

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.evaluation.labelled import read_labelled
from msmtfn.evaluation.metrics import all_metrics
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.calibration import calibrate, prediction_sets
from msmtfn.inference.scorer import BATCH_CALLS, Scorer, ScorerConfig, split_calls
from msmtfn.labels import INTENTS, TASKS, class_index
from msmtfn.leads.ranking import lead_scores
from msmtfn.model.checkpoint import Model

GOOD: Final = [INTENTS.index("A"), INTENTS.index("B")]
FIRST_SHARE: Final = 0.1
SAME: Final = 1e-5
"""Difference up to which two float probabilities count as equal."""

Arrays = dict[str, npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class EncodedCall:
    """A labelled call with the vectors of its rounds.

    Attributes:
        sides: (R, 2, D), as `MsmtFn.encode_sides` returns them.
        intent: index of its label in `INTENTS`.
    """

    sides: Tensor
    intent: int


def measure_leads(model: Model, corpus: str, split: str, num_calls: int, seed: int) -> list[dict[str, Any]]:
    """Score the labelled calls of a corpus and compare the leads with the labels.

    Args:
        model: the model.
        corpus: folder of the corpus.
        split: split of the corpus.
        num_calls: maximum number of calls, the first ones; 0 takes all.
        seed: random seed of the rounds that are removed at random.

    Returns:
        One row per figure, before and after.
    """
    root = storage.join(storage.absolute(corpus), split)
    rows = read_labelled(split, root, find_days(root)).rows
    rows = rows.slice(0, num_calls) if num_calls else rows
    preparer = Preparer(PrepareConfig(), model.processor, root)
    scorer = Scorer(model.network, ScorerConfig(device="cpu"), calibration=model.calibration)
    calls: list[EncodedCall] = []
    for start in range(0, len(rows), BATCH_CALLS):
        batch = preparer.prepare_batch(rows.slice(start, BATCH_CALLS), ["intent"])
        batch = batch.filter(pc.is_null(batch["status"]))
        inputs = list(split_calls(batch))
        with torch.inference_mode():
            vectors = scorer.encode_calls(inputs).split([len(call.samples) for call in inputs])
        labels = [INTENTS.index(intent) for intent in batch["intent"].to_pylist()]
        calls += [EncodedCall(*call) for call in zip(vectors, labels, strict=True)]
    return describe_leads(scorer, calls, seed)


def describe_leads(scorer: Scorer, calls: Sequence[EncodedCall], seed: int) -> list[dict[str, Any]]:
    """Return the figures of calls that are encoded already, one row per figure."""
    labels = np.array([call.intent for call in calls])
    with torch.inference_mode():
        vectors = torch.cat([call.sides[:, 0] for call in calls])
        heads = scorer.classify(vectors, [len(call.sides) for call in calls])
    after = calibrate(heads, scorer.calibration)
    metrics = {"before": all_metrics(heads, labels), "after": all_metrics(after, labels)}
    rows = [_row("calls", len(calls), len(calls))]
    rows.append(_row("tasks that are no sums of one distribution, % of calls", *map(_no_sums, (heads, after))))
    rows.append(_row("tasks whose most likely classes differ, % of calls", *map(_differ, (heads, after))))
    for task in TASKS:
        both = [metrics[when][task] for when in ("before", "after")]
        rows.append(_row(f"{task}: accuracy, %", *(100 * each.accuracy for each in both)))
        rows.append(_row(f"{task}: ECE, %", *(100 * each.calibration_error for each in both)))
        rows.append(_row(f"{task}: log loss", *(each.log_loss for each in both)))
    sets = prediction_sets(after["five"], scorer.calibration)
    covered = float(np.mean([INTENTS[label] in each for label, each in zip(labels, sets, strict=True)]))
    rows.append(_row("prediction sets that hold the intent, %", None, 100 * covered))
    rows.append(_row("intents in a set, mean", None, float(np.mean([len(each) for each in sets]))))
    rows.append(
        _row("A or B among the first tenth, %", *(_good_first(scorer, each, labels) for each in (heads, after)))
    )
    return [*rows, *_faithfulness(scorer, calls, seed)]


def _faithfulness(scorer: Scorer, calls: Sequence[EncodedCall], seed: int) -> list[dict[str, Any]]:
    """Compare the removal of the first round of the evidence with that of a random round, in calls of two or more."""
    rng = np.random.default_rng(seed)
    first, random, other = [], [], []
    with torch.inference_mode():
        for call in calls:
            num_rounds = len(call.sides)
            if num_rounds < 2:
                continue
            whole = call.sides[:, 0]
            variants = [torch.cat([whole[:index], whole[index + 1 :]]) for index in range(num_rounds)]
            scores = scorer.score_vectors(torch.cat([whole, *variants]), [num_rounds, *map(len, variants)])
            changes = np.abs(scores[0] - scores[1:])
            best = int(changes.argmax())
            first.append(changes[best])
            random.append(changes[rng.integers(num_rounds)])
            other.append(changes[rng.choice(np.delete(np.arange(num_rounds), best))])
    means = {"first": np.mean(first), "random": np.mean(random), "another": np.mean(other)}
    return [
        _row("calls of two rounds or more", None, len(first)),
        *(_row(f"mean change of the score without the {name} round, points", None, means[name]) for name in means),
        _row("first : random", None, means["first"] / means["random"]),
        _row("first : another", None, means["first"] / means["another"]),
    ]


def _no_sums(probabilities: Arrays) -> float:
    five = probabilities["five"]
    differ = np.zeros(len(five), bool)
    for task, classes in TASKS.items():
        sums = np.stack([five[:, [INTENTS.index(each) for each in letters]].sum(axis=1) for letters in classes], axis=1)
        differ |= np.abs(sums - probabilities[task]).max(axis=1) > SAME
    return float(100 * differ.mean())


def _differ(probabilities: Arrays) -> float:
    likely = [INTENTS[index] for index in probabilities["five"].argmax(axis=1)]
    classes = {task: np.array([class_index(task, intent) for intent in likely]) for task in TASKS}
    return float(100 * np.any([probabilities[task].argmax(axis=1) != classes[task] for task in TASKS], axis=0).mean())


def _good_first(scorer: Scorer, probabilities: Arrays, labels: npt.NDArray[np.int64]) -> float:
    scores = lead_scores(probabilities["five"], scorer.config.lead_weights)
    first = np.argsort(-scores, kind="stable")[: max(1, round(FIRST_SHARE * len(scores)))]
    return float(100 * np.isin(labels[first], GOOD).mean())


def _row(figure: str, before: float | None, after: float) -> dict[str, Any]:
    return {
        "figure": figure,
        "before": "" if before is None else round(float(before), 4),
        "after": round(float(after), 4),
    }
