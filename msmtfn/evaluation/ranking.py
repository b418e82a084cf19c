"""Measures of a ranking: how many of the calls at its top are worth calling back, and how well the order fits.

Shapes: C calls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torchmetrics.functional.classification import multiclass_cohen_kappa
from torchmetrics.functional.retrieval import retrieval_normalized_dcg

from msmtfn.evaluation.metrics import class_targets
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.ranking import LeadWeights

TOP_SHARES: Final = (0.01, 0.05, 0.1)
WANTED_INTENTS: Final = ("A", "B")
ORDINAL_TASK: Final = "four"
"""Task whose classes are in order, from buying to not buying: E, which has no place between A and D, is with D."""


@dataclass(frozen=True, slots=True)
class RankingMetrics:
    """Measures of a ranking by lead score.

    Attributes:
        precision_at: share of A or B among the top 1, 5 and 10 % of the calls, by share ("0.01", ...); at least one
            call is the top.
        ndcg: normalised discounted cumulative gain of the whole ranking; a call's gain is the weight of its label in
            the lead score. Calls of equal score share their places. None if no label has a gain.
        quadratic_kappa: Cohen's kappa with quadratic weights between labels and predictions in the task `four`, whose
            classes A, B, C, DE are in order. None where it is not defined: all labels and predictions are one class.
        accuracy: share of the calls whose most likely class of `five` is the label.
    """

    precision_at: dict[str, float]
    ndcg: float | None
    quadratic_kappa: float | None
    accuracy: float


def ranking_metrics(
    scores: npt.NDArray[np.floating],
    probabilities: Mapping[str, npt.NDArray[np.float32]],
    intents: npt.NDArray[np.int64],
    call_ids: list[str],
) -> RankingMetrics:
    """Compute the measures of a ranking.

    Args:
        scores: (C,) lead scores, or anything else that is higher for a better lead.
        probabilities: (C, K) probabilities by task; `five` and `four` are used.
        intents: (C,) index of each call's label in `INTENTS`.
        call_ids: (C,) which decide between equal scores, as in the leads.

    Raises:
        ValueError: there are no calls.
    """
    if not len(scores):
        raise ValueError("there are no calls; a ranking needs at least one")
    best_first = sorted(range(len(scores)), key=lambda call: (-scores[call], call_ids[call]))
    wanted = np.isin(intents, [INTENTS.index(intent) for intent in WANTED_INTENTS])[best_first]
    predicted = {task: probabilities[task].argmax(axis=1) for task in ("five", ORDINAL_TASK)}
    return RankingMetrics(
        precision_at={str(share): float(wanted[: top_size(share, len(scores))].mean()) for share in TOP_SHARES},
        ndcg=_ndcg(scores, intents),
        quadratic_kappa=_quadratic_kappa(predicted[ORDINAL_TASK], class_targets(ORDINAL_TASK, intents)),
        accuracy=float((predicted["five"] == intents).mean()),
    )


def top_size(share: float, num_calls: int) -> int:
    """Return the number of calls in the top share of a ranking, rounded up."""
    return max(1, math.ceil(round(share * num_calls, 6)))


def group_probabilities(five: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
    """Return the probabilities of all tasks, given those (C, 5) of the five intents."""
    members = {
        task: np.array([[intent in name for name in classes] for intent in INTENTS], np.float32)
        for task, classes in TASKS.items()
    }
    return {task: five @ matrix for task, matrix in members.items()}


def _ndcg(scores: npt.NDArray[np.floating], intents: npt.NDArray[np.int64]) -> float | None:
    gains = np.array(astuple(LeadWeights()))[intents]
    if not gains.any():
        return None
    return retrieval_normalized_dcg(torch.from_numpy(scores.astype(np.float64)), torch.from_numpy(gains)).item()


def _quadratic_kappa(predicted: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> float | None:
    if len({*predicted.tolist(), *labels.tolist()}) == 1:
        return None
    num_classes = len(TASKS[ORDINAL_TASK])
    kappa = multiclass_cohen_kappa(
        torch.from_numpy(predicted), torch.from_numpy(labels), num_classes, weights="quadratic"
    )
    return kappa.item()
