"""Group the tokens that a recogniser decoded into words, whatever the kind of its tokenizer."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from msmtfn.speech.recogniser import Word

REPLACEMENT: Final = "\ufffd"
"""What a part of a character's bytes is decoded to."""

UNSPACED_SCRIPTS: Final = (
    "CJK UNIFIED",
    "CJK COMPATIBILITY IDEOGRAPH",
    "HIRAGANA",
    "KATAKANA",
    "THAI",
    "LAO",
    "MYANMAR",
    "KHMER",
)


@dataclass(frozen=True, slots=True)
class TimedToken:
    """A token with its time.

    Attributes:
        token_id: its number in the vocabulary.
        start_sec: its start in the clip.
        end_sec: its end.
        log_prob: logarithm of its probability.
    """

    token_id: int
    start_sec: float
    end_sec: float
    log_prob: float


def group_words(tokens: Sequence[TimedToken], decode: Callable[[Sequence[int]], str]) -> tuple[Word, ...]:
    """Group tokens into words: at spaces, and by character in scripts that are written without spaces.

    Args:
        tokens: the tokens in order, without special ones.
        decode: returns the text of a run of tokens, with the space before a word.
    """
    words: list[Word] = []
    held: list[TimedToken] = []
    for token in tokens:
        held.append(token)
        text = decode([each.token_id for each in held])
        if not text or text.endswith(REPLACEMENT):
            continue  # more bytes of the character follow
        word = Word(text, held[0].start_sec, held[-1].end_sec, _probability(held))
        held = []
        if words and _continues(words[-1].text, text):
            words[-1] = _join(words[-1], word)
        else:
            words.append(word)
    return tuple(word for word in words if word.text.strip())


def mean_probability(tokens: Sequence[TimedToken]) -> float | None:
    """Return the geometric mean of the tokens' probabilities; None if there is none."""
    return _probability(tokens) if tokens else None


def is_unspaced(char: str) -> bool:
    """Return True if a character belongs to a script that is written without spaces."""
    return not char.isascii() and unicodedata.name(char, "").startswith(UNSPACED_SCRIPTS)


def _continues(word: str, text: str) -> bool:
    """Return True if a text goes on with a word: no space between them, and no script without spaces."""
    if text[0].isspace() or not word.strip():
        return not word.strip()
    return _is_mark(text[0]) or not (is_unspaced(text[0]) or is_unspaced(word[-1]))


def _is_mark(char: str) -> bool:
    return unicodedata.category(char).startswith(("P", "M")) and char not in "([{“‘「《"


def _join(word: Word, more: Word) -> Word:
    pair = [value for value in (word.confidence, more.confidence) if value is not None]
    return Word(word.text + more.text, word.start_sec, more.end_sec, min(pair, default=None))


def _probability(tokens: Sequence[TimedToken]) -> float:
    return math.exp(sum(token.log_prob for token in tokens) / len(tokens))
