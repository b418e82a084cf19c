"""What a simulated call is about: its intent, and what its words and its sound reveal of it, round by round.

The distribution, in the order in which a call is made:

1. The domain and the intent have the counts of the paper's table 5; E, which the table leaves out, gets `SHARE_OF_E`
   of every domain, and the others share the rest. In what follows P is the probability of an intent in its domain.
2. The *evidence* is what tells the intent:
   - `sound`: the words are polite and fit two neighbouring intents, and how the customer sounds tells which. The call
     is of the pair KL, on either side of it, each with probability `PAIR_SHARES[KL]` * min(P(K), P(L)). So both sides
     are equally likely: given the words, the sound is all there is. About a third of the calls.
   - `words`: the words tell the intent, the sound nothing; `WORDS_SHARE` of the calls that are left, whatever their
     intent: about half.
   - `neither`: neither tells anything; the rest, a sixth.
3. The call has two to five rounds (`NUM_ROUNDS`), independent of all else.
4. With probability `CHANGE_SHARE` the customer changes their mind: after 1 to n - 1 of n rounds, equally likely.
   Before, their intent was another: in a `sound` call the pair's other, in a `words` call one drawn from P without
   the call's own. A call of which neither tells anything has no change to be seen; so a third of all calls change.
5. A round is *telling* with probability `TELLING_SHARE`, each by itself; drawn again until at least one round after
   the change (any, where there is none) is telling. In a `neither` call no round is.
6. What a round shows:

   | | words | sound |
   |---|---|---|
   | telling, `words` | the intent at the time, A to E | plain |
   | telling, `sound` | the pair, AB to DE | warm for the pair's more positive intent, cold for the other |
   | not telling | neutral | plain |

All else (sentences, voices, noise, who rings whom) is drawn from this table's entries and from nothing else, so these
tables are all that any reader can know. `enumerate_calls` lists the whole distribution; `ceilings.py` computes from
it what the best readers reach.
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
"""Calls of each domain and intent (paper, table 5)."""

SHARE_OF_E: Final = 0.03
PAIRS: Final = tuple(first + second for first, second in itertools.pairwise(INTENTS))
PAIR_SHARES: Final[dict[str, float]] = {"AB": 0.25, "BC": 0.36, "CD": 0.27, "DE": 0.30}
WORDS_SHARE: Final = 0.75
NUM_ROUNDS: Final[dict[int, float]] = {2: 0.15, 3: 0.40, 4: 0.30, 5: 0.15}
CHANGE_SHARE: Final = 0.4
TELLING_SHARE: Final = 0.8

NEUTRAL: Final = "neutral"
WORDS: Final = (*INTENTS, *PAIRS, NEUTRAL)
"""What the words of a round may say: an intent, a pair of neighbours, or nothing."""

SOUNDS: Final[tuple[Sound, ...]] = ("warm", "plain", "cold")


@dataclass(frozen=True, slots=True)
class RoundLatents:
    """What one round shows."""

    words: str
    sound: Sound


@dataclass(frozen=True, slots=True)
class CallLatents:
    """What one call is about.

    Attributes:
        domain: dental, beauty or courses.
        intent: A to E, the label.
        evidence: what tells the intent.
        pair: the two intents that the words fit in a `sound` call; None in others.
        early_intent: the intent before the customer changed their mind; None if they did not.
        change_after: how many rounds were before the change; 0 if there was none.
        is_telling: of each round.
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
        """What each round shows."""
        return tuple(self._show_round(index) for index in range(len(self.is_telling)))

    def _show_round(self, index: int) -> RoundLatents:
        if not self.is_telling[index]:
            return RoundLatents(NEUTRAL, "plain")
        intent = self.early_intent if self.early_intent and index < self.change_after else self.intent
        if self.pair is None:
            return RoundLatents(intent, "plain")
        return RoundLatents(self.pair, "warm" if intent == self.pair[0] else "cold")


@dataclass(frozen=True, slots=True)
class _Topic:
    """The part of a call's latents that does not know of rounds."""

    domain: str
    intent: str
    evidence: Evidence
    pair: str | None = None
    early_intent: str | None = None


def intent_shares(domain: str) -> dict[str, float]:
    """Probability of each intent among the calls of a domain."""
    counts = DOMAIN_INTENTS[domain]
    total = sum(counts.values())
    shares = {intent: (1 - SHARE_OF_E) * count / total for intent, count in counts.items()}
    return shares | {"E": SHARE_OF_E}


@cache
def enumerate_calls() -> tuple[tuple[CallLatents, float], ...]:
    """Every call that can be, with its probability, sorted by domain, intent and evidence; they sum to 1."""
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
    """Draw calls from the distribution, evenly: every part of it gets its share of calls, give or take one.

    Each call by itself follows the distribution exactly. Taken together they vary less than independent draws would:
    they are equally spaced points, shifted by one random offset, on the cumulated probabilities of `enumerate_calls`.

    Returns:
        The calls, sorted as `enumerate_calls` is.
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
    left = shares[intent]
    for pair in PAIRS:
        if intent in pair:
            share = PAIR_SHARES[pair] * min(shares[pair[0]], shares[pair[1]])
            left -= share
            yield _Topic(domain, intent, "sound", pair), share * (1 - CHANGE_SHARE)
            yield _Topic(domain, intent, "sound", pair, pair.replace(intent, "")), share * CHANGE_SHARE
    words = left * WORDS_SHARE
    yield _Topic(domain, intent, "words"), words * (1 - CHANGE_SHARE)
    for other in INTENTS:
        if other != intent:
            share = shares[other] / (1 - shares[intent])
            yield _Topic(domain, intent, "words", None, other), words * CHANGE_SHARE * share
    yield _Topic(domain, intent, "neither"), left - words


def _courses(topic: _Topic, num_rounds: int) -> Iterator[tuple[int, tuple[bool, ...], float]]:
    """When the mind changes and which rounds are telling, with its probability."""
    if topic.evidence == "neither":
        yield 0, (False,) * num_rounds, 1.0
        return
    changes = range(1, num_rounds) if topic.early_intent else range(1)
    for change_after in changes:
        is_possible = 1 - (1 - TELLING_SHARE) ** (num_rounds - change_after)
        for is_telling in itertools.product((True, False), repeat=num_rounds):
            if any(is_telling[change_after:]):
                num_telling = sum(is_telling)
                share = TELLING_SHARE**num_telling * (1 - TELLING_SHARE) ** (num_rounds - num_telling)
                yield change_after, is_telling, share / is_possible / len(changes)
