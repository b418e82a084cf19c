"""The latent variables of a simulated call: its intent, and what the words and sound of every round reveal of it.

The distribution, in the order in which a call is generated:

1. The domain and the intent follow the counts of table 5 of the paper. E, which the table leaves out, gets
   `SHARE_OF_E` of every domain, and the other intents share the rest. Below, P is the probability of an intent in its
   domain.
2. The *evidence* is what reveals the intent:
   - `sound`: the words are polite and fit two neighbouring intents; only the customer's voice reveals which. The call
     belongs to the pair KL with intent K, or with intent L, each with probability
     `PAIR_SHARES[KL]` * min(P(K), P(L)). Both sides are thus equally likely, and the words carry no information about
     the side. About a third of the calls.
   - `words`: the words reveal the intent and the sound reveals nothing. `WORDS_SHARE` of the remaining calls of every
     intent, about half of all calls.
   - `neither`: nothing reveals the intent. The rest, about a sixth.
3. The call has two to five rounds (`NUM_ROUNDS`), independent of everything else.
4. With probability `CHANGE_SHARE` the customer changes their mind, after 1 to n - 1 of the n rounds with equal
   probability. Before the change they had a different intent: the other one of the pair in a `sound` call, or one
   drawn from P, the final intent excluded, in a `words` call. In a `neither` call a change would be invisible, so there
   is none. About a third of all calls therefore change.
5. Every round is *telling* independently with probability `TELLING_SHARE`, conditional on at least one telling round
   after the change (or anywhere, if there is no change). In a `neither` call no round is telling.
6. The words and sound of a round:

   | | words | sound |
   |---|---|---|
   | telling, `words` | the current intent, A to E | plain |
   | telling, `sound` | the pair, AB to DE | warm for the pair's more positive intent, cold for the other |
   | not telling | neutral | plain |

Everything else (sentences, voices, noise, the parties to a call) depends on the intent only through this table, so no
reader can learn more of the intent than the table reveals. `enumerate_calls` lists the whole distribution, from which
`ceilings.py` computes the accuracy of the best readers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

import numpy as np

from msmtfn.labels import INTENTS

Evidence = Literal["words", "sound", "neither"]
Sound = Literal["plain", "warm", "cold"]

DOMAIN_INTENTS: Final[dict[str, dict[str, int]]] = {
    "dental": {"A": 82, "B": 128, "C": 223, "D": 57},
    "beauty": {"A": 42, "B": 89, "C": 76, "D": 22},
    "courses": {"A": 13, "B": 54, "C": 80, "D": 11},
}
"""Number of calls by domain and intent (paper, table 5)."""

SHARE_OF_E: Final = 0.03
PAIRS: Final = tuple(first + second for first, second in itertools.pairwise(INTENTS))
PAIR_SHARES: Final[dict[str, float]] = {"AB": 0.25, "BC": 0.36, "CD": 0.27, "DE": 0.30}
WORDS_SHARE: Final = 0.75
NUM_ROUNDS: Final[dict[int, float]] = {2: 0.15, 3: 0.40, 4: 0.30, 5: 0.15}
CHANGE_SHARE: Final = 0.4
TELLING_SHARE: Final = 0.8

NEUTRAL: Final = "neutral"
WORDS: Final = (*INTENTS, *PAIRS, NEUTRAL)
"""Kinds of words in a round: they reveal an intent, a pair of neighbouring intents, or nothing."""

SOUNDS: Final[tuple[Sound, ...]] = ("warm", "plain", "cold")


@dataclass(frozen=True, slots=True)
class RoundLatents:
    """The words and the sound of one round."""

    words: str
    sound: Sound


@dataclass(frozen=True, slots=True)
class CallLatents:
    """The latent variables of one call.

    Attributes:
        domain: dental, beauty or courses.
        intent: the label, A to E.
        evidence: what reveals the intent.
        pair: the two intents that the words of a `sound` call fit; None in other calls.
        early_intent: the intent before the customer changed their mind; None if they did not.
        change_after: number of rounds before the change; 0 if there was none.
        is_telling: for every round, whether it reveals the evidence.
    """

    domain: str
    intent: str
    evidence: Evidence
    pair: str | None
    early_intent: str | None
    change_after: int
    is_telling: tuple[bool, ...]

    @property
    def rounds(self) -> tuple[RoundLatents, ...]:
        """The words and the sound of every round."""
        return tuple(self._round_latents(index) for index in range(len(self.is_telling)))

    def _round_latents(self, index: int) -> RoundLatents:
        if not self.is_telling[index]:
            return RoundLatents(NEUTRAL, "plain")
        intent = self.early_intent if self.early_intent and index < self.change_after else self.intent
        if self.pair is None:
            return RoundLatents(intent, "plain")
        return RoundLatents(self.pair, "warm" if intent == self.pair[0] else "cold")


@dataclass(frozen=True, slots=True)
class _Topic:
    """The latent variables of a call that do not depend on its rounds."""

    domain: str
    intent: str
    evidence: Evidence
    pair: str | None = None
    early_intent: str | None = None


def intent_shares(domain: str) -> dict[str, float]:
    """Return the probability of every intent among the calls of a domain."""
    counts = DOMAIN_INTENTS[domain]
    total = sum(counts.values())
    shares = {intent: (1 - SHARE_OF_E) * count / total for intent, count in counts.items()}
    return shares | {"E": SHARE_OF_E}


@cache
def enumerate_calls() -> tuple[tuple[CallLatents, float], ...]:
    """Enumerate all possible calls with their probabilities, sorted by domain, intent and evidence."""
    calls = []
    for topic, topic_share in _topics():
        for num_rounds, rounds_share in NUM_ROUNDS.items():
            for change_after, is_telling, share in _courses(topic, num_rounds):
                call = CallLatents(
                    topic.domain,
                    topic.intent,
                    topic.evidence,
                    topic.pair,
                    topic.early_intent,
                    change_after,
                    is_telling,
                )
                calls.append((call, topic_share * rounds_share * share))
    return tuple(calls)


def draw_calls(num_calls: int, rng: np.random.Generator) -> list[CallLatents]:
    """Draw calls by systematic sampling: every contiguous part of the distribution gets its share, give or take one.

    The calls are those at equally spaced points, shifted by one random offset, on the cumulative probabilities of
    `enumerate_calls`. Every single call follows the distribution exactly, while the counts vary less than those of
    independent draws.

    Returns:
        The calls in the order of `enumerate_calls`.
    """
    calls = enumerate_calls()
    ends = np.cumsum([share for _, share in calls])
    points = (np.arange(num_calls) + rng.random()) / num_calls * ends[-1]
    return [calls[index][0] for index in np.searchsorted(ends, points, side="right")]


def _topics() -> Iterator[tuple[_Topic, float]]:
    total = sum(sum(counts.values()) for counts in DOMAIN_INTENTS.values())
    for domain, counts in DOMAIN_INTENTS.items():
        shares = intent_shares(domain)
        for intent in INTENTS:
            for topic, share in _topics_of_intent(domain, intent, shares):
                yield topic, share * sum(counts.values()) / total


def _topics_of_intent(domain: str, intent: str, shares: dict[str, float]) -> Iterator[tuple[_Topic, float]]:
    remaining = shares[intent]
    for pair in PAIRS:
        if intent in pair:
            share = PAIR_SHARES[pair] * min(shares[pair[0]], shares[pair[1]])
            remaining -= share
            yield _Topic(domain, intent, "sound", pair), share * (1 - CHANGE_SHARE)
            yield _Topic(domain, intent, "sound", pair, pair.replace(intent, "")), share * CHANGE_SHARE
    words = remaining * WORDS_SHARE
    yield _Topic(domain, intent, "words"), words * (1 - CHANGE_SHARE)
    for other in INTENTS:
        if other != intent:
            share = shares[other] / (1 - shares[intent])
            yield _Topic(domain, intent, "words", None, other), words * CHANGE_SHARE * share
    yield _Topic(domain, intent, "neither"), remaining - words


def _courses(topic: _Topic, num_rounds: int) -> Iterator[tuple[int, tuple[bool, ...], float]]:
    """Enumerate when the customer changes their mind and which rounds are telling, with the probabilities.

    With q = 1 - `TELLING_SHARE`, all k rounds after the change are silent with probability q^k. Conditioning on a
    telling round among them therefore divides the probability of a pattern by 1 - q^k.
    """
    if topic.evidence == "neither":
        yield 0, (False,) * num_rounds, 1.0
        return
    changes = range(1, num_rounds) if topic.early_intent else range(1)
    for change_after in changes:
        any_telling_share = 1 - (1 - TELLING_SHARE) ** (num_rounds - change_after)
        for is_telling in itertools.product((True, False), repeat=num_rounds):
            if any(is_telling[change_after:]):
                num_telling = sum(is_telling)
                share = TELLING_SHARE**num_telling * (1 - TELLING_SHARE) ** (num_rounds - num_telling)
                yield change_after, is_telling, share / any_telling_share / len(changes)
