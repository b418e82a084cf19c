"""Mark text that a recogniser invented: it counts as none.

Recognisers, above all those with a language model in their decoder, write fluent sentences where nobody speaks. The
rules are the usual ones: the recogniser's own probability that nobody speaks, text that compresses too well, n-grams
that are repeated again and again, and text where the detector of speech found none.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
import numpy.typing as npt

from msmtfn.errors import require
from msmtfn.speech.recogniser import Segment
from msmtfn.speech.tokens import is_unspaced

MAX_NGRAM: Final = 6
NATURAL_NGRAM: Final = 2
"""Units of the longest n-gram that people repeat again and again."""


class Invention(StrEnum):
    """Rule by which a text counts as invented."""

    NO_SPEECH = "no_speech"
    COMPRESSION = "compression"
    REPETITION = "repetition"
    SILENCE = "silence"


@dataclass(frozen=True, kw_only=True, slots=True)
class InventionConfig:
    """Limits beyond which recognised text counts as invented."""

    max_no_speech_prob: float = 0.6
    """Maximum probability of no speech, of a segment whose confidence is low as well."""
    min_text_confidence: float = 0.37
    """Confidence below which the probability of no speech counts; e to the power of -1, as Whisper has it."""
    max_compression_ratio: float = 2.4
    """Maximum ratio of the text's bytes to its compressed bytes."""
    max_ngram_repeats: int = 5
    """Maximum number of times that the same n-gram may follow itself."""
    min_speech_share: float = 0.1
    """Minimum share of a segment's words that overlap detected speech."""

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            ValueError: a limit is out of range.
        """
        for name in ("max_no_speech_prob", "min_text_confidence", "min_speech_share"):
            require(0 <= getattr(self, name) <= 1, name, getattr(self, name), "between 0 and 1")
        for name in ("max_compression_ratio", "max_ngram_repeats"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")


def find_invention(segment: Segment, speech: npt.NDArray[np.float64], config: InventionConfig) -> Invention | None:
    """Return why a segment counts as invented; None if it does not.

    Args:
        segment: the segment, with times of the call.
        speech: (N, 2) start_sec and end_sec of the speech detected in its channel.
        config: the limits.
    """
    is_unsure = segment.confidence is not None and segment.confidence < config.min_text_confidence
    if is_unsure and (segment.no_speech_prob or 0.0) > config.max_no_speech_prob:
        return Invention.NO_SPEECH
    if compression_ratio(segment.text) > config.max_compression_ratio:
        return Invention.COMPRESSION
    if count_repeats(_units(segment)) > config.max_ngram_repeats:
        return Invention.REPETITION
    if _speech_share(segment, speech) < config.min_speech_share:
        return Invention.SILENCE
    return None


def compression_ratio(text: str) -> float:
    """Return the ratio of a text's bytes to its compressed bytes."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def count_repeats(units: Sequence[str]) -> int:
    """Return how often an n-gram follows itself at most: 3 in `a b c a b c a b c`.

    Repetitions of one or two units count half, since people do say "yes, yes, yes, yes".
    """
    most = 1 if units else 0
    for size in range(1, MAX_NGRAM + 1):
        run = 0  # units that are equal to the one `size` before them
        for place in range(size, len(units)):
            run = run + 1 if units[place] == units[place - size] else 0
            repeats = run // size + 1
            most = max(most, repeats if size > NATURAL_NGRAM else (repeats + 1) // 2)
    return most


def _units(segment: Segment) -> list[str]:
    """Return the words without case and marks, or the characters where the script has no spaces."""
    units: list[str] = []
    for word in segment.words:
        text = "".join(char for char in word.text.lower() if char.isalnum())
        units += list(text) if any(map(is_unspaced, text)) else [text] if text else []
    return units


def _speech_share(segment: Segment, speech: npt.NDArray[np.float64]) -> float:
    """Return the share of a segment's words that overlap speech."""
    heard = 0
    for word in segment.words:
        heard += bool(((speech[:, 0] < word.end_sec) & (speech[:, 1] > word.start_sec)).any())
    return heard / len(segment.words)
