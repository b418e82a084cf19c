"""The accuracy of the best possible readers of the simulated calls (the Bayes rate): a ceiling for every network.

A reader sees an observation o of a call: what the words of every round say, how the customer sounds in it, or both.
The best prediction is the class c with the largest P(c | o), which is right with that probability. Over all calls its
accuracy is

    sum over o of P(o) * max over c of P(c | o)  =  sum over o of max over c of P(o, c),

and no reader of o can be more accurate. P(o, c) is the sum of the probabilities of all calls in `enumerate_calls` that
look like o and have an intent of class c. There are about ten thousand of these calls, so the sum is exact.

The readers are idealised: they understand every sentence despite the recogniser's errors, and perceive every tone of
voice and every pause despite the noise. The reader of the audio perceives how things are said but not what is said.
The reader without the order of the rounds still sees every round whole, words and sound together. Every reader of the
words knows the domain.

Some values can be derived by hand, as a check. In a call with evidence, the last telling round reveals the intent to
the reader of both, who therefore errs in `neither` calls only. The accuracy is 1 - sum over domains of
P(domain, neither) * (1 - max over intents of P(intent | domain, neither)). The reader of the text is right equally
often in the `neither` calls, always in the `words` calls, and in half of the `sound` calls, because the two sides of a
pair are equally likely.
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
    """Return the domain and the words of every round, in order."""
    return call.domain, tuple(latents.words for latents in call.rounds)


def read_audio(call: CallLatents) -> Hashable:
    """Return the sound of every round, in order."""
    return tuple(latents.sound for latents in call.rounds)


def read_both(call: CallLatents) -> Hashable:
    """Return the domain and the words and sound of every round, in order."""
    return call.domain, call.rounds


def read_both_without_order(call: CallLatents) -> Hashable:
    """Return the domain and the rounds as a multiset, without their order."""
    return call.domain, frozenset(Counter(call.rounds).items())


READERS: Final[dict[str, Callable[[CallLatents], Hashable]]] = {
    "text": read_text,
    "audio": read_audio,
    "both": read_both,
    "both_without_order": read_both_without_order,
}
"""The readers by name: a function that returns what the reader observes of a call."""

_TIE: Final = 1e-9  # relative; more than the rounding differences between sums of the same terms in another order


def compute_ceilings() -> Ceilings:
    """Compute the exact best accuracy of every reader in every task."""
    return {task: {reader: _ceiling(reader, task) for reader in READERS} for task in TASKS}


def score_best_readers(calls: Sequence[CallLatents]) -> Ceilings:
    """Compute the accuracy of the best readers on these calls: on a small split it differs by chance from the ceiling.

    If several classes are equally likely, the reader guesses among them, and the expected share of hits counts.
    """
    return {
        task: {reader: float(np.mean([_hit(call, reader, task) for call in calls])) for reader in READERS}
        for task in TASKS
    }


def joint_probabilities(reader: str, task: str) -> dict[Hashable, NDArray[np.float64]]:
    """Return P(o, c) for every observation o of a reader, as an array over the classes c of a task."""
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
