"""Recogniser engine `msmtfn`: the small CTC network of this package, `conv_ctc`.

Shapes: T frames of the network, V characters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from msmtfn.speech.conv_ctc import BLANK, FRAME_SEC, load_conv_ctc, log_mels, normalise
from msmtfn.speech.recogniser import SAMPLE_RATE, Segment, Waveform, Word

MAX_CLIP_SEC: Final = 30.0
SENTENCE_ENDS: Final = "。？！"
MAX_HALF_SEC: Final = 0.15
"""Longest time for which a character lasts before its frame and after it: half a slow syllable."""


@dataclass(frozen=True, slots=True)
class HeardCharacter:
    """Character that was read off the frames.

    Attributes:
        text: the character.
        at_sec: middle of the frame in which it is likeliest.
        log_prob: logarithm of its probability there.
    """

    text: str
    at_sec: float
    log_prob: float


class ConvCtcRecogniser:
    """Recogniser that reads characters off the frames of `ConvCtc`, the likeliest in each frame."""

    max_clip_sec: float = MAX_CLIP_SEC
    fixed_clip_sec: float | None = None

    def __init__(self, folder: Path, *, device: str) -> None:
        """Load the network in a folder.

        Raises:
            ValueError: the folder does not hold one.
            OSError: a file cannot be read.
        """
        self.network = load_conv_ctc(folder).to(device)
        self.device = device
        self.num_mels = self.network.config.num_mels
        self.characters = self.network.config.characters

    def find_language(self, clip: Waveform) -> str | None:  # noqa: ARG002 - it knows one language
        """Return None; see `Recogniser`."""
        return None

    @torch.inference_mode()
    def recognise(
        self,
        clips: Sequence[Waveform],
        languages: Sequence[str | None],  # noqa: ARG002 - it has one
    ) -> list[list[Segment]]:
        """Recognise a batch of clips; see `Recogniser`."""
        log_probs, lengths = self.network([normalise(log_mels(clip, self.num_mels)).to(self.device) for clip in clips])
        durations = [len(clip) / SAMPLE_RATE for clip in clips]
        return [
            split_sentences(read_characters(rows[:length].float().cpu(), self.characters), duration_sec)
            for rows, length, duration_sec in zip(log_probs, lengths.tolist(), durations, strict=True)
        ]


def read_characters(log_probs: Tensor, characters: str) -> list[HeardCharacter]:
    """Return the characters of (T, V) logarithms of probabilities: the best of each frame, runs of one taken once.

    Args:
        log_probs: logarithms of the probabilities of the blank and the characters.
        characters: the characters that the numbers from 1 on stand for.
    """
    best, numbers = log_probs.max(dim=1)
    heard: list[HeardCharacter] = []
    previous = BLANK
    for frame, (number, log_prob) in enumerate(zip(numbers.tolist(), best.tolist(), strict=True)):
        if number != BLANK:
            found = HeardCharacter(characters[number - 1], (frame + 0.5) * FRAME_SEC, log_prob)
            if number != previous:
                heard.append(found)
            elif log_prob > heard[-1].log_prob:
                heard[-1] = found
        previous = number
    return heard


def split_sentences(heard: Sequence[HeardCharacter], duration_sec: float) -> list[Segment]:
    """Return the characters of a clip as segments, a sentence each.

    Args:
        heard: the characters in order; marks become part of the word before them, and take no time.
        duration_sec: length of the clip.
    """
    spoken = [each for each in heard if each.text.isalnum()]
    edges = [0.0, *((one.at_sec + other.at_sec) / 2 for one, other in pairwise(spoken)), duration_sec]
    segments: list[Segment] = []
    words: list[Word] = []
    place = 0
    for each in heard:
        if each.text.isalnum():
            start_sec = max(edges[place], each.at_sec - MAX_HALF_SEC)
            end_sec = max(min(edges[place + 1], each.at_sec + MAX_HALF_SEC, duration_sec), start_sec)
            words.append(Word(each.text, start_sec, end_sec, math.exp(each.log_prob)))
            place += 1
        elif words:
            last = words.pop()
            words.append(Word(last.text + each.text, last.start_sec, last.end_sec, last.confidence))
            if each.text in SENTENCE_ENDS:
                segments.append(_segment_of(words))
                words = []
    return [*segments, _segment_of(words)] if words else segments


def _segment_of(words: Sequence[Word]) -> Segment:
    logs = [math.log(max(word.confidence or 0.0, 1e-9)) for word in words]
    return Segment(tuple(words), math.exp(sum(logs) / len(logs)))
