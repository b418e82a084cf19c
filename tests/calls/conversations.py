"""Turns and recordings of small conversations, for the tests of the rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from msmtfn.calls.rounds import RoundsConfig, Turn

SAMPLE_RATE = 1000

TRUNCATE = RoundsConfig(outer_silence="drop")
SPLIT = RoundsConfig(overlong_rounds="split", outer_silence="drop")


def agent(start_sec: float, end_sec: float, text: str = "") -> Turn:
    return Turn("agent", start_sec, end_sec, text)


def customer(start_sec: float, end_sec: float, text: str = "") -> Turn:
    return Turn("customer", start_sec, end_sec, text)


def two_channels(duration_sec: float, turns: Sequence[Turn]) -> NDArray[np.float32]:
    """Line noise at -60 dB and, on channel 0 for the agent and 1 for the customer, 100 Hz for each turn."""
    num_samples = round(duration_sec * SAMPLE_RATE)
    channels = 0.001 * np.random.default_rng(0).standard_normal((2, num_samples), dtype=np.float32)
    tone = 0.2 * np.sin(2 * np.pi * 100 / SAMPLE_RATE * np.arange(num_samples), dtype=np.float32)
    for turn in turns:
        start, end = round(turn.start_sec * SAMPLE_RATE), round(turn.end_sec * SAMPLE_RATE)
        channels[int(turn.speaker == "customer"), start:end] = tone[start:end]
    return channels
