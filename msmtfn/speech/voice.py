"""Detect speech: where somebody speaks in each channel of a call, without music, ringing and crosstalk.

`energy` is the detector of `calls.activity`, fast and without a model, to which music is speech. `silero` is the
Silero network out of the package faster-whisper. In a call with two channels, a channel that carries no more than the
other one's sound counts as silent, whatever the detector.
Shapes: C channels, S samples, N segments.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from msmtfn.calls.activity import ActivityConfig, detect_activity, detect_channel_activity, detect_crosstalk
from msmtfn.errors import ModelError, require
from msmtfn.speech.recogniser import SAMPLE_RATE, Waveform

Segments = npt.NDArray[np.float64]
"""(N, 2) start_sec and end_sec, ordered and disjoint."""

MILLI: Final = 1000
MAX_VOICE_SEC: Final = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class VoiceConfig:
    """Options of the detection of speech."""

    detector: Literal["silero", "energy"] = "silero"
    """Detector of speech: the Silero network, of the extra asr, or the channel's energy, to which music is speech."""
    min_voice_prob: float = 0.5
    """Probability from which on Silero's frames are speech."""
    max_voice_gap_sec: float = 0.3
    """Pause in seconds up to which Silero's frames are one segment."""
    min_voice_sec: float = 0.2
    """Segments of Silero that are shorter than this many seconds are dropped."""
    activity: ActivityConfig = field(default_factory=ActivityConfig)
    """Thresholds of the detector by energy, and of crosstalk."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        require(self.detector in ("silero", "energy"), "detector", self.detector, "'silero' or 'energy'")
        require(0 < self.min_voice_prob < 1, "min_voice_prob", self.min_voice_prob, "between 0 and 1")
        for name in ("max_voice_gap_sec", "min_voice_sec"):
            require(0 <= getattr(self, name) <= MAX_VOICE_SEC, name, getattr(self, name), "between 0 and 10 seconds")


def detect_speech(channels: Waveform, config: VoiceConfig) -> list[Segments]:
    """Return the segments of each channel in which somebody speaks.

    Args:
        channels: (C, S) samples in [-1, 1] at `SAMPLE_RATE`.
        config: options of the detection.

    Raises:
        ModelError: the detector is not installed.
    """
    if config.detector == "energy":
        if len(channels) == 1:
            return [detect_activity(channels[0], SAMPLE_RATE, config.activity)]
        return detect_channel_activity(channels, SAMPLE_RATE, config.activity)
    crosstalk = detect_crosstalk(channels, SAMPLE_RATE, config.activity)
    found = []
    for waveform, other in zip(channels, crosstalk, strict=True):
        segments = subtract(_detect_with_silero(waveform, config), other)
        found.append(join_gaps(segments, config.max_voice_gap_sec, config.min_voice_sec))
    return found


def check_detector(config: VoiceConfig) -> None:
    """Check that the detector is installed.

    Raises:
        ModelError: it is not.
    """
    if config.detector == "silero":
        detect_speech(np.zeros((1, SAMPLE_RATE // 10), np.float32), config)


def subtract(segments: Segments, holes: Segments) -> Segments:
    """Return segments without the parts that lie in others."""
    edges = np.unique(np.concatenate([segments.ravel(), holes.ravel()]))
    middles = (edges[:-1] + edges[1:]) / 2
    kept = covers(segments, middles) & ~covers(holes, middles)
    return np.stack([edges[:-1][kept], edges[1:][kept]], axis=1)


def union(segments: Segments, others: Segments) -> Segments:
    """Return the time that lies in one of two rows of segments, or in both."""
    merged = np.concatenate([segments, others])
    return join_gaps(merged[np.argsort(merged[:, 0], kind="stable")], 0.0, 0.0)


def join_gaps(segments: Segments, max_gap_sec: float, min_sec: float) -> Segments:
    """Join segments, ordered by their starts, over short gaps, and drop those that are still short."""
    joined: list[list[float]] = []
    for start_sec, end_sec in segments.tolist():
        if joined and start_sec - joined[-1][1] <= max_gap_sec:
            joined[-1][1] = max(joined[-1][1], end_sec)
        else:
            joined.append([start_sec, end_sec])
    kept = [segment for segment in joined if segment[1] - segment[0] >= min_sec]
    return np.array(kept, np.float64).reshape(-1, 2)


def covers(segments: Segments, times_sec: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Return for each time whether it lies in a segment; the segments are ordered and disjoint."""
    place = np.searchsorted(segments[:, 0], times_sec, side="right") - 1
    ends = np.append(segments[:, 1], -np.inf)  # index -1: before the first segment
    inside: npt.NDArray[np.bool_] = times_sec < ends[place]
    return inside


def total_sec(segments: Segments) -> float:
    """Return the total length of segments."""
    return float((segments[:, 1] - segments[:, 0]).sum())


def _detect_with_silero(waveform: Waveform, config: VoiceConfig) -> Segments:
    try:
        from faster_whisper.vad import VadOptions, get_speech_timestamps  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ModelError(
            f"the detector silero needs the extra: pip install 'msmtfn[asr]' on every machine, or --detector energy "
            f"({exc})"
        ) from exc
    options = VadOptions(
        threshold=config.min_voice_prob,
        min_speech_duration_ms=round(config.min_voice_sec * MILLI),
        min_silence_duration_ms=round(config.max_voice_gap_sec * MILLI),
        speech_pad_ms=0,
    )
    found = get_speech_timestamps(waveform, options, SAMPLE_RATE)
    edges = [(each["start"], min(each["end"], len(waveform))) for each in found]
    return np.array(edges, np.float64).reshape(-1, 2) / SAMPLE_RATE
