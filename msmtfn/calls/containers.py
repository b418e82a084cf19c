"""Recognise a recording's container and check that the file is complete.

libsndfile would mistake headerless samples for an MP3, and reads a truncated WAV or OGG without an error. FFmpeg would
take a text for a playlist of other files to open, and would allocate gigabytes of index for a few bytes of an MP4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from msmtfn.errors import CallError, RejectCode

_OPEN_WAV_SIZE: Final = 0x7FFF_0000  # writers that cannot seek back leave (nearly) the largest 31- or 32-bit number
_MAX_WAV_CHUNKS: Final = 1_000
_MAX_OGG_PAGE: Final = 27 + 255 + 255 * 255  # header, segment table, segments (RFC 3533, section 6)
_MPEG_KBIT: Final = {  # layer III (ISO/IEC 11172-3, 13818-3) by version bits: 3 is MPEG 1, 2 is MPEG 2, 0 is MPEG 2.5
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATE: Final = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_HEADER_BYTES: Final = 6  # an ADTS header up to the frame's size; an MPEG header has 4
_G722_SUFFIX: Final = ".g722"
_TEXT_BYTES: Final = 512  # 64 ms of G.722; half of its bytes have the highest bit set, those of ASCII text never
_MAX_MP4_BOXES: Final = 100_000  # a fragment of a second or more has two
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
    start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    start = start if head.startswith(b"ID3") else 0
    magic = bytes(data[start : start + 4])
    matches = {
        "WAV": magic in {b"RIFF", b"RIFX", b"RF64"} and head[8:] == b"WAVE",
        "FLAC": magic == b"fLaC",
        "OGG": magic == b"OggS",
        "MP3": _begins_with_frames(data[start:], _mpeg_frame_size),
        "AAC": _begins_with_frames(data[start:], _adts_frame_size),
        "MP4": head[4:8] == b"ftyp",
        "AMR": head.startswith(b"#!AMR\n"),
        "G722": name.lower().endswith(_G722_SUFFIX) and not bytes(data[:_TEXT_BYTES]).isascii(),
    }
    for container, is_match in matches.items():
        if is_match:
            return container
    raise unreadable("the file does not begin like a WAV, FLAC, MP3, OGG, M4A, AAC or AMR file")


def _begins_with_frames(data: memoryview, size_of: Callable[[bytes], int]) -> bool:
    """Return whether two headers stand one frame apart; raw samples near zero often look like a single header."""
    size = size_of(bytes(data[:_HEADER_BYTES]))
    return bool(size) and (size >= data.nbytes or size_of(bytes(data[size : size + _HEADER_BYTES])) > 0)


def _adts_frame_size(header: bytes) -> int:
    """Return the size in bytes of the AAC frame that an ADTS header starts (ISO/IEC 13818-7, 6.2); 0 if it is none."""
    bits = int.from_bytes(header, "big")
    size, rate_index = bits >> 5 & 0x1FFF, bits >> 26 & 15
    is_adts = len(header) == 6 and bits >> 36 == 0xFFF and bits >> 33 & 3 == 0  # noqa: PLR2004
    return size if is_adts and rate_index < 13 and size > 7 else 0  # noqa: PLR2004


def _mpeg_frame_size(header: bytes) -> int:
    """Return the size in bytes of the layer III frame that a header starts; 0 if it is none.

    A frame has 1152 samples in MPEG 1, else 576, and one padding byte if the padding bit is set (ISO/IEC 11172-3,
    2.4.3.1). Its bytes are samples / 8 * bit rate / sample rate: 144 (72) * kbit * 1000 / sample rate.
    """
    bits = int.from_bytes(header[:4], "big")
    version, kbit_index, rate_index = bits >> 19 & 3, bits >> 12 & 15, bits >> 10 & 3
    is_layer_iii = len(header) >= 4 and bits >> 21 == 0x7FF and bits >> 17 & 3 == 1  # noqa: PLR2004
    if not is_layer_iii or version == 1 or not 1 <= kbit_index <= 14 or rate_index == 3:  # noqa: PLR2004
        return 0
    kbit = _MPEG_KBIT[version or 2][kbit_index - 1]
    return (144_000 if version == 3 else 72_000) * kbit // _MPEG_RATE[version][rate_index] + (bits >> 9 & 1)  # noqa: PLR2004


def check_wav_size(data: memoryview) -> memoryview:
    """Check that a WAV holds as many bytes of samples as its header promises.

    Returns:
        The same bytes; if a streaming writer left the size 0, a copy with the size "unknown".

    Raises:
        CallError: the file is truncated or has no data chunk (`audio_unreadable`).
    """
    start, size = _find_wav_samples(data)
    num_present = data.nbytes - start
    is_chunk_next = bytes(data[start : start + 4]).strip().isalnum()
    if size == 0 and num_present and not is_chunk_next:
        patched = bytearray(data)
        patched[start - 4 : start] = b"\xff\xff\xff\xff"  # libsndfile reads nothing for 0, and up to the end for this
        return memoryview(patched)
    if num_present < size < _OPEN_WAV_SIZE:
        raise unreadable(f"the WAV is cut short: its header promises {size} bytes of samples, {num_present} are there")
    return data


def _find_wav_samples(data: memoryview) -> tuple[int, int]:
    """Return the offset of a WAV's samples and the number of bytes that its header promises."""
    offset, long_size = 12, None
    order: Literal["big", "little"] = "big" if bytes(data[:4]) == b"RIFX" else "little"
    for _ in range(_MAX_WAV_CHUNKS):
        name, size = bytes(data[offset : offset + 4]), int.from_bytes(data[offset + 4 : offset + 8], order)
        if offset + 8 > data.nbytes:
            break
        if name == b"data":
            return offset + 8, size if long_size is None else long_size
        if name == b"ds64":
            long_size = int.from_bytes(data[offset + 16 : offset + 24], order)
        offset += 8 + size + size % 2
    raise unreadable("the WAV has no data chunk")


def check_ogg_end(data: memoryview) -> None:
    """Check that an OGG ends with a complete page that is flagged as its last (RFC 3533, section 6).

    Raises:
        CallError: the last page is truncated or not flagged, or the file holds several streams (`audio_unreadable`).
    """
    tail = bytes(data[-2 * _MAX_OGG_PAGE :])
    page = tail[max(0, tail.rfind(b"OggS")) :]
    num_segments = page[26] if len(page) > 26 else 255  # noqa: PLR2004  offset of the segment count
    promised = 27 + num_segments + sum(page[27 : 27 + num_segments])
    if len(page) < promised:
        raise unreadable(f"the OGG is cut short: its last page promises {promised} bytes, {len(page)} are there")
    if not page[5] & 4:
        raise unreadable("the OGG is cut short: no page ends the stream")
    if page[14:18] != bytes(data[14:18]):
        raise unreadable("the OGG holds several streams; give one recording a file")


def check_mp4_boxes(data: memoryview, max_packets: int) -> None:
    """Check that the boxes of an MP4 are complete and that they promise at most `max_packets` packets.

    FFmpeg allocates an index entry of 30 bytes for every promised packet before it reads the first one.

    Raises:
        CallError: the file is truncated or damaged, or promises too many packets (`audio_unreadable`).
    """
    offset, num_packets = 0, 0
    for _ in range(_MAX_MP4_BOXES):
        size, name = int.from_bytes(data[offset : offset + 4], "big"), bytes(data[offset + 4 : offset + 8])
        if size == 1:  # a 64-bit size follows the name
            size = int.from_bytes(data[offset + 8 : offset + 16], "big")
        elif size == 0:  # the box extends to the end of the file
            size = data.nbytes - offset
        if size < 8:  # noqa: PLR2004  the size and the name take 8 bytes
            raise unreadable("the MP4 has a box of an impossible size")
        if offset + size > data.nbytes:
            raise unreadable(f"the MP4 is cut short: a box promises {size} bytes, {data.nbytes - offset} are there")
        if name != b"mdat":
            num_packets += _count_promised_packets(bytes(data[offset : offset + size]))
        if num_packets > max_packets:
            raise unreadable(f"the MP4 promises {num_packets} packets, more than its maximum length allows")
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


def unreadable(detail: str) -> CallError:
    """Return the error that rejects a recording because it cannot be decoded; `detail` gives the reason in one line."""
    return CallError(RejectCode.AUDIO_UNREADABLE, detail)
