"""A recogniser whose words follow from the sound by a simple rule, and calls made for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from msmtfn.speech.recogniser import SAMPLE_RATE, Segment, Waveform, Word

HISS = 1e-3
TONES = {200: " hello", 400: " goodbye"}
"""What a burst of noise around a tone of so many Hz stands for."""


class ToneRecogniser:
    """Recogniser of bursts: half a second of a tone is a word."""

    max_clip_sec = 30.0
    fixed_clip_sec = None

    def __init__(self) -> None:
        self.batches: list[list[float]] = []

    def find_language(self, clip: Waveform) -> str | None:
        return "en"

    def recognise(self, clips: Sequence[Waveform], languages: Sequence[str | None]) -> list[list[Segment]]:
        self.batches.append([round(len(clip) / SAMPLE_RATE, 2) for clip in clips])
        return [self._hear(clip) for clip in clips]

    def _hear(self, clip: Waveform) -> list[Segment]:
        size = SAMPLE_RATE // 2
        words = []
        for place in range(len(clip) // size):
            part = clip[place * size : (place + 1) * size]
            if np.sqrt(np.mean(part**2)) > 0.02:
                loudest = 2 * int(np.argmax(np.abs(np.fft.rfft(part))))
                text = TONES[min(TONES, key=lambda tone: abs(tone - loudest))]
                words.append(Word(text, place / 2, place / 2 + 0.5, 0.9))
        return [Segment(tuple(words), 0.9, 0.1)] if words else []


def tone(hertz: float, seconds: float) -> Waveform:
    """A tone that swells and fades, as speech does, so that it is no constant noise."""
    times = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (0.3 * np.sin(2 * np.pi * hertz * times) * (1 + 0.5 * np.sin(2 * np.pi * 3 * times))).astype(np.float32)


def call_of(seconds: float, *bursts: tuple[int, float, float, float], num_channels: int = 2) -> Waveform:
    """A call with bursts of (channel, start_sec, seconds, hertz), with a hiss below."""
    generator = np.random.default_rng(0)
    channels = (HISS * generator.standard_normal((num_channels, round(seconds * SAMPLE_RATE)))).astype(np.float32)
    for channel, start_sec, length_sec, hertz in bursts:
        start = round(start_sec * SAMPLE_RATE)
        burst = tone(hertz, length_sec)
        channels[channel, start : start + len(burst)] += burst
    return channels
