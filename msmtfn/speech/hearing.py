"""Hear a call: find its speech and its speakers, cut clips, have them recognised, and join the words to turns.

`listen` is the part that needs no recogniser and runs on CPUs; `understand` takes what a recogniser wrote of the clips.
Between the two lie the clips, which may be batched with those of other calls (`recognise_clips`).
Shapes: C channels, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, Literal

import numpy as np

from msmtfn.errors import require
from msmtfn.speech.clips import Clip, batch_clips, cut_clips, restore_times
from msmtfn.speech.diarisation import DiarisationConfig, diarise
from msmtfn.speech.hanzi import MANDARIN, simplify
from msmtfn.speech.invented import InventionConfig, find_invention
from msmtfn.speech.recogniser import Recogniser, Segment, Waveform
from msmtfn.speech.transcript import HeardCall, Reason
from msmtfn.speech.turns import SpokenTurn, assign_words, join_turns
from msmtfn.speech.voice import Segments, VoiceConfig, detect_speech, total_sec, union

LANGUAGE_CODES: Final = {"cmn": "zh", "mandarin": "zh", "chinese": "zh", "english": "en"}
"""Codes of languages that manifests name otherwise."""

MIN_CLIP_SEC: Final = 1.0
DEAD_PEAK: Final = 1e-4
"""Highest sample of a channel that carries nothing, three steps of 16 bits; the line of somebody silent has noise."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HearingConfig:
    """Options of hearing a call; every one changes a result."""

    voice: VoiceConfig = field(default_factory=VoiceConfig)
    """Detection of speech."""
    diarisation: DiarisationConfig = field(default_factory=DiarisationConfig)
    """Telling the speakers of one channel apart."""
    invention: InventionConfig = field(default_factory=InventionConfig)
    """Limits beyond which recognised text counts as invented."""
    language: str | None = None
    """Language of the calls, such as zh or en, where the manifest names none; by default it is found in each call."""
    characters: Literal["simplified", "as-heard"] = "simplified"
    """Characters of Mandarin: simplified ones whatever the recogniser writes, or what it writes."""
    max_clip_sec: float = 29.5
    """Length in seconds of the longest clip that is recognised as one; Whisper's own limit is 30."""
    clip_padding_sec: float = 0.15
    """Seconds of sound that are kept before and after each stretch of speech."""
    max_pause_sec: float = 0.8
    """Longest pause in seconds within a turn."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        are_known = self.characters in ("simplified", "as-heard")
        require(are_known, "characters", self.characters, "'simplified' or 'as-heard'")
        limits = {"max_clip_sec": (MIN_CLIP_SEC, 30), "clip_padding_sec": (0, 2), "max_pause_sec": (0, 60)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            require(low <= value <= high, name, value, f"between {low:g} and {high} seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Listened:
    """Call whose speech was found.

    Attributes:
        clips: the clips to recognise.
        waveforms: (S,) samples of each clip.
        speech: segments of speech of each channel.
        speakers: segments of each speaker of the only channel; None if a speaker has a channel of their own.
        duration_sec: length of the recording.
    """

    clips: list[Clip]
    waveforms: list[Waveform]
    speech: list[Segments]
    speakers: list[Segments] | None
    duration_sec: float


def listen(channels: Waveform, duration_sec: float, config: HearingConfig) -> Listened:
    """Find the speech and the speakers of a call, and cut it into clips.

    Args:
        channels: (C, S) samples in [-1, 1] at the recognisers' rate.
        duration_sec: length of the recording.
        config: options of hearing.
    """
    channels = _live_channels(channels)
    speech = detect_speech(channels, config.voice)
    clips = cut_clips(channels, speech, max_clip_sec=config.max_clip_sec, padding_sec=config.clip_padding_sec)
    speakers = diarise(channels[0], speech[0], config.diarisation) if len(channels) == 1 else None
    return Listened(clips, [clip.cut(channels) for clip in clips], speech, speakers, duration_sec)


def find_language(call: Listened, recogniser: Recogniser, given: str | None, config: HearingConfig) -> str | None:
    """Return the language of a call: the one that the manifest or the options give, or what its longest clip is in."""
    named = given or config.language
    if named:
        code = named.strip().lower().replace("_", "-").split("-")[0]
        return LANGUAGE_CODES.get(code, code)
    if not call.waveforms:
        return None
    return recogniser.find_language(max(call.waveforms, key=len))


def recognise_clips(
    clips: Sequence[Waveform],
    languages: Sequence[str | None],
    recogniser: Recogniser,
    batch_sec: float,
    before_batch: Callable[[Sequence[int]], None] = lambda _numbers: None,
) -> list[list[Segment]]:
    """Recognise clips of any number of calls, batched by seconds.

    Args:
        clips: (S,) samples of each clip.
        languages: language of each clip.
        recogniser: the recogniser.
        batch_sec: seconds of sound in a batch, padding included.
        before_batch: called before each batch with the numbers of its clips.

    Returns:
        The segments of each clip, with times from its start.
    """
    found: list[list[Segment]] = [[] for _ in clips]
    durations = [len(clip) / 16_000 for clip in clips]
    for batch in batch_clips(durations, batch_sec, recogniser.fixed_clip_sec):
        before_batch(batch)
        heard = recogniser.recognise([clips[number] for number in batch], [languages[number] for number in batch])
        for number, segments in zip(batch, heard, strict=True):
            found[number] = segments
    return found


def understand(
    call: Listened, recognised: Sequence[Sequence[Segment]], language: str | None, config: HearingConfig
) -> HeardCall:
    """Join what was recognised of a call's clips to turns; invented text counts as none.

    Args:
        call: the call.
        recognised: segments of each of its clips, with times from the start of the clip.
        language: language of the call.
        config: options of hearing.
    """
    kept: list[list[Segment]] = [[] for _ in call.speech]
    num_invented = 0
    for clip, segments in zip(call.clips, recognised, strict=True):
        for channel, placed in chain.from_iterable(restore_times(segment, clip) for segment in segments):
            if find_invention(placed, call.speech[channel], config.invention) is None:
                kept[channel].append(placed)
            else:
                num_invented += 1
    turns = sorted(_turns_of(call, kept, config), key=lambda turn: (turn.start_sec, turn.speaker))
    if language in MANDARIN and config.characters == "simplified":
        turns = [SpokenTurn(t.speaker, t.start_sec, t.end_sec, simplify(t.text), t.confidence) for t in turns]
    reason = None
    if not turns:
        reason = Reason.INVENTED if num_invented else Reason.NOTHING_RECOGNISED if call.clips else Reason.NO_SPEECH
    return HeardCall(
        language=language,
        by_channel=call.speakers is None,
        turns=tuple(turns),
        speech_sec=round(total_sec(_anybody(call.speech)), 3),
        duration_sec=call.duration_sec,
        num_invented=num_invented,
        reason=None if reason is None else str(reason),
    )


def _live_channels(channels: Waveform) -> Waveform:
    """Return the channels without one that is dead: the other then holds both speakers."""
    is_live = np.abs(channels).max(axis=1, initial=0.0) > DEAD_PEAK
    return channels[is_live] if is_live.any() else channels[:1]


def _turns_of(call: Listened, kept: Sequence[Sequence[Segment]], config: HearingConfig) -> list[SpokenTurn]:
    turns = []
    for channel, segments in enumerate(kept):
        words = sorted((word for segment in segments for word in segment.words), key=lambda word: word.start_sec)
        if call.speakers is None:
            owners = [channel] * len(words)
        else:
            owners = assign_words(words, call.speakers) if call.speakers else [0] * len(words)
        turns += join_turns(words, owners, config.max_pause_sec)
    return turns


def _anybody(speech: Sequence[Segments]) -> Segments:
    """Return the segments in which somebody speaks on any channel."""
    anybody = np.empty((0, 2))
    for segments in speech:
        anybody = union(anybody, segments)
    return anybody
