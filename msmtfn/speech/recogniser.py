"""What a recogniser is: clips of speech and their languages go in, words with times and confidences come out.

Shapes: S samples of a clip at `SAMPLE_RATE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

SAMPLE_RATE: Final = 16_000
"""Samples a second that every recogniser and every detector of speech reads."""

OWN_ARCHITECTURE: Final = "MsmtfnConvCtc"
"""Name by which the configuration of a recogniser says that it is the network of `conv_ctc`."""

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Word:
    """A word, or a character where the language writes no spaces.

    Attributes:
        text: the word with the space before it, so that words are joined by nothing.
        start_sec: its start, in a clip or in a call.
        end_sec: its end.
        confidence: probability from 0 to 1; None where the recogniser has none.
    """

    text: str
    start_sec: float
    end_sec: float
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of words that a recogniser has decoded as one.

    Attributes:
        words: the words in order; at least one.
        confidence: geometric mean of the probabilities of its tokens; None where the recogniser has none.
        no_speech_prob: probability that nobody speaks, as the recogniser itself judges; None where it does not.
    """

    words: tuple[Word, ...]
    confidence: float | None = None
    no_speech_prob: float | None = None

    @property
    def text(self) -> str:
        """The text of all words."""
        return "".join(word.text for word in self.words).strip()

    @property
    def start_sec(self) -> float:
        """Start of the first word."""
        return self.words[0].start_sec

    @property
    def end_sec(self) -> float:
        """End of the last word."""
        return self.words[-1].end_sec


class Recogniser(Protocol):
    """Automatic speech recognition (ASR) model that is ready to run."""

    @property
    def max_clip_sec(self) -> float:
        """Length of the longest clip that it takes, in seconds."""

    @property
    def fixed_clip_sec(self) -> float | None:
        """Seconds that it computes for a clip, however short; None if it computes as much as the longest of a batch."""

    def find_language(self, clip: Waveform) -> str | None:
        """Return the language spoken in a clip as a code such as `zh`; None if the model knows only its own."""

    def recognise(self, clips: Sequence[Waveform], languages: Sequence[str | None]) -> list[list[Segment]]:
        """Recognise a batch of clips.

        Args:
            clips: (S,) float32 in [-1, 1], each of at most `max_clip_sec`.
            languages: language of each clip as a code such as `zh`; ignored where the model knows only its own.

        Returns:
            The segments of each clip, with times from the start of the clip; empty where nothing was heard.
        """
