"""The four tasks and how each groups the five intents (paper, sections 4.1 and table 5).

The grouping is the paper's: A, B and C are the positive side of the two-class task; D and E the negative.
"""

from __future__ import annotations

from typing import Final

INTENTS: Final = ("A", "B", "C", "D", "E")
"""A very positive, B neutral and receptive, C a little impatient, D explicit refusal, E no intent."""

TASKS: Final[dict[str, tuple[str, ...]]] = {
    "five": ("A", "B", "C", "D", "E"),
    "four": ("A", "B", "C", "DE"),
    "three": ("A", "BC", "DE"),
    "two": ("ABC", "DE"),
}
"""Each task's classes, in the order of its logits; a class is the letters of the intents in it."""


def class_index(task: str, intent: str) -> int:
    """Index of the class of `task` that holds `intent`.

    Raises:
        ValueError: `intent` is none of A to E, or `task` none of the four.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; it must be one of {', '.join(TASKS)}")
    if intent not in INTENTS:
        raise ValueError(f"intent is {intent!r}; it must be one of {', '.join(INTENTS)}")
    return next(index for index, letters in enumerate(TASKS[task]) if intent in letters)
