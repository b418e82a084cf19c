"""Give words to speakers, and join them to turns.

Shapes: N segments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from msmtfn.speech.recogniser import Word
from msmtfn.speech.voice import Segments


@dataclass(frozen=True, slots=True)
class SpokenTurn:
    """Uninterrupted stretch of one speaker as it was recognised.

    Attributes:
        speaker: number of the speaker, from 0 in the order in which they are first heard, or of the channel.
        start_sec: start of its first word.
        end_sec: end of its last word.
        text: its text.
        confidence: mean of its words' confidences; None where the recogniser has none.
    """

    speaker: int
    start_sec: float
    end_sec: float
    text: str
    confidence: float | None


def assign_words(words: Sequence[Word], speakers: Sequence[Segments]) -> list[int]:
    """Return the speaker of each word: who speaks for most of it, else whose speech is nearest.

    Args:
        words: words of a channel, with times of the call.
        speakers: (N, 2) segments of each speaker of the channel; at least one speaker.
    """
    if len(speakers) == 1:
        return [0] * len(words)
    return [_speaker_of(word, speakers) for word in words]


def join_turns(words: Sequence[Word], owners: Sequence[int], max_pause_sec: float) -> list[SpokenTurn]:
    """Join words of one channel to turns, which end at a pause or where another speaker begins.

    Args:
        words: the words, in order.
        owners: number of the speaker of each word.
        max_pause_sec: longest pause in a turn.
    """
    groups: list[list[Word]] = []
    speakers: list[int] = []
    for word, owner in zip(words, owners, strict=True):
        if groups and speakers[-1] == owner and word.start_sec - groups[-1][-1].end_sec <= max_pause_sec:
            groups[-1].append(word)
        else:
            groups.append([word])
            speakers.append(owner)
    turns = [_turn_of(group, speaker) for group, speaker in zip(groups, speakers, strict=True)]
    return [turn for turn in turns if turn.text]


def _turn_of(words: Sequence[Word], speaker: int) -> SpokenTurn:
    known = [word.confidence for word in words if word.confidence is not None]
    return SpokenTurn(
        speaker,
        words[0].start_sec,
        max(word.end_sec for word in words),
        "".join(word.text for word in words).strip(),
        round(float(np.mean(known)), 4) if known else None,
    )


def _speaker_of(word: Word, speakers: Sequence[Segments]) -> int:
    overlaps = [_overlap_sec(word, segments) for segments in speakers]
    if max(overlaps) > 0:
        return int(np.argmax(overlaps))
    return int(np.argmin([_distance_sec(word, segments) for segments in speakers]))


def _overlap_sec(word: Word, segments: Segments) -> float:
    overlap = np.minimum(segments[:, 1], word.end_sec) - np.maximum(segments[:, 0], word.start_sec)
    return float(np.maximum(overlap, 0.0).sum())


def _distance_sec(word: Word, segments: Segments) -> float:
    if not len(segments):
        return np.inf
    return float(np.maximum(segments[:, 0] - word.end_sec, word.start_sec - segments[:, 1]).min())
