"""The multi-task loss (paper, equation 6)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from msmtfn.labels import INTENTS, TASKS, class_index


def multi_task_loss(logits: dict[str, Tensor], intents: Tensor) -> Tensor:
    """Sum of the four tasks' cross-entropies.

    Args:
        logits: a tensor (C, number of classes) a task.
        intents: (C,) int, the index of each call's intent in `INTENTS`.

    Returns:
        A scalar.
    """
    losses = []
    for task in TASKS:
        classes = torch.tensor([class_index(task, intent) for intent in INTENTS], device=intents.device)
        losses.append(F.cross_entropy(logits[task], classes[intents]))
    return torch.stack(losses).sum()
