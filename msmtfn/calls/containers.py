"""Recognise a recording's container and check that the file is complete.

libsndfile would mistake headerless samples for an MP3, and ends without an error where a file is truncated, has a hole
or goes on as another recording. FFmpeg would take a text for a playlist of other files to open, and would allocate
gigabytes of index for a few bytes of an MP4. So each file is walked through before it is decoded: `wav`, `frames` (MP3,
AAC and AMR) and `ogg`; `flac` looks at what the decoder left.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from msmtfn.calls.frames import AAC, MP3, begins_with_frames, skip_id3, survey_adts, survey_amr, survey_mp3
from msmtfn.calls.layout import Layout, unreadable
from msmtfn.calls.ogg import survey_ogg
from msmtfn.calls.wav import is_wav, survey_wav

_G722_SUFFIX: Final = ".g722"
_TEXT_BYTES: Final = 512  # 64 ms of G.722; half of its bytes have the highest bit set, those of ASCII text never
_MAX_MP4_BOXES: Final = 100_000  # a fragment of a second or more has two
_G722_BYTES_PER_SEC: Final = 8000
_WALKS: Final = {"OGG": survey_ogg, "MP3": survey_mp3, "AAC": survey_adts, "AMR": survey_amr}
_MAX_MP4_PACKETS_PER_SEC: Final = 200  # cover pictures included; AAC at 96 kHz has 94
_UP_TO_LAST_MP4_AUDIO: Final = re.compile(b".*(?=mdat|moof|moov)", re.DOTALL)
_MP4_COUNTS: Final = {b"stsz": 12, b"stz2": 12, b"trun": 8}
"""Boxes that declare a number of packets, and the offset of that number; a few bytes can declare millions."""


def recognise_container(data: memoryview, name: str = "") -> str:
    """Return the container's name by its first bytes: WAV, FLAC, OGG, MP3, MP4, AAC or AMR, or by its suffix: G722.

    FLAC, MP3 and AAC may follow an ID3 tag. G.722 has no signature, so a file that matches no other container is a G722
    if its name ends in `.g722`.

    Args:
        data: content of the file.
        name: name of the file.

    Raises:
        CallError: the container is none of these (`audio_unreadable`).
    """
    head = bytes(data[:12])
    start = skip_id3(data)
    magic = bytes(data[start : start + 4])
    matches = {
        "WAV": is_wav(data),
        "FLAC": magic == b"fLaC",
        "OGG": magic == b"OggS",
        "MP3": begins_with_frames(data[start:], MP3),
        "AAC": begins_with_frames(data[start:], AAC),
        "MP4": head[4:8] == b"ftyp",
        "AMR": head.startswith(b"#!AMR\n"),
        "G722": name.lower().endswith(_G722_SUFFIX) and not bytes(data[:_TEXT_BYTES]).isascii(),
    }
    for container, is_match in matches.items():
        if is_match:
            return container
    raise unreadable("the file does not begin like a WAV, FLAC, MP3, OGG, M4A, AAC or AMR file")


def survey_container(data: memoryview, container: str, max_duration_sec: float = math.inf) -> Layout:
    """Walk through a file and check that it is whole, as far as its bytes tell.

    Args:
        data: content of the file.
        container: what `recognise_container` returned for it.
        max_duration_sec: maximum length of a recording, at which the walk ends.

    Raises:
        CallError: the file is cut short, has a hole, changes its format or holds several recordings
            (`audio_unreadable`), or is longer than the limit (`audio_too_long`).
    """
    if container == "WAV":
        return survey_wav(data)
    if container in _WALKS:
        return _WALKS[container](data, max_duration_sec)
    if container == "MP4":
        max_packets = _MAX_MP4_PACKETS_PER_SEC * max_duration_sec
        return Layout(end=data.nbytes, packet_bytes=check_mp4_boxes(data, max_packets))
    if container == "G722":
        return Layout(end=data.nbytes, duration_sec=data.nbytes / _G722_BYTES_PER_SEC)
    return Layout(end=data.nbytes)


def check_mp4_boxes(data: memoryview, max_packets: float) -> int:
    """Check that the boxes of an MP4 are complete and that they promise at most `max_packets` packets.

    FFmpeg allocates an index entry of 30 bytes for every promised packet before it reads the first one.

    Returns:
        How many bytes its packets have together.

    Raises:
        CallError: the file is truncated or damaged, promises too many packets, or holds several recordings
            (`audio_unreadable`).
    """
    num_packets, num_bytes = 0, 0
    seen: Counter[bytes] = Counter()
    for name, offset, size in _mp4_boxes(data):
        seen[name] += 1
        if name == b"mdat":
            num_bytes += size - 8
        else:
            num_packets += _count_promised_packets(bytes(data[offset : offset + size]))
        if num_packets > max_packets:
            raise unreadable(f"the MP4 promises {num_packets} packets, more than its maximum length allows")
        if max(seen[b"ftyp"], seen[b"moov"]) > 1:
            raise unreadable("the MP4 holds several recordings; give one recording a file")
    return num_bytes


def _mp4_boxes(data: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name, the offset and the size of each box at the top; junk after the last one is left out."""
    offset = 0
    last_audio: int | None = None  # searched for once, when it is needed
    for _ in range(_MAX_MP4_BOXES):
        size, name = int.from_bytes(data[offset : offset + 4], "big"), bytes(data[offset + 4 : offset + 8])
        if not name.isalnum() and offset:
            if last_audio is None:
                match = _UP_TO_LAST_MP4_AUDIO.match(data)
                last_audio = match.end() if match else -1
            if last_audio < offset:
                return
        if size == 1:  # a 64-bit size follows the name
            size = int.from_bytes(data[offset + 8 : offset + 16], "big")
        elif size == 0:  # the box extends to the end of the file
            size = data.nbytes - offset
        if size < 8:  # noqa: PLR2004  the size and the name take 8 bytes
            raise unreadable("the MP4 has a box of an impossible size")
        if offset + size > data.nbytes:
            raise unreadable(f"the MP4 is cut short: a box promises {size} bytes, {data.nbytes - offset} are there")
        yield name, offset, size
        offset += size
        if offset + 8 > data.nbytes:
            return
    raise unreadable(f"the MP4 has more than {_MAX_MP4_BOXES} boxes")


def _count_promised_packets(box: bytes) -> int:
    """Return how many packets the tables of a box promise together, at any depth."""
    if b"cmov" in box:
        raise unreadable("the MP4 has a compressed index, a format of very old files that is not supported")
    num_packets = 0
    for name, offset in _MP4_COUNTS.items():
        start = box.find(name)
        while start >= 0:
            num_packets += int.from_bytes(box[start + offset : start + offset + 4], "big")
            start = box.find(name, start + 4)
    return num_packets
