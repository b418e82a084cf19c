"""Walk through the formats that are a mere chain of frames: MP3, AAC (ADTS) and AMR.

Their decoders skip what they do not understand, or stop there without an error. The walk therefore finds every frame
first: a chain that breaks and goes on later has a hole, and one whose frames change their format is two recordings.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from msmtfn.calls.layout import DECODER_SLACK_SEC, MAX_JUNK_SHARE, Layout, too_long, unreadable

_MPEG_KBIT: Final = {  # layer III (ISO/IEC 11172-3, 13818-3) by version bits: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATE: Final = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_ADTS_RATE: Final = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_AMR_SIZE: Final = (13, 14, 16, 18, 20, 21, 27, 32, 6, 0, 0, 0, 0, 0, 0, 1)  # RFC 4867, section 5.3
_AMR_MAGIC: Final = b"#!AMR\n"
_XING_REACH: Final = 48  # the side information of a frame, which a Xing header follows, has at most 32 bytes
_PROBE_FRAMES: Final = 3
"""Frames of the recording's own format that must follow each other to count as audio after a hole."""

_MAX_PROBES: Final = 100_000
"""Places after the last frame that may look like a frame; random bytes have one in 12,000."""

_MAX_TAGS: Final = 100
"""ID3 tags that may follow each other."""


class Frame(NamedTuple):
    """The header of a frame.

    Attributes:
        size: number of bytes, header included.
        num_samples: samples per channel.
        sample_rate: in Hz.
        kind: what may not change from frame to frame.
    """

    size: int
    num_samples: int
    sample_rate: int
    kind: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """A format that is a chain of frames: its name, the bytes of a header, a sync pattern, and its parser."""

    name: str
    header_bytes: int
    sync: re.Pattern[bytes]
    parse: Callable[[bytes], Frame | None]


@lru_cache(maxsize=4096)
def parse_mpeg_header(header: bytes) -> Frame | None:
    """Return the layer III frame that a header of 4 bytes starts; None if it starts none.

    A frame has 1152 samples in MPEG 1, else 576, and one padding byte if the padding bit is set (ISO/IEC 11172-3,
    2.4.3.1). Its bytes are samples / 8 * bit rate / sample rate: 144 (72) * kbit * 1000 / sample rate.
    """
    bits = int.from_bytes(header, "big")
    version, kbit_index, rate_index = bits >> 19 & 3, bits >> 12 & 15, bits >> 10 & 3
    is_layer_iii = len(header) == 4 and bits >> 21 == 0x7FF and bits >> 17 & 3 == 1  # noqa: PLR2004
    if not is_layer_iii or version == 1 or not 1 <= kbit_index <= 14 or rate_index == 3:  # noqa: PLR2004
        return None
    kbit, rate = _MPEG_KBIT[version or 2][kbit_index - 1], _MPEG_RATE[version][rate_index]
    num_samples = 1152 if version == 3 else 576  # noqa: PLR2004
    size = num_samples // 8 * 1000 * kbit // rate + (bits >> 9 & 1)
    return Frame(size, num_samples, rate, (rate, 1 if bits >> 6 & 3 == 3 else 2))  # noqa: PLR2004


def parse_adts_header(header: bytes) -> Frame | None:
    """Return the AAC frame that an ADTS header of 7 bytes starts (ISO/IEC 13818-7, 6.2); None if it starts none."""
    bits = int.from_bytes(header, "big")
    size, rate_index, channels = bits >> 13 & 0x1FFF, bits >> 34 & 15, bits >> 30 & 7
    is_adts = len(header) == 7 and bits >> 44 == 0xFFF and bits >> 41 & 3 == 0  # noqa: PLR2004
    if not is_adts or rate_index >= len(_ADTS_RATE) or size <= 7:  # noqa: PLR2004
        return None
    return Frame(size, 1024 * ((bits & 3) + 1), _ADTS_RATE[rate_index], (rate_index, channels, bits >> 38 & 3))


@lru_cache(maxsize=256)
def _parse_amr_header(header: bytes) -> Frame | None:
    size = _AMR_SIZE[header[0] >> 3 & 15] if header and not header[0] & 0x83 else 0  # 0x83: bits that are always 0
    return Frame(size, 160, 8000, ()) if size else None


# The sync patterns exclude what the parsers refuse, above all runs of 0xFF, which fill unused blocks of a memory card.
MP3: Final = FrameFormat("MP3", 4, re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][\x10-\xef]"), parse_mpeg_header)
AAC: Final = FrameFormat("AAC", 7, re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), parse_adts_header)
AMR: Final = FrameFormat("AMR", 1, re.compile(rb"(?!)"), _parse_amr_header)  # any byte may be a header: no sync


def begins_with_frames(data: memoryview, form: FrameFormat) -> bool:
    """Return whether two headers stand one frame apart; raw samples near zero often look like a single header."""
    first = form.parse(bytes(data[: form.header_bytes]))
    if first is None:
        return False
    return first.size >= data.nbytes or form.parse(bytes(data[first.size : first.size + form.header_bytes])) is not None


def skip_id3(data: memoryview, offset: int = 0) -> int:
    """Return the offset behind all ID3v2 tags, up to 100 of them; `offset` itself where there is none."""
    for _ in range(_MAX_TAGS):
        head = bytes(data[offset : offset + 10])
        if not head.startswith(b"ID3") or len(head) < 10:  # noqa: PLR2004
            break
        size = sum(byte << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))
        offset += 10 + size + (10 if head[5] & 16 else 0)  # a footer repeats the header
    return offset


def survey_mp3(data: memoryview, max_duration_sec: float = math.inf) -> Layout:
    """Walk through the frames of an MP3.

    Raises:
        CallError: frames are missing, change their format, or are not as many as a Xing or Info header promises
            (`audio_unreadable`), or last longer than the limit (`audio_too_long`).
    """
    start = skip_id3(data)
    chain = _walk(data, start, MP3, max_duration_sec)
    first = bytes(data[start : start + chain.first.size])
    place = max(first.find(b"Xing", 0, _XING_REACH), first.find(b"Info", 0, _XING_REACH))
    num_frames, trimmed = chain.num_frames, 0
    patches: dict[int, bytes] = {}
    if place >= 0:
        num_frames -= 1
        has_count = int.from_bytes(first[place + 4 : place + 8], "big") & 1
        promised = int.from_bytes(first[place + 8 : place + 12], "big")
        if has_count and promised and abs(num_frames - promised) > 1:
            raise unreadable(
                f"the MP3 is cut short, or holds more than one recording: its header promises {promised} frames, "
                f"{num_frames} are there"
            )
        if has_count and not promised:  # the encoder was killed, or could not seek back
            patches[start + place + 8] = num_frames.to_bytes(4, "big")
        trimmed = _samples_to_trim(first, place)
    rate, frame_samples = chain.first.sample_rate, chain.first.num_samples
    return Layout(
        end=chain.end,
        duration_sec=max(0.0, num_frames * frame_samples - trimmed / 2) / rate,
        slack_sec=(3 * frame_samples + trimmed / 2) / rate,
        patches=patches,
    )


def _samples_to_trim(first: bytes, xing: int) -> int:
    """Return the encoder's delay and padding, which a decoder may remove; they stand behind the Xing header (LAME)."""
    flags = int.from_bytes(first[xing + 4 : xing + 8], "big")
    place = xing + 8 + 4 * (flags & 1) + 2 * (flags & 2) + 25 * (flags & 4) + (flags & 8) // 2 + 21
    both = int.from_bytes(first[place : place + 3], "big")
    return (both >> 12) + (both & 0xFFF)


def survey_adts(data: memoryview, max_duration_sec: float = math.inf) -> Layout:
    """Walk through the frames of an AAC.

    Raises:
        CallError: frames are missing or change their format (`audio_unreadable`), or last longer than the limit
            (`audio_too_long`).
    """
    chain = _walk(data, skip_id3(data), AAC, max_duration_sec)
    rate = chain.first.sample_rate
    return Layout(end=chain.end, duration_sec=chain.num_samples / rate, slack_sec=3 * 1024 / rate)


def survey_amr(data: memoryview, max_duration_sec: float = math.inf) -> Layout:
    """Walk through the frames of an AMR.

    Raises:
        CallError: frames are missing (`audio_unreadable`), or last longer than the limit (`audio_too_long`).
    """
    if data.nbytes <= len(_AMR_MAGIC):
        return Layout(end=data.nbytes)
    chain = _walk(data, len(_AMR_MAGIC), AMR, max_duration_sec)
    num_rest = data.nbytes - chain.end
    if num_rest > MAX_JUNK_SHARE * data.nbytes:
        raise unreadable(f"the AMR is damaged: the {num_rest} bytes after {chain.num_frames} frames are no frames")
    return Layout(end=chain.end, duration_sec=chain.num_samples / 8000, slack_sec=2 * 160 / 8000)


@dataclass(frozen=True, slots=True)
class _Chain:
    first: Frame
    num_frames: int
    num_samples: int
    end: int


def _walk(data: memoryview, start: int, form: FrameFormat, max_duration_sec: float) -> _Chain:
    parse, header_bytes, size = form.parse, form.header_bytes, data.nbytes
    first = parse(bytes(data[start : start + header_bytes]))
    if first is None:
        raise unreadable(f"the {form.name} does not begin with a frame")
    offset, num_frames, num_samples = start, 0, 0
    max_samples = (max_duration_sec + DECODER_SLACK_SEC) * first.sample_rate
    while num_samples <= max_samples:
        frame = parse(bytes(data[offset : offset + header_bytes]))
        if frame is None:
            after_tag = _skip_tag(data, offset)
            if after_tag == offset or parse(bytes(data[after_tag : after_tag + header_bytes])) is None:
                break
            offset = after_tag
            continue
        if frame.kind != first.kind:
            raise unreadable(
                f"the {form.name} changes its sample rate or its number of channels after "
                f"{num_samples / first.sample_rate:.1f} s"
            )
        if offset + frame.size > size:
            raise unreadable(
                f"the {form.name} is cut short: its last frame promises {frame.size} bytes, {size - offset} are there"
            )
        offset, num_frames, num_samples = offset + frame.size, num_frames + 1, num_samples + frame.num_samples
    else:
        raise too_long("is too long", max_duration_sec)
    _check_no_hole(data, offset, form, first, num_samples)
    return _Chain(first, num_frames, num_samples, offset)


def _skip_tag(data: memoryview, offset: int) -> int:
    if bytes(data[offset : offset + 3]) == b"TAG":
        return offset + 128
    return skip_id3(data, offset)


def _check_no_hole(data: memoryview, offset: int, form: FrameFormat, first: Frame, num_samples: int) -> None:
    """Check that no audio follows where the chain of frames breaks."""
    for num_probes, match in enumerate(form.sync.finditer(data, offset)):
        if num_probes == _MAX_PROBES:
            raise unreadable(f"the {form.name} is damaged: {_MAX_PROBES} places after its last frame look like frames")
        place = match.start()
        for _ in range(_PROBE_FRAMES):
            frame = form.parse(bytes(data[place : place + form.header_bytes]))
            if frame is None or frame.kind[:1] != first.kind[:1]:
                break
            place += frame.size
        else:
            raise unreadable(
                f"the {form.name} has a hole after {num_samples / first.sample_rate:.1f} s: "
                f"{match.start() - offset} bytes there are no frames"
            )
