"""The multi-task loss (paper, equation 6)."""

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
    reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    """Sum of the tasks' cross-entropies.

    Args:
        logits: a tensor (C, number of classes) a task.
        intents: (C,) int, the index of each call's intent in `INTENTS`.
        tasks: those that count.
        class_weights: a tensor (number of classes,) a task, by which a call's loss is multiplied; a task that is not
            among them has no weights.
        reduction: "mean" or "sum" over the calls; the mean divides by their number, whatever the weights.

    Returns:
        A scalar.

    Raises:
        ValueError: `tasks` is empty or holds one that there is not, or `reduction` is neither of the two.
    """
    if not tasks:
        raise ValueError(f"tasks is empty; it must hold some of {', '.join(TASKS)}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; it must be 'mean' or 'sum'")
    losses = []
    for task in tasks:
        classes = torch.tensor([class_index(task, intent) for intent in INTENTS], device=intents.device)
        weight = (class_weights or {}).get(task)
        if weight is not None:
            weight = weight.to(logits[task])
        losses.append(F.cross_entropy(logits[task], classes[intents], weight=weight, reduction="sum"))
    total = torch.stack(losses).sum()
    return total / len(intents) if reduction == "mean" else total
