"""How the customers of simulated calls sound: the four cues of each round, and the recording that they end up in.

| | response delay | loudness, relative to the agent's | speaking rate, of the customer's own | pitch movement |
|---|---|---|---|---|
| warm | 0.2 to 0.4 s | +5 to +7 dB | 1.25 | lively |
| plain | 0.75 to 0.95 s | -1 to +1 dB | 1 | usual |
| cold | 1.3 to 1.7 s | -7 to -5 dB | 0.75 | nearly none |

All four go together, the ranges of two sounds never touch, and the agent sounds the same in every round: each cue
can be heard in a round by itself, also after the round is brought to zero mean and unit variance. Nothing else
tells a round's place in the call: every customer's turn ends, for the recogniser, with a pause of the same kind, also
the last one.
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
RING_SEC: Final = (0.3, 1.0)  # before the first turn, and after the last
AGENT_PAUSE_SEC: Final = (0.3, 0.6)  # until the agent goes on
SNR_DB: Final = (10.0, 30.0)
MONO_GAIN_DB: Final = 3.0  # the mean of two channels has half the speech and, of independent noise, half the power

AGENTS: Final[dict[str, Voice]] = {
    "agent-01": Voice(voice="cmn+f3", rate_wpm=215, pitch=55),
    "agent-02": Voice(voice="cmn+m3", rate_wpm=205, pitch=45),
    "agent-03": Voice(voice="cmn+f2", rate_wpm=220, pitch=60),
    "agent-04": Voice(voice="cmn+m5", rate_wpm=210, pitch=55),
    "agent-05": Voice(voice="cmn+f1", rate_wpm=205, pitch=50),
    "agent-06": Voice(voice="cmn+m6", rate_wpm=220, pitch=60),
}
CUSTOMER_VARIANTS: Final = ("f1", "f2", "f3", "f4", "f5", "m2", "m5", "m6")  # the others are hoarse, and hide the pitch
CUSTOMER_RATE_WPM: Final = (180, 200)
CUSTOMER_PITCH: Final = (40, 70)


@dataclass(frozen=True, kw_only=True, slots=True)
class Manner:
    """What one sound means: the range of each cue, from and to."""

    delay_sec: tuple[float, float]
    loudness_db: tuple[float, float]
    rate: float
    """Of the customer's own speaking rate."""
    pitch_range: tuple[int, int]


MANNERS: Final[dict[Sound, Manner]] = {
    "warm": Manner(delay_sec=(0.2, 0.4), loudness_db=(5.0, 7.0), rate=1.25, pitch_range=(85, 99)),
    "plain": Manner(delay_sec=(0.75, 0.95), loudness_db=(-1.0, 1.0), rate=1.0, pitch_range=(40, 55)),
    "cold": Manner(delay_sec=(1.3, 1.7), loudness_db=(-7.0, -5.0), rate=0.75, pitch_range=(0, 8)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cues:
    """How the customer sounds in one round.

    Attributes:
        delay_sec: from the end of the agent's speech to the customer's.
        loudness_db: relative to the agent's.
        rate_wpm: of speech, in words a minute as espeak-ng counts them.
        pitch_range: 0 for a monotone, 50 for the usual, 99 for twice that.
    """

    delay_sec: float
    loudness_db: float
    rate_wpm: int
    pitch_range: int


def draw_customer_voice(rng: np.random.Generator) -> Voice:
    """A person's voice, the same in all their calls."""
    return Voice(
        voice=f"cmn+{rng.choice(CUSTOMER_VARIANTS)}",
        rate_wpm=int(rng.integers(*CUSTOMER_RATE_WPM, endpoint=True)),
        pitch=int(rng.integers(*CUSTOMER_PITCH, endpoint=True)),
    )


def draw_cues(sound: Sound, voice: Voice, rng: np.random.Generator) -> Cues:
    """How a customer of this voice sounds in a round."""
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
    """Speak a call.

    Returns:
        The turns with their true words; (2, S) at 8 kHz: the agent's voice alone, and the customer's; the level of
        the agent's speech, in dB of full scale.
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
    """What the recorder writes: (C, S), the voices in one channel or two, with the line's noise.

    Args:
        voice_tracks: (2, S), agent and customer.
        agent_channel: None in a one-channel recording.
        noise_db: level of the noise beside the speech, once the channels are mixed to one with the speech as it is.
        rng: makes the noise.
    """
    channels = lay_out_channels(voice_tracks, agent_channel)
    return add_line_noise(channels, noise_db if agent_channel is None else noise_db - MONO_GAIN_DB, rng)
