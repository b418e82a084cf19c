"""The sentences of a simulated call: phrases are combined and their slots filled, so that few sentences repeat.

A customer's turn has two sentences (one in brief calls). Both express the kind of words that the latents ask for, so
that it can be learned from a few hundred calls despite the recogniser's errors. The length of a turn does not depend on
what it says: all kinds of words have the same target length, so that the duration reveals nothing to a reader of the
audio.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from msmtfn.corpora.simulation.agent_phrases import AGENT_PHRASES, DOMAIN_SLOTS, SLOTS
from msmtfn.corpora.simulation.customer_phrases import ANY_DOMAIN, OWN_DOMAIN
from msmtfn.corpora.simulation.latents import CallLatents

AGENT_CHARS: Final = (18, 30)
CUSTOMER_CHARS: Final = (36, 39)
BRIEF_AGENT_CHARS: Final = (5, 12)
BRIEF_CUSTOMER_CHARS: Final = (16, 20)
NUM_CANDIDATES: Final = 32  # turns that are generated; the one closest to the target length is used
PER_CALL: Final = ("company", "product", "price")
"""Slots that keep their value throughout a call."""

OPENERS: Final = (
    "",
    "嗯，",
    "哦，",
    "那个，",
    "其实，",
    "说实话，",
    "啊，",
    "对，",
    "我说啊，",
    "呃，",
    "你看，",
    "你听我说，",
    "我跟你讲，",
    "是这么回事，",
)
TAILS: Final = (
    "",
    "，真的",
    "，是吧",
    "，对吧",
    "，你知道吧",
    "，说真的",
    "，没错",
    "，就是这样",
    "，老实说",
    "，反正是这样",
    "，我说的是实话",
    "，就这么个情况",
)
"""Words that may precede and follow any phrase."""

_SENTENCE_END: Final = re.compile("[。！？]")


@dataclass(frozen=True, slots=True)
class RoundTexts:
    """The texts of one round."""

    agent: str
    customer: str


class Writer:
    """A writer of the lines of one call, which repeats no phrase before all of its kind have been used."""

    def __init__(self, domain: str, rng: np.random.Generator, *, is_brief: bool = False) -> None:
        self._domain = domain
        self._rng = rng
        self._is_brief = is_brief
        self._slots = SLOTS | DOMAIN_SLOTS[domain]
        self._fixed = {name: self._pick(self._slots[name]) for name in PER_CALL}
        self._decks: dict[str, list[str]] = {}

    def write_round(self, words: str) -> RoundTexts:
        """Write one round in which the customer's words are of the given kind, one of `latents.WORDS`."""
        return RoundTexts(self._write_agent(), self._write_customer(words))

    def _write_agent(self) -> str:
        """Write sentences until the target length is reached."""
        num_chars = self._rng.integers(*(BRIEF_AGENT_CHARS if self._is_brief else AGENT_CHARS), endpoint=True)
        text = ""
        while len(text) < num_chars:
            text += self._fill(self._deal("agent", AGENT_PHRASES)) + "。"
        return text

    def _write_customer(self, words: str) -> str:
        num_phrases = 1 if self._is_brief else 2
        phrases = [self._deal(words, phrases_of(self._domain, words)) for _ in range(num_phrases)]
        num_chars = self._rng.integers(*(BRIEF_CUSTOMER_CHARS if self._is_brief else CUSTOMER_CHARS), endpoint=True)
        candidates = ["".join(map(self._build_sentence, phrases)) for _ in range(NUM_CANDIDATES)]
        return min(candidates, key=lambda text: abs(len(text) - num_chars))

    def _build_sentence(self, phrase: str) -> str:
        """Build a whole sentence around a phrase."""
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
    """A mapping for `str.format_map` that draws a value whenever a slot is looked up."""

    def __init__(self, values: Mapping[str, Sequence[str]], fixed: Mapping[str, str], rng: np.random.Generator) -> None:
        super().__init__(fixed)
        self._values = values
        self._rng = rng

    def __missing__(self, name: str) -> str:
        values = self._values[name]
        return values[int(self._rng.integers(len(values)))]


def phrases_of(domain: str, words: str) -> tuple[str, ...]:
    """Return all phrases for a kind of words in the calls of a domain."""
    return ANY_DOMAIN[words] + OWN_DOMAIN[domain].get(words, ())


def write_rounds(call: CallLatents, rng: np.random.Generator, *, is_brief: bool = False) -> list[RoundTexts]:
    """Write the texts of a call.

    Args:
        call: the latent variables of the call.
        rng: source of everything that the latent variables leave open.
        is_brief: use about half as many words.
    """
    writer = Writer(call.domain, rng, is_brief=is_brief)
    return [writer.write_round(latents.words) for latents in call.rounds]


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences without their final punctuation."""
    return [sentence for part in _SENTENCE_END.split(text) if (sentence := part.strip())]


def share_of_fresh_turns(turns: Sequence[str], known: Iterable[str]) -> float:
    """Return the share of `turns` in which no sentence occurs verbatim in the `known` texts."""
    sentences = {sentence for text in known for sentence in split_sentences(text)}
    return sum(sentences.isdisjoint(split_sentences(turn)) for turn in turns) / len(turns)
