"""Multi-task loss (paper, section 3.7, equation 6)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from msmtfn.labels import INTENTS, TASKS, class_index


def multi_task_loss(
    logits: Mapping[str, Tensor],
    intents: Tensor,
    *,
    tasks: Collection[str] = tuple(TASKS),
    class_weights: Mapping[str, Tensor] | None = None,
    call_weights: Tensor | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Sum the cross-entropies of the tasks: L_total = L_five + L_four + L_three + L_two (equation 6).

    Args:
        logits: for each task a tensor (C, number of classes).
        intents: (C,) int, the index of each call's intent in `INTENTS`.
        tasks: tasks to include in the sum.
        class_weights: for each task a tensor (number of classes,) of factors for a call's loss; tasks that are missing
            here are unweighted.
        call_weights: (C,) factors for the calls' losses; None weighs all alike.
        reduction: "mean" or "sum" over the calls; the mean divides by the number of calls, not by the sum of weights.

    Returns:
        A scalar.

    Raises:
        ValueError: `tasks` is empty or contains an unknown task, or `reduction` is unknown.
    """
    if not tasks:
        raise ValueError(f"tasks is empty; give at least one of {', '.join(TASKS)}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; it must be 'mean' or 'sum'")
    losses = []
    for task in tasks:
        classes = torch.tensor([class_index(task, intent) for intent in INTENTS], device=intents.device)
        weight = (class_weights or {}).get(task)
        if weight is not None:
            weight = weight.to(logits[task])
        if call_weights is None:
            losses.append(F.cross_entropy(logits[task], classes[intents], weight=weight, reduction="sum"))
        else:
            each = F.cross_entropy(logits[task], classes[intents], weight=weight, reduction="none")
            losses.append((each * call_weights).sum())
    total = torch.stack(losses).sum()
    return total / len(intents) if reduction == "mean" else total
