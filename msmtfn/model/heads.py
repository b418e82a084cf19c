"""A classifier for each of the four tasks, or one for all (paper, section 3.7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from msmtfn.labels import INTENTS, TASKS


class TaskHeads(nn.Module):
    """Independent heads over the shared vector of a call, or that of the five classes alone."""

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
        """Map calls (C, input_size) to each task's logits (C, number of its classes)."""
        logits = {task: head(calls) for task, head in self.heads.items()}
        return {task: logits[task] if task in logits else _summed_classes(logits["five"], task) for task in TASKS}


def _summed_classes(five: Tensor, task: str) -> Tensor:
    """Logarithms of the summed probabilities of the intents in each class of a task, (C, number of its classes)."""
    log_probabilities = torch.log_softmax(five, dim=1)
    classes = [[INTENTS.index(intent) for intent in letters] for letters in TASKS[task]]
    return torch.stack([log_probabilities[:, intents].logsumexp(dim=1) for intents in classes], dim=1)
