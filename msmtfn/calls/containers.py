"""Which container a recording is in, and whether the file is all there.

libsndfile would take headerless samples for an MP3, and reads a WAV or an OGG that was cut short without a word.
FFmpeg would take a text for a list of other files to open, and a few bytes of an MP4 for gigabytes of index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from msmtfn.errors import CallError, RejectCode

_OPEN_WAV_SIZE: Final = 0x7FFF_0000  # writers that cannot seek back leave the largest 31 or 32 bit number, or near it
_MAX_WAV_CHUNKS: Final = 1_000
_MAX_OGG_PAGE: Final = 27 + 255 + 255 * 255  # header, segment table, segments (RFC 3533, section 6)
_MPEG_KBIT: Final = {  # layer III (ISO/IEC 11172-3, 13818-3), by the version bits: 3 MPEG 1, 2 MPEG 2, 0 MPEG 2.5
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATE: Final = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_HEADER_BYTES: Final = 6  # of an ADTS frame, as far as its size; an MPEG frame's are the first 4
_G722_SUFFIX: Final = ".g722"
_TEXT_BYTES: Final = 512  # 64 ms of G.722, half of whose bytes have the highest bit; a text has none
_MAX_MP4_BOXES: Final = 100_000  # two for every fragment, of a second or more
_MP4_COUNTS: Final = {b"stsz": 12, b"stz2": 12, b"trun": 8}
"""Boxes that say how many packets there are, and where in them: the one thing that a few bytes can say of millions."""


def recognise_container(data: memoryview, name: str = "") -> str:
    """Name the container by its first bytes: WAV, FLAC, OGG, MP3, MP4, AAC or AMR; some perhaps after an ID3 tag.

    Args:
        data: the file's bytes.
        name: of the file; one that ends in `.g722`, whose bytes have no mark, and begins like no other is G722.

    Raises:
        CallError: it is none of these (`audio_unreadable`).
    """
    head = bytes(data[:12])
    start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    start = start if head.startswith(b"ID3") else 0
    magic = bytes(data[start : start + 4])
    marks = {
        "WAV": magic in {b"RIFF", b"RIFX", b"RF64"} and head[8:] == b"WAVE",
        "FLAC": magic == b"fLaC",
        "OGG": magic == b"OggS",
        "MP3": _begins_with_frames(data[start:], _mpeg_frame_size),
        "AAC": _begins_with_frames(data[start:], _adts_frame_size),
        "MP4": head[4:8] == b"ftyp",
        "AMR": head.startswith(b"#!AMR\n"),
        "G722": name.lower().endswith(_G722_SUFFIX) and not bytes(data[:_TEXT_BYTES]).isascii(),
    }
    for container, is_there in marks.items():
        if is_there:
            return container
    raise unreadable("the file does not begin like a WAV, FLAC, MP3, OGG, M4A, AAC or AMR file")


def _begins_with_frames(data: memoryview, size_of: Callable[[bytes], int]) -> bool:
    """Whether there are two headers, one frame apart; raw samples around zero often begin with the set bits of one."""
    size = size_of(bytes(data[:_HEADER_BYTES]))
    return bool(size) and (size >= data.nbytes or size_of(bytes(data[size : size + _HEADER_BYTES])) > 0)


def _adts_frame_size(header: bytes) -> int:
    """Bytes of the AAC frame that this ADTS header begins (ISO/IEC 13818-7, 6.2); 0 when it is none."""
    bits = int.from_bytes(header, "big")
    size, rate_index = bits >> 5 & 0x1FFF, bits >> 26 & 15
    is_adts = len(header) == 6 and bits >> 36 == 0xFFF and bits >> 33 & 3 == 0  # noqa: PLR2004
    return size if is_adts and rate_index < 13 and size > 7 else 0  # noqa: PLR2004


def _mpeg_frame_size(header: bytes) -> int:
    """Bytes of the layer III frame that this header begins; 0 when it is none."""
    bits = int.from_bytes(header[:4], "big")
    version, kbit_index, rate_index = bits >> 19 & 3, bits >> 12 & 15, bits >> 10 & 3
    is_layer_iii = len(header) >= 4 and bits >> 21 == 0x7FF and bits >> 17 & 3 == 1  # noqa: PLR2004
    if not is_layer_iii or version == 1 or not 1 <= kbit_index <= 14 or rate_index == 3:  # noqa: PLR2004
        return 0
    kbit = _MPEG_KBIT[version or 2][kbit_index - 1]
    return (144_000 if version == 3 else 72_000) * kbit // _MPEG_RATE[version][rate_index] + (bits >> 9 & 1)  # noqa: PLR2004


def check_wav_size(data: memoryview) -> memoryview:
    """Compare the size of a WAV's data chunk with what is there.

    Returns:
        The same bytes; a copy with the size "unknown" where a streaming writer left 0.

    Raises:
        CallError: the file is cut short or has no data chunk (`audio_unreadable`).
    """
    place, size = _find_wav_samples(data)
    there = data.nbytes - place
    if size == 0 and there and not bytes(data[place : place + 4]).strip().isalnum():  # no other chunk's name follows
        opened = bytearray(data)
        opened[place - 4 : place] = b"\xff\xff\xff\xff"  # libsndfile takes 0 at its word, and this for the file's end
        return memoryview(opened)
    if there < size < _OPEN_WAV_SIZE:
        raise unreadable(f"the WAV is cut short: its header promises {size} bytes of samples, {there} are there")
    return data


def _find_wav_samples(data: memoryview) -> tuple[int, int]:
    """Where the samples of a WAV begin, and how many bytes of them its header promises."""
    place, long_size = 12, None
    order: Literal["big", "little"] = "big" if bytes(data[:4]) == b"RIFX" else "little"
    for _ in range(_MAX_WAV_CHUNKS):
        name, size = bytes(data[place : place + 4]), int.from_bytes(data[place + 4 : place + 8], order)
        if place + 8 > data.nbytes:
            break
        if name == b"data":
            return place + 8, size if long_size is None else long_size
        if name == b"ds64":
            long_size = int.from_bytes(data[place + 16 : place + 24], order)
        place += 8 + size + size % 2
    raise unreadable("the WAV has no data chunk")


def check_ogg_end(data: memoryview) -> None:
    """Check that an OGG ends with its last page, which every encoder marks (RFC 3533, section 6).

    Raises:
        CallError: the file ends in a page or without the mark, or holds several streams (`audio_unreadable`).
    """
    tail = bytes(data[-2 * _MAX_OGG_PAGE :])
    page = tail[max(0, tail.rfind(b"OggS")) :]
    num_segments = page[26] if len(page) > 26 else 255  # noqa: PLR2004  where the count stands
    promised = 27 + num_segments + sum(page[27 : 27 + num_segments])
    if len(page) < promised:
        raise unreadable(f"the OGG is cut short: its last page promises {promised} bytes, {len(page)} are there")
    if not page[5] & 4:
        raise unreadable("the OGG is cut short: no page ends the stream")
    if page[14:18] != bytes(data[14:18]):
        raise unreadable("the OGG holds several streams; give one recording a file")


def check_mp4_boxes(data: memoryview, most_packets: int) -> None:
    """Check that the boxes of an MP4 are all there, and that they promise no more packets than a call can have.

    FFmpeg makes an index of all that are promised, 30 bytes each, before it looks for the first.

    Raises:
        CallError: the file is cut short, damaged or promises too much (`audio_unreadable`).
    """
    place, num_packets = 0, 0
    for _ in range(_MAX_MP4_BOXES):
        size, name = int.from_bytes(data[place : place + 4], "big"), bytes(data[place + 4 : place + 8])
        if size == 1:
            size = int.from_bytes(data[place + 8 : place + 16], "big")
        elif size == 0:
            size = data.nbytes - place
        if size < 8:  # noqa: PLR2004  itself and the name
            raise unreadable("the MP4 has a box of an impossible size")
        if place + size > data.nbytes:
            raise unreadable(f"the MP4 is cut short: a box promises {size} bytes, {data.nbytes - place} are there")
        if name != b"mdat":
            num_packets += _promised_packets(bytes(data[place : place + size]))
        if num_packets > most_packets:
            raise unreadable(f"the MP4 promises {num_packets} packets, more than it can have")
        place += size
        if place + 8 > data.nbytes:
            return
    raise unreadable(f"the MP4 has more than {_MAX_MP4_BOXES} boxes")


def _promised_packets(box: bytes) -> int:
    """How many packets all tables in a box promise, wherever in it they stand."""
    if b"cmov" in box:
        raise unreadable("the MP4 has a compressed index, which only very old files have")
    num_packets = 0
    for name, offset in _MP4_COUNTS.items():
        place = box.find(name)
        while place >= 0:
            num_packets += int.from_bytes(box[place + offset : place + offset + 4], "big")
            place = box.find(name, place + 4)
    return num_packets


def unreadable(detail: str) -> CallError:
    """The reject of a recording that is there and cannot be decoded; `detail` says why, in one line."""
    return CallError(RejectCode.AUDIO_UNREADABLE, detail)
