"""A telephone conversation between two people: their lines are spoken in turn, each voice on its own track.

Shape letters: S samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from msmtfn.calls.rounds import Speaker, Turn
from msmtfn.corpora.speech import Synthesizer, Voice, trim_silence
from msmtfn.corpora.telephone import SAMPLE_RATE, set_level, telephone_band

SPEAKERS: Final[tuple[Speaker, Speaker]] = ("agent", "customer")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpokenLine:
    """One person's line: its text, its voice and the pause that follows it."""

    speaker: Speaker
    text: str
    voice: Voice
    level_db: float
    """Root mean square of the speech, in dBFS."""
    pause_sec: float


def speak_lines(
    lines: Iterable[SpokenLine], lead_in_sec: float, synthesizer: Synthesizer
) -> tuple[list[Turn], NDArray[np.float32]]:
    """Speak the lines in order, after an initial silence of `lead_in_sec`.

    Returns:
        The turns, and a (2, S) array at 8 kHz with the agent's voice in row 0 and the customer's in row 1.
    """
    turns: list[Turn] = []
    pieces = [_silence(lead_in_sec)]
    start = pieces[0].shape[1]
    for line in lines:
        speech = _speak_line(line, synthesizer)
        end = start + len(speech)
        turns.append(Turn(line.speaker, start / SAMPLE_RATE, end / SAMPLE_RATE, line.text))
        is_speaking = np.array([[name == line.speaker] for name in SPEAKERS], dtype=np.float32)
        pieces += [is_speaking * speech, _silence(line.pause_sec)]
        start = end + pieces[-1].shape[1]
    return turns, np.concatenate(pieces, axis=1)


def lay_out_channels(voice_tracks: NDArray[np.float32], agent_channel: int | None) -> NDArray[np.float32]:
    """Arrange the (agent, customer) tracks as channels: mixed into one, or the agent's at index `agent_channel`."""
    if agent_channel is None:
        return voice_tracks[:1] + voice_tracks[1:]
    return voice_tracks if agent_channel == 0 else voice_tracks[::-1]


def _speak_line(line: SpokenLine, synthesizer: Synthesizer) -> NDArray[np.float32]:
    speech = synthesizer.speak(line.text, **asdict(line.voice))
    return set_level(telephone_band(trim_silence(speech), synthesizer.sample_rate), line.level_db)


def _silence(duration_sec: float) -> NDArray[np.float32]:
    return np.zeros((len(SPEAKERS), round(duration_sec * SAMPLE_RATE)), dtype=np.float32)
