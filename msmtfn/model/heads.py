"""A classifier for each of the four tasks (paper, section 3.7)."""

from __future__ import annotations

from torch import Tensor, nn

from msmtfn.labels import TASKS


class TaskHeads(nn.Module):
    """Independent heads over the shared vector of a call."""

    def __init__(self, input_size: int, dropout: float) -> None:
        super().__init__()
        self.heads = nn.ModuleDict(
            {
                task: nn.Sequential(nn.Dropout(dropout), nn.Linear(input_size, len(classes)))
                for task, classes in TASKS.items()
            }
        )

    def forward(self, calls: Tensor) -> dict[str, Tensor]:
        """Map calls (C, input_size) to each task's logits (C, number of its classes)."""
        return {task: head(calls) for task, head in self.heads.items()}
