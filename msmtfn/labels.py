"""Define the five intents, the four tasks that group them (paper, section 4.1 and table 5), and who is not ranked.

In the two-class task A, B and C are positive, D and E negative.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

INTENTS: Final = ("A", "B", "C", "D", "E")
"""A very positive, B neutral and receptive, C a little impatient and negative, D explicit refusal, E no intent."""

TASKS: Final[dict[str, tuple[str, ...]]] = {
    "five": ("A", "B", "C", "D", "E"),
    "four": ("A", "B", "C", "DE"),
    "three": ("A", "BC", "DE"),
    "two": ("ABC", "DE"),
}
"""Classes of every task in the order of its logits; a class is named by the letters of its intents."""


class UnrankedReason(StrEnum):
    """Reason why a call that was scored gets no rank; its value is written to the column `unranked_reason`.

    Of several reasons the first one counts.
    """

    DO_NOT_CALL = "do_not_call"
    NO_CONSENT = "no_consent"
    NO_CONVERSATION = "no_conversation"
    TOO_LITTLE_EVIDENCE = "too_little_evidence"
    REFUSED = "refused"


def class_index(task: str, intent: str) -> int:
    """Return the index of the class of `task` that contains `intent`.

    Raises:
        ValueError: `task` or `intent` is unknown.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; it must be one of {', '.join(TASKS)}")
    if intent not in INTENTS:
        raise ValueError(f"intent is {intent!r}; it must be one of {', '.join(INTENTS)}")
    return next(index for index, letters in enumerate(TASKS[task]) if intent in letters)
