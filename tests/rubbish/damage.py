"""Recordings in every format that can be written here, damaged in every way: what is heard of them, and by whom.

FFmpeg, fed packet by packet and forgiving every error, is the reference of what can be heard in a file.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt
import soundfile as sf

from msmtfn.calls.audio import AudioConfig, decode_recording
from msmtfn.calls.containers import recognise_container
from msmtfn.calls.frames import AAC, AMR, MP3, FrameFormat
from msmtfn.calls.ogg import with_checksum
from msmtfn.errors import CallError
from tests.rubbish.recordings import LIBSNDFILE

DURATION_SEC: Final = 6.0
Samples = npt.NDArray[np.int16]

PYAV: Final[dict[str, tuple[str, str, int, dict[str, str]]]] = {
    "av.wav": ("wav", "pcm_s16le", 8000, {}),
    "av.w64.wav": ("w64", "pcm_s16le", 8000, {}),
    "av.rf64.wav": ("wav", "pcm_mulaw", 8000, {"rf64": "always"}),
    "av.ima.wav": ("wav", "adpcm_ima_wav", 8000, {}),
    "av.f64.wav": ("wav", "pcm_f64le", 16_000, {}),
    "av.flac": ("flac", "flac", 8000, {}),
    "av.mp3": ("mp3", "libmp3lame", 8000, {}),
    "av.plain.mp3": ("mp3", "libmp3lame", 16_000, {"write_xing": "0", "id3v2_version": "0"}),
    "av.44.mp3": ("mp3", "libmp3lame", 44_100, {"write_id3v1": "1"}),
    "av.opus": ("ogg", "libopus", 16_000, {"page_duration": "20000"}),
    "av.dtx.opus": ("ogg", "libopus", 16_000, {"page_duration": "20000"}),
    "av.m4a": ("ipod", "aac", 16_000, {}),
    "av.first.m4a": ("ipod", "aac", 44_100, {"moov_size": "5000"}),
    "av.fragments.m4a": ("ipod", "aac", 16_000, {"movflags": "frag_keyframe+empty_moov", "frag_duration": "200000"}),
    "av.alac.m4a": ("ipod", "alac", 8000, {}),
    "av.3gp": ("3gp", "libopencore_amrnb", 8000, {}),
    "av.aac": ("adts", "aac", 16_000, {}),
    "av.amr": ("amr", "libopencore_amrnb", 8000, {}),
    "av.g722": ("g722", "g722", 16_000, {}),
}
"""Muxer, codec, sample rate and options by a name for the file."""

DEMUXERS: Final = {"MP4": "mov", "AAC": "aac", "AMR": "amr", "G722": "g722", "FLAC": "flac", "MP3": "mp3", "OGG": "ogg"}
REJECTS: Final = ("audio_unreadable", "audio_empty", "audio_too_long")
FRAMES: Final = {"MP3": MP3, "AAC": AAC, "AMR": AMR}


@dataclass(frozen=True, slots=True)
class Case:
    """A recording to be heard.

    Attributes:
        name: its format and its damage.
        file_name: a name with the suffix of its format.
        data: its content.
        forgiven: whether players forgive the damage, so that it must be scored, on `full_sec`.
        full_sec: seconds of all audio in it, where that is known; what is scored must have them.
    """

    name: str
    file_name: str
    data: bytes
    forgiven: bool
    full_sec: float | None


def speech(rate: int, channels: int, seed: int) -> Samples:
    """(C, S): syllables of noisy tones, with a pause of a second."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(round(rate * DURATION_SEC)) / rate
    envelope = (np.sin(2 * np.pi * 3 * seconds) > -0.3) * ((seconds < 2) | (seconds > 3))
    wave = [
        envelope * (0.3 * np.sin(2 * np.pi * pitch * seconds) + 0.03 * rng.standard_normal(len(seconds)))
        for pitch in (220 + 20 * seed, 350)[:channels]
    ]
    return (32767 * np.stack(wave)).astype(np.int16)


def encode(name: str, samples: Samples, rate: int) -> bytes:
    """Encode samples in one of the formats of `LIBSNDFILE` or `PYAV`."""
    target = io.BytesIO()
    if name in LIBSNDFILE:
        container, subtype = LIBSNDFILE[name]
        sf.write(target, samples.T, rate, format=container, subtype=subtype)
        return target.getvalue()
    muxer, codec, _, options = PYAV[name]
    layout = "stereo" if len(samples) == 2 else "mono"
    with av.open(target, "w", format=muxer, options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout=layout)
        if "dtx" in name:
            stream.options = {"dtx": "1", "application": "voip"}
        whole = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="s16", layout=layout)
        whole.sample_rate, whole.pts = rate, 0
        stream.codec_context.open()
        cut = av.AudioResampler(stream.codec_context.format.name, layout, rate, stream.codec_context.frame_size or None)
        for frame in [*cut.resample(whole), *cut.resample(None), None]:
            for packet in stream.encode(frame):
                file.mux(packet)
    return target.getvalue()


@cache
def base(name: str, seed: int = 0, rate: int = 0, channels: int = 1) -> bytes:
    """Return a whole recording of a format."""
    rate = rate or (PYAV[name][2] if name in PYAV else 8000)
    return encode(name, speech(rate, channels, seed), rate)


def heard_by_ffmpeg(data: bytes, container: str) -> float:
    """Return the seconds that FFmpeg decodes, packet by packet, forgiving every error."""
    form = DEMUXERS.get(container, "w64" if data.startswith(b"riff") else "wav")
    seconds = 0.0
    try:
        with av.open(io.BytesIO(data), "r", format=form, metadata_errors="replace") as file:
            for packet in file.demux(file.streams.audio[0]):
                try:
                    seconds += sum(frame.samples / frame.sample_rate for frame in packet.decode())
                except av.FFmpegError:
                    continue
    except (av.FFmpegError, IndexError):
        pass
    return seconds


def outcome(case: Case) -> float | CallError:
    """Return the seconds that a call is scored on, or why it is rejected."""
    config = AudioConfig(max_duration_sec=600.0)
    try:
        return decode_recording(case.data, sample_rate=8000, config=config, name=case.file_name).duration_sec
    except CallError as error:
        return error


def problem_of(case: Case) -> str | None:
    """Return what is wrong with the outcome of a case; None if nothing is."""
    result = outcome(case)
    if isinstance(result, CallError):
        if case.forgiven:
            return f"{case.name}: must be scored, but {result}"
        return None if result.code in REJECTS else f"{case.name}: {result}"
    reference = heard_by_ffmpeg(case.data, recognise_container(memoryview(case.data), case.file_name))
    for heard_by, seconds in (("FFmpeg", reference), ("its maker", case.full_sec or 0.0)):
        if result < 0.98 * seconds - 0.1:
            return f"{case.name}: scored on {result:.2f} s, but {heard_by} hears {seconds:.2f} s"
    return None


# ---- damages


@dataclass(frozen=True, slots=True)
class Source:
    """A whole recording with what a damage needs to know of it."""

    name: str
    container: str
    data: bytes
    rng: np.random.Generator


Damage = Callable[[Source], bytes | None]


def _truncate(source: Source) -> bytes:
    return source.data[: int(len(source.data) * source.rng.uniform(0.2, 0.95))]


def _hole(source: Source) -> bytes:
    size = len(source.data)
    start = int(size * source.rng.uniform(0.2, 0.6))
    return source.data[:start] + source.data[start + int(size * source.rng.uniform(0.05, 0.3)) :]


def _zeros(source: Source) -> bytes:
    size = len(source.data)
    start, length = int(size * source.rng.uniform(0.2, 0.6)), int(size * source.rng.uniform(0.05, 0.3))
    return source.data[:start] + bytes(length) + source.data[start + length :]


def _twice(source: Source) -> bytes:
    return source.data + base(source.name, seed=1)


def _other_rate(source: Source) -> bytes | None:
    if "amr" in source.name or "3gp" in source.name or "g722" in source.name:
        return None
    return source.data + base(source.name, 1, 32_000 if "44" in source.name else 24_000)


def _other_channels(source: Source) -> bytes | None:
    if "amr" in source.name or "3gp" in source.name or source.name in ("gsm.wav", "av.g722"):
        return None
    return source.data + base(source.name, 1, 0, 2)


def _junk(source: Source) -> bytes:
    return source.data + source.rng.bytes(100)


def _tag(source: Source) -> bytes:
    return source.data + b"TAG" + b"a title".ljust(125)


def _zeros_behind(source: Source) -> bytes:
    return source.data + bytes(512)


def _tag_before(source: Source) -> bytes | None:
    if source.container not in {"MP3", "AAC", "FLAC"}:
        return None
    return b"ID3\x04\x00\x00" + bytes([0, 0, 1, 2]) + bytes(130) + source.data


def _list_chunk(source: Source) -> bytes | None:
    if source.container != "WAV" or source.data.startswith(b"riff"):
        return None
    return source.data + b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf62.12.102\0"


def _length(share: float | None) -> Damage:
    """Return a damage that changes the length in the header: to a share of it, or to all ones where it is None."""

    def change(source: Source) -> bytes | None:
        place, width, order = _length_field(source)
        if place < 0:
            return None
        length = int.from_bytes(source.data[place : place + width], order)
        changed = 2 ** (8 * width) - 1 if share is None else int(length * share)
        return source.data[:place] + changed.to_bytes(width, order) + source.data[place + width :]

    return change


def _length_field(source: Source) -> tuple[int, int, Any]:
    """Return the offset, the width and the byte order of the length in a header; -1 for the offset if there is none."""
    data = source.data
    if source.container == "WAV":
        return _wav_length_field(data)
    place = -1
    if source.container == "FLAC":
        place = 22
    elif source.container == "MP3":
        tag = max(data.find(b"Xing", 0, 300), data.find(b"Info", 0, 300))
        place = tag + 8 if tag >= 0 else -1
    elif source.container == "MP4" and b"moof" not in data:
        place = data.index(b"stsz") + 12
    return place, 4, "big"


def _wav_length_field(data: bytes) -> tuple[int, int, Any]:
    if data.startswith(b"riff"):
        return data.index(b"data\xf3\xac") + 16, 8, "little"
    if data.startswith(b"RF64"):
        return data.index(b"ds64") + 16, 8, "little"
    return data.index(b"data") + 4, 4, "little"


PAGES_OF_A_PACKET: Final = "av.opus"
"""The format whose pages have one packet each, as recorders of a network stream write them."""


def ogg_pages(data: bytes) -> list[bytes]:
    """Cut a whole OGG into its pages."""
    pages = []
    while data:
        size = 27 + data[26] + sum(data[27 : 27 + data[26]])
        pages.append(data[:size])
        data = data[size:]
    return pages


def renumber(pages: list[bytes]) -> list[bytes]:
    """Number pages as if none were missing."""
    return [with_checksum(page[:18] + number.to_bytes(4, "little") + page[22:]) for number, page in enumerate(pages)]


def with_serial(pages: list[bytes], serial: int) -> list[bytes]:
    """Give pages another serial number."""
    return [with_checksum(page[:14] + serial.to_bytes(4, "little") + page[18:]) for page in pages]


def _ogg(change: Callable[[list[bytes], np.random.Generator], list[bytes]]) -> Damage:
    def damage(source: Source) -> bytes | None:
        if source.container != "OGG":
            return None
        return b"".join(change(ogg_pages(source.data), source.rng))

    return damage


def _no_end_flag(pages: list[bytes], _: np.random.Generator) -> list[bytes]:
    last = pages[-1]
    return [*pages[:-1], with_checksum(last[:5] + bytes([last[5] & ~4]) + last[6:])]


def _low_granule(pages: list[bytes], _: np.random.Generator) -> list[bytes]:
    last = pages[-1]
    half = int.from_bytes(last[6:14], "little") // 2
    return [*pages[:-1], with_checksum(last[:6] + half.to_bytes(8, "little") + last[14:])]


def _page_lost(pages: list[bytes], rng: np.random.Generator) -> list[bytes]:
    lost = int(rng.integers(4, len(pages) - 1)) if len(pages) > 5 else len(pages)
    return pages[:lost] + pages[lost + 1 :]


def _not_sent(pages: list[bytes], _: np.random.Generator) -> list[bytes]:
    """Leave out a third of the pages: a pause in sending."""
    third = len(pages) // 3
    return renumber(pages[: third + 3] + pages[2 * third + 3 :]) if third > 3 else pages


def _chained(first: int, second: int) -> Damage:
    return _ogg(lambda pages, _: with_serial(pages, first) + with_serial(pages, second))


def _one_frame_lost(source: Source) -> bytes | None:
    form = FRAMES.get(source.container)
    if form is None:
        return None
    offsets = list(frame_offsets(source.data, form))
    lost = len(offsets) // 2
    return source.data[: offsets[lost]] + source.data[offsets[lost + 1] :]


def frame_offsets(data: bytes, form: FrameFormat) -> Iterator[int]:
    offset = {"AMR": 6}.get(form.name, 0)
    if data.startswith(b"ID3"):
        offset = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    while frame := form.parse(data[offset : offset + form.header_bytes]):
        yield offset
        offset += frame.size


ALL: Final = frozenset({"WAV", "FLAC", "OGG", "MP3", "MP4", "AAC", "AMR", "G722"})
DAMAGES: Final[Mapping[str, tuple[Damage, frozenset[str]]]] = {
    "whole": (lambda source: source.data, ALL),
    "truncated": (_truncate, frozenset()),
    "a hole": (_hole, frozenset()),
    "zeros inside": (_zeros, frozenset()),
    "another recording behind": (_twice, frozenset()),
    "the same recording behind": (lambda source: 2 * source.data, frozenset()),
    "one of another rate behind": (_other_rate, frozenset()),
    "one of two channels behind": (_other_channels, frozenset()),
    "junk behind": (_junk, ALL - {"AMR"}),
    "a tag behind": (_tag, ALL - {"AMR"}),
    "zeros behind": (_zeros_behind, ALL - {"AMR"}),
    "a tag before": (_tag_before, ALL),
    "a chunk behind": (_list_chunk, ALL),
    "length 0": (_length(0), frozenset({"WAV", "FLAC", "MP3"})),
    "length -1": (_length(None), frozenset({"WAV"})),
    "a tenth of its length": (_length(0.1), frozenset({"WAV"})),
    "99 % of its length": (_length(0.99), frozenset({"WAV"})),
    "twice its length": (_length(2), frozenset()),
    "no end flag": (_ogg(_no_end_flag), ALL),
    "half its position": (_ogg(_low_granule), frozenset()),
    "a page lost": (_ogg(_page_lost), frozenset()),
    "half of the pages lost": (_ogg(lambda pages, _: pages[: len(pages) // 2] + pages[-2:]), frozenset()),
    "a pause that was not sent": (_ogg(_not_sent), ALL),
    "two streams": (_chained(1, 2), frozenset()),
    "two streams whose serials fall": (_chained(2, 1), frozenset()),
    "two streams of one serial": (_chained(1, 1), frozenset()),
    "one frame lost": (_one_frame_lost, frozenset({"AAC", "AMR"})),
}
"""Damages, and the containers in which players forgive them."""

FULL: Final = {
    **dict.fromkeys(("another recording behind", "the same recording behind", "two streams"), 2 * DURATION_SEC),
    **dict.fromkeys(("one of another rate behind", "one of two channels behind"), 2 * DURATION_SEC),
    **dict.fromkeys(("two streams whose serials fall", "two streams of one serial"), 2 * DURATION_SEC),
    **dict.fromkeys(("a tenth of its length", "99 % of its length", "half its position"), DURATION_SEC),
    **dict.fromkeys(("length 0", "length -1", "twice its length", "no end flag"), DURATION_SEC),
    **dict.fromkeys(("whole", "junk behind", "a tag behind", "zeros behind"), DURATION_SEC),
}
"""Seconds in a damaged file, where they are known: a call is scored on all of them, or rejected."""


def make_cases(seed: int = 0) -> Iterator[Case]:
    """Yield every format with every damage that it can have."""
    rng = np.random.default_rng(seed)
    for name in (*(name for name in LIBSNDFILE if name != "au.wav"), *PYAV):
        data = base(name)
        container = recognise_container(memoryview(data), name)
        for kind, (damage, forgiving) in DAMAGES.items():
            damaged = damage(Source(name, container, data, rng))
            if damaged is not None:
                yield Case(f"{name}, {kind}", name, damaged, container in forgiving, FULL.get(kind))
