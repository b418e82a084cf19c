"""The sound of simulated calls: the four acoustic cues of every round, and the recording.

| | response delay | loudness relative to the agent | speaking rate relative to the customer's own | pitch movement |
|---|---|---|---|---|
| warm | 0.2 to 0.4 s | +5 to +7 dB | 1.25 | lively |
| plain | 0.75 to 0.95 s | -1 to +1 dB | 1 | normal |
| cold | 1.3 to 1.7 s | -7 to -5 dB | 0.75 | almost none |

The four cues always agree, the ranges of two sounds do not overlap, and the agent sounds the same in every round. A
round on its own therefore reveals every cue, even after it is normalised to zero mean and unit variance. Nothing
else reveals the position of a round in the call: every customer turn, including the last, ends with a pause drawn
from the same distribution.

Shape letters: C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from msmtfn.calls.rounds import Turn
from msmtfn.corpora.conversation import SpokenLine, lay_out_channels, speak_lines
from msmtfn.corpora.simulation.latents import Sound
from msmtfn.corpora.simulation.wording import RoundTexts
from msmtfn.corpora.speech import Synthesizer, Voice
from msmtfn.corpora.telephone import add_line_noise

AGENT_LEVEL_DB: Final = (-28.0, -25.0)
RING_SEC: Final = (0.3, 1.0)  # silence before the first turn and after the last
AGENT_PAUSE_SEC: Final = (0.3, 0.6)  # pause before the agent's next turn
SNR_DB: Final = (10.0, 30.0)
# Averaging two channels halves the amplitude of the speech, which is in one of them only (-6 dB), but only halves the
# power of the independent noise (-3 dB). Noise that is 3 dB lower in each channel keeps the SNR of the average.
MONO_GAIN_DB: Final = 3.0

AGENTS: Final[dict[str, Voice]] = {
    "agent-01": Voice(voice="cmn+f3", rate_wpm=215, pitch=55),
    "agent-02": Voice(voice="cmn+m3", rate_wpm=205, pitch=45),
    "agent-03": Voice(voice="cmn+f2", rate_wpm=220, pitch=60),
    "agent-04": Voice(voice="cmn+m5", rate_wpm=210, pitch=55),
    "agent-05": Voice(voice="cmn+f1", rate_wpm=205, pitch=50),
    "agent-06": Voice(voice="cmn+m6", rate_wpm=220, pitch=60),
}
# The other variants are hoarse, which hides the pitch.
CUSTOMER_VARIANTS: Final = ("f1", "f2", "f3", "f4", "f5", "m2", "m5", "m6")
CUSTOMER_RATE_WPM: Final = (180, 200)
CUSTOMER_PITCH: Final = (40, 70)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """The (minimum, maximum) of every cue for one sound."""

    delay_sec: tuple[float, float]
    loudness_db: tuple[float, float]
    rate: float
    """Factor on the customer's own speaking rate."""
    pitch_range: tuple[int, int]


MANNERS: Final[dict[Sound, Manner]] = {
    "warm": Manner(delay_sec=(0.2, 0.4), loudness_db=(5.0, 7.0), rate=1.25, pitch_range=(85, 99)),
    "plain": Manner(delay_sec=(0.75, 0.95), loudness_db=(-1.0, 1.0), rate=1.0, pitch_range=(40, 55)),
    "cold": Manner(delay_sec=(1.3, 1.7), loudness_db=(-7.0, -5.0), rate=0.75, pitch_range=(0, 8)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cues:
    """The acoustic cues of the customer in one round.

    Attributes:
        delay_sec: time from the end of the agent's speech to the start of the customer's.
        loudness_db: level relative to the agent's.
        rate_wpm: speaking rate in words per minute, as espeak-ng counts them.
        pitch_range: 0 for monotone, 50 for normal, 99 for twice the normal variation.
    """

    delay_sec: float
    loudness_db: float
    rate_wpm: int
    pitch_range: int


def draw_customer_voice(rng: np.random.Generator) -> Voice:
    """Draw the voice of a customer, which is the same in all their calls."""
    return Voice(
        voice=f"cmn+{rng.choice(CUSTOMER_VARIANTS)}",
        rate_wpm=int(rng.integers(*CUSTOMER_RATE_WPM, endpoint=True)),
        pitch=int(rng.integers(*CUSTOMER_PITCH, endpoint=True)),
    )


def draw_cues(sound: Sound, voice: Voice, rng: np.random.Generator) -> Cues:
    """Draw the cues of a round for a customer with this voice."""
    manner = MANNERS[sound]
    return Cues(
        delay_sec=float(rng.uniform(*manner.delay_sec)),
        loudness_db=float(rng.uniform(*manner.loudness_db)),
        rate_wpm=round(voice.rate_wpm * manner.rate),
        pitch_range=int(rng.integers(*manner.pitch_range, endpoint=True)),
    )


def speak_rounds(
    rounds: Sequence[tuple[RoundTexts, Cues]],
    agent: Voice,
    customer: Voice,
    synthesizer: Synthesizer,
    rng: np.random.Generator,
) -> tuple[list[Turn], NDArray[np.float32], float]:
    """Synthesise the speech of a call.

    Returns:
        The turns with the words as spoken; a (2, S) array at 8 kHz with the agent's voice and the customer's; and the
        level of the agent's speech in dBFS.
    """
    agent_level_db = float(rng.uniform(*AGENT_LEVEL_DB))
    pauses_sec = [float(rng.uniform(*AGENT_PAUSE_SEC)) for _ in rounds]
    lines = []
    for (texts, cues), pause_sec in zip(rounds, pauses_sec, strict=True):
        manner = replace(customer, rate_wpm=cues.rate_wpm, pitch_range=cues.pitch_range)
        lines += [
            SpokenLine(
                speaker="agent", text=texts.agent, voice=agent, level_db=agent_level_db, pause_sec=cues.delay_sec
            ),
            SpokenLine(
                speaker="customer",
                text=texts.customer,
                voice=manner,
                level_db=agent_level_db + cues.loudness_db,
                pause_sec=pause_sec,
            ),
        ]
    lines[-1] = replace(lines[-1], pause_sec=pauses_sec[-1] + float(rng.uniform(*RING_SEC)))
    turns, voice_tracks = speak_lines(lines, float(rng.uniform(*RING_SEC)), synthesizer)
    for index, pause_sec in enumerate(pauses_sec):
        turn = turns[2 * index + 1]
        turns[2 * index + 1] = replace(turn, end_sec=turn.end_sec + pause_sec)
    return turns, voice_tracks, agent_level_db


def record_call(
    voice_tracks: NDArray[np.float32],
    agent_channel: int | None,
    noise_db: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Return the (C, S) recording: the voices in one or two channels, with line noise.

    Args:
        voice_tracks: (2, S), agent and customer.
        agent_channel: channel of the agent; None for a recording with one channel.
        noise_db: level of the noise in dBFS; with two channels, in a downmix in which the speech keeps its level.
        rng: source of the noise.
    """
    channels = lay_out_channels(voice_tracks, agent_channel)
    return add_line_noise(channels, noise_db if agent_channel is None else noise_db - MONO_GAIN_DB, rng)
