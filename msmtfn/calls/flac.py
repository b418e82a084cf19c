"""Find FLAC frames, to tell whether a file holds more audio than its header promises (RFC 9639)."""

from __future__ import annotations

import re
from typing import Final

from msmtfn.calls.layout import unreadable

READ_AHEAD: Final = 2**16
"""Bytes that a decoder may have read beyond the last frame that it decoded; libFLAC reads 8 KiB at once."""

_SECOND_FILE: Final = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_BLOCK_SAMPLES: Final = {1: 192, **{code: 576 << code - 2 for code in range(2, 6)}}
_BLOCK_SAMPLES_BELOW: Final = {code: 256 << code - 8 for code in range(8, 16)}


def check_flac_rest(data: memoryview, begin: int, start: int, num_frames: int) -> None:
    """Check that no audio follows the promised samples of a FLAC.

    Args:
        data: content of the file.
        begin: offset of the FLAC in the file, after an ID3 tag.
        start: offset up to which the decoder has certainly used the file.
        num_frames: number of samples per channel that the header promises and that were decoded.

    Raises:
        CallError: a second FLAC follows, or a frame beyond the promised samples (`audio_unreadable`).
    """
    if _SECOND_FILE.search(data, max(start, begin + len(b"fLaC"))):
        raise unreadable("the FLAC holds several recordings; give one recording a file")
    block_samples = int.from_bytes(
        data[begin + 8 : begin + 10], "big"
    )  # STREAMINFO's minimum, the size of all blocks but the last
    numbers = {_as_utf8(num_frames)} | ({_as_utf8(num_frames // block_samples)} if block_samples else set())
    pattern = re.compile(b"\xff[\xf8\xf9]..(?:" + b"|".join(map(re.escape, sorted(numbers))) + b")", re.DOTALL)
    for match in pattern.finditer(data, max(start, 0)):
        header = bytes(data[match.start() : match.start() + 16])
        end = _end_of_frame(header, block_samples)
        if end is not None and end > num_frames:
            raise unreadable(f"the FLAC holds more than the {num_frames} samples that its header promises")


def _end_of_frame(header: bytes, block_samples: int) -> int | None:
    parsed = _parse_header(header)
    if parsed is None:
        return None
    number, num_samples = parsed
    return num_samples + (number if header[1] & 1 else number * block_samples)


def _parse_header(header: bytes) -> tuple[int, int] | None:
    """Return the number of the frame, or of its first sample, and its samples; None unless the checksum fits."""
    if len(header) < 6 or header[0] != 0xFF or header[1] & 0xFE != 0xF8:  # noqa: PLR2004
        return None
    size_code, rate_code = header[2] >> 4, header[2] & 15
    width = max(1, 8 - (header[4] ^ 0xFF).bit_length())
    number = int.from_bytes(header[4 : 4 + width], "big")
    place = 4 + width
    if width > 1:
        number = header[4] & (0x7F >> width)
        for byte in header[5:place]:
            number = number << 6 | byte & 0x3F
    num_samples = {**_BLOCK_SAMPLES, **_BLOCK_SAMPLES_BELOW}.get(size_code, 0)
    if size_code in (6, 7):
        length = size_code - 5
        num_samples = int.from_bytes(header[place : place + length], "big") + 1
        place += length
    place += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if not num_samples or place >= len(header) or _crc8(header[:place]) != header[place]:
        return None
    return number, num_samples


def _as_utf8(number: int) -> bytes:
    """Return a number in the coding of UTF-8, which FLAC extends to 36 bits."""
    if number < 0x80:  # noqa: PLR2004
        return bytes([number])
    width = max(2, -(-(number.bit_length() - 1) // 5))  # w bytes hold 5 w + 1 bits
    tail = [0x80 | number >> shift & 0x3F for shift in range(6 * (width - 2), -1, -6)]
    return bytes([0xFF00 >> width & 0xFF | number >> 6 * (width - 1), *tail])


def _crc8(data: bytes) -> int:
    remainder = 0
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = (remainder << 1 ^ (0x07 if remainder & 0x80 else 0)) & 0xFF
    return remainder
