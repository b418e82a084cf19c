"""Classification heads: one for each of the four tasks, or a single one for all (paper, section 3.7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msmtfn.labels import INTENTS, TASKS


class TaskHeads(nn.Module):
    """Independent linear heads over the shared vector of a call, or the head of the five classes alone."""

    def __init__(self, input_size: int, dropout: float, *, multi_task: bool = True) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                task: nn.Sequential(nn.Dropout(dropout), nn.Linear(input_size, len(classes)))
                for task, classes in TASKS.items()
                if multi_task or task == "five"
            }
        )

    def forward(self, calls: Tensor) -> dict[str, Tensor]:
        """Map calls (C, input_size) to the logits of each task, (C, number of its classes)."""
        logits = {task: head(calls) for task, head in self.heads.items()}
        return {task: logits[task] if task in logits else _logits_from_five(logits["five"], task) for task in TASKS}


def _logits_from_five(five: Tensor, task: str) -> Tensor:
    """Derive the logits of a coarser task, (C, number of its classes), from those of the five intents.

    The probability of a class is the sum of the probabilities of its intents, and the logarithms of probabilities are
    valid logits: softmax(log p) = p.
    """
    log_probabilities = torch.log_softmax(five, dim=1)
    classes = [[INTENTS.index(intent) for intent in letters] for letters in TASKS[task]]
    return torch.stack([log_probabilities[:, intents].logsumexp(dim=1) for intents in classes], dim=1)
