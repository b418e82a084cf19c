"""The sentences of a simulated call: phrases put together and their slots filled, so that few are said twice.

A customer's turn is two sentences (one, where the calls are brief) that both say what the latents want, so that it can
be learned from some hundreds of calls in spite of the recogniser's errors. How long a turn is does not depend on what
it says: an equal length is aimed at for all kinds of words, so that who hears the audio only learns nothing from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from msmtfn.corpora.simulation.agent_phrases import AGENT_PHRASES, DOMAIN_SLOTS, SLOTS
from msmtfn.corpora.simulation.customer_phrases import ANY_DOMAIN, OPENERS, OWN_DOMAIN, TAILS
from msmtfn.corpora.simulation.latents import CallLatents

AGENT_CHARS: Final = (18, 30)
CUSTOMER_CHARS: Final = (36, 39)
BRIEF_AGENT_CHARS: Final = (5, 12)
BRIEF_CUSTOMER_CHARS: Final = (16, 20)
NUM_CANDIDATES: Final = 32  # sentences tried for the length that is aimed at
PER_CALL: Final = ("company", "product", "price")
"""Slots with one value in the whole call."""

_SENTENCE_END: Final = re.compile("[。！？]")


@dataclass(frozen=True, slots=True)
class RoundTexts:
    """What is said in one round."""

    agent: str
    customer: str


class Writer:
    """Writes the lines of one call; no phrase is used twice while there are others."""

    def __init__(self, domain: str, rng: np.random.Generator, *, is_brief: bool = False) -> None:
        self._domain = domain
        self._rng = rng
        self._is_brief = is_brief
        self._slots = SLOTS | DOMAIN_SLOTS[domain]
        self._fixed = {name: self._pick(self._slots[name]) for name in PER_CALL}
        self._decks: dict[str, list[str]] = {}

    def write_round(self, words: str) -> RoundTexts:
        """Write one round in which the customer's words are of a kind of `latents.WORDS`."""
        return RoundTexts(self._write_agent(), self._write_customer(words))

    def _write_agent(self) -> str:
        """Sentences until the length is reached."""
        num_chars = self._rng.integers(*(BRIEF_AGENT_CHARS if self._is_brief else AGENT_CHARS), endpoint=True)
        text = ""
        while len(text) < num_chars:
            text += self._fill(self._deal("agent", AGENT_PHRASES)) + "。"
        return text

    def _write_customer(self, words: str) -> str:
        num_phrases = 1 if self._is_brief else 2
        phrases = [self._deal(words, phrases_of(self._domain, words)) for _ in range(num_phrases)]
        num_chars = self._rng.integers(*(BRIEF_CUSTOMER_CHARS if self._is_brief else CUSTOMER_CHARS), endpoint=True)
        candidates = ["".join(map(self._dress, phrases)) for _ in range(NUM_CANDIDATES)]
        return min(candidates, key=lambda text: abs(len(text) - num_chars))

    def _dress(self, phrase: str) -> str:
        """A whole sentence around a phrase."""
        return self._pick(OPENERS) + self._fill(phrase) + self._pick(TAILS) + "。"

    def _fill(self, phrase: str) -> str:
        return phrase.format_map(_Slots(self._slots, self._fixed, self._rng))

    def _deal(self, kind: str, phrases: Sequence[str]) -> str:
        if not self._decks.get(kind):
            self._decks[kind] = [str(phrase) for phrase in self._rng.permutation(phrases)]
        return self._decks[kind].pop()

    def _pick(self, values: Sequence[str]) -> str:
        return values[int(self._rng.integers(len(values)))]


class _Slots(dict[str, str]):
    """Values for `str.format_map`, drawn when asked for."""

    def __init__(self, values: Mapping[str, Sequence[str]], fixed: Mapping[str, str], rng: np.random.Generator) -> None:
        super().__init__(fixed)
        self._values = values
        self._rng = rng

    def __missing__(self, name: str) -> str:
        values = self._values[name]
        return values[int(self._rng.integers(len(values)))]


def phrases_of(domain: str, words: str) -> tuple[str, ...]:
    """All phrases of a kind of words that may be said in a call of a domain."""
    return ANY_DOMAIN[words] + OWN_DOMAIN[domain].get(words, ())


def write_rounds(call: CallLatents, rng: np.random.Generator, *, is_brief: bool = False) -> list[RoundTexts]:
    """Write what is said in a call.

    Args:
        call: its latents.
        rng: decides on everything that the latents leave open.
        is_brief: about half as many words.
    """
    writer = Writer(call.domain, rng, is_brief=is_brief)
    return [writer.write_round(each.words) for each in call.rounds]


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, without what ends them."""
    return [sentence for part in _SENTENCE_END.split(text) if (sentence := part.strip())]


def share_of_fresh_turns(turns: Sequence[str], known: Iterable[str]) -> float:
    """Share of `turns` of which no sentence stands word for word in one of the `known` texts."""
    sentences = {sentence for text in known for sentence in split_sentences(text)}
    return sum(sentences.isdisjoint(split_sentences(turn)) for turn in turns) / len(turns)
