"""Judge whether a recording is a conversation that the network can have an opinion of.

Voicemail, ringing and calls with one voice are no conversations; they get a score like any other call, but no rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from msmtfn.calls.facts import AGENT, CUSTOMER, VOICES, Spans, Timeline, find_turns, total_sec
from msmtfn.calls.rounds import NUM_SPEAKERS, Turn
from msmtfn.calls.tones import drop_tones
from msmtfn.errors import require
from msmtfn.labels import UnrankedReason

_VOICE_OF: Final = {"agent": AGENT, "customer": CUSTOMER}


@dataclass(frozen=True, kw_only=True, slots=True)
class ConversationConfig:
    """Thresholds below which a call is scored, but not ranked."""

    min_conversation_sec: float = 1.0
    """Minimum seconds in which anybody speaks; a call with fewer, or with one voice only, is no_conversation."""
    min_customer_sec: float = 1.0
    """Minimum seconds in which the customer speaks; a call with fewer is too_little_evidence.
    Where the roles are unknown, whoever speaks less counts as the customer."""
    min_customer_turns: int = 1
    """Minimum number of the customer's turns; a call with fewer is too_little_evidence.
    A word while the agent speaks is no turn. Where the roles are unknown, both sides need as many."""

    def __post_init__(self) -> None:
        """Check the thresholds.

        Raises:
            ValueError: a threshold is negative or infinite.
        """
        for name in self.__slots__:
            require(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "at least 0, and finite")


def find_timeline(
    channels: NDArray[np.float32],
    sample_rate: int,
    turns: Sequence[Turn] | None,
    agent_channel: int | None,
    activity: Sequence[Spans],
) -> Timeline:
    """Return who speaks when, from the turns where there are any, else from the voices on the channels.

    Turns of two speakers whose roles are unknown tell two voices apart; other turns without roles only say that
    somebody speaks.

    Args:
        channels: (C, S) samples in [-1, 1].
        sample_rate: sample rate of `channels` in Hz.
        turns: the transcript; None or empty if there is none.
        agent_channel: the agent's channel of a two-channel call; None if unknown.
        activity: the speech on each channel, as `detect_channel_activity` returns it; not used where there are turns.
    """
    duration_sec = channels.shape[1] / sample_rate
    if turns:
        return _timeline_of_turns(turns, duration_sec)
    spoken = [
        drop_tones(waveform, sample_rate, segments) for waveform, segments in zip(channels, activity, strict=True)
    ]
    order = VOICES if agent_channel in (None, 0) else VOICES[::-1]
    voices = np.repeat(np.array(order[: len(spoken)], np.int8), [len(spans) for spans in spoken])
    if len(channels) < NUM_SPEAKERS:
        return Timeline(voices, np.concatenate(spoken), duration_sec, "speech")
    return Timeline(voices, np.concatenate(spoken), duration_sec, "voices" if agent_channel is None else "roles")


def _timeline_of_turns(turns: Sequence[Turn], duration_sec: float) -> Timeline:
    spans = np.array([(turn.start_sec, turn.end_sec) for turn in turns], np.float64)
    speakers = [turn.speaker for turn in turns]
    if _VOICE_OF.keys() >= set(speakers):
        return Timeline(np.array([_VOICE_OF[speaker] for speaker in speakers], np.int8), spans, duration_sec)
    names = sorted(set(speakers))
    if len(names) != NUM_SPEAKERS:
        return Timeline(np.zeros(len(turns), np.int8), spans, duration_sec, "speech")
    return Timeline(np.array([names.index(speaker) for speaker in speakers], np.int8), spans, duration_sec, "voices")


def judge_conversation(timeline: Timeline, config: ConversationConfig) -> UnrankedReason | None:
    """Return why a recording is no conversation, or holds too little of one; None if it is one.

    Of one channel without turns, only the time with a voice is judged.
    """
    talk_sec = total_sec(timeline.speech())
    if not talk_sec or talk_sec < config.min_conversation_sec:
        return UnrankedReason.NO_CONVERSATION
    if timeline.known == "speech":
        return None
    seconds = [total_sec(timeline.speech(voice)) for voice in VOICES]
    if not all(seconds):
        return UnrankedReason.NO_CONVERSATION
    turns = np.bincount(find_turns(timeline)[0], minlength=len(VOICES))
    customer_sec, customer_turns = seconds[CUSTOMER], turns[CUSTOMER]
    if timeline.known == "voices":
        customer_sec, customer_turns = min(seconds), turns.min()
    if customer_sec < config.min_customer_sec or customer_turns < config.min_customer_turns:
        return UnrankedReason.TOO_LITTLE_EVIDENCE
    return None
