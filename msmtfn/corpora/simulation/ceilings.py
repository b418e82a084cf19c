"""How often the best possible reader of the simulated calls is right: the ceiling of every network.

A reader sees an observation o of a call: of each round, what the words say, how the customer sounds, or both. The best
guess is the class c of the largest P(c | o), right with that probability; over all calls it is right with

    sum over o of P(o) * max over c of P(c | o)  =  sum over o of max over c of P(o, c),

and no reader of o can be right more often. P(o, c) is the sum of the probabilities of all calls of `enumerate_calls`
that look like o and have an intent of class c: there are some ten thousand, so the sum is exact.

Assumed are a reader who understands every sentence, in spite of the recogniser's errors, and hears every tone of voice
and pause, in spite of the noise; one who hears the audio only hears how it is said, not what; and one without the
order of the rounds sees each round whole, words and sound together. Who reads the words knows the domain.

Some numbers follow by hand, as a check. In calls with evidence, the last telling round tells the reader of both all
there is, so that they err in `neither` calls only: 1 - sum over domains of P(domain, neither) * (1 - the largest
P(intent | domain, neither)). The reader of the text is right in as many of these, in all `words` calls and in half of
the `sound` calls, as a pair's two sides are equally likely.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from msmtfn.corpora.simulation.latents import CallLatents, enumerate_calls
from msmtfn.labels import INTENTS, TASKS

Ceilings = dict[str, dict[str, float]]
"""Accuracy by task and reader."""


def read_text(call: CallLatents) -> Hashable:
    """The domain and every round's words, in order."""
    return call.domain, tuple(each.words for each in call.rounds)


def read_audio(call: CallLatents) -> Hashable:
    """How the customer sounds in every round, in order."""
    return tuple(each.sound for each in call.rounds)


def read_both(call: CallLatents) -> Hashable:
    """The domain, and every round's words and sound, in order."""
    return call.domain, call.rounds


def read_both_without_order(call: CallLatents) -> Hashable:
    """The domain, and which rounds there are."""
    return call.domain, frozenset(Counter(call.rounds).items())


READERS: Final[dict[str, Callable[[CallLatents], Hashable]]] = {
    "text": read_text,
    "audio": read_audio,
    "both": read_both,
    "both_without_order": read_both_without_order,
}
"""What each reader sees of a call."""

_TIE: Final = 1e-9  # sums of the same shares in another order differ by less


def compute_ceilings() -> Ceilings:
    """The best accuracy of each reader in each task, exactly."""
    return {task: {reader: _ceiling(reader, task) for reader in READERS} for task in TASKS}


def score_best_readers(calls: Sequence[CallLatents]) -> Ceilings:
    """What the best readers get on these very calls: their ceilings, and the luck of a small test split.

    Where two classes are equally likely, the reader is right in half of the cases, however it chooses.
    """
    return {
        task: {reader: float(np.mean([_hit(call, reader, task) for call in calls])) for reader in READERS}
        for task in TASKS
    }


def joint_probabilities(reader: str, task: str) -> dict[Hashable, NDArray[np.float64]]:
    """P(o, c) for each observation o of a reader, an array over the classes of a task."""
    grouping = np.array([[intent in letters for intent in INTENTS] for letters in TASKS[task]], dtype=np.float64)
    return {seen: grouping @ shares for seen, shares in _joint_with_intents(reader).items()}


@cache
def _joint_with_intents(reader: str) -> dict[Hashable, NDArray[np.float64]]:
    joint: defaultdict[Hashable, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(INTENTS)))
    for call, share in enumerate_calls():
        joint[READERS[reader](call)][INTENTS.index(call.intent)] += share
    return dict(joint)


def _ceiling(reader: str, task: str) -> float:
    return float(sum(shares.max() for shares in joint_probabilities(reader, task).values()))


def _hit(call: CallLatents, reader: str, task: str) -> float:
    shares = _joint_with_intents(reader)[READERS[reader](call)]
    classes = [sum(shares[INTENTS.index(intent)] for intent in letters) for letters in TASKS[task]]
    best = [letters for letters, share in zip(TASKS[task], classes, strict=True) if share > max(classes) * (1 - _TIE)]
    return sum(call.intent in letters for letters in best) / len(best)
