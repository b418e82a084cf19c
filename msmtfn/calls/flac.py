"""Find FLAC frames, to tell whether a file holds more audio than its header promises (RFC 9639)."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from msmtfn.calls.layout import unreadable

READ_AHEAD: Final = 2**16
"""Bytes that a decoder may have read beyond the last frame that it decoded; libFLAC reads 8 KiB at once."""

_SECOND_FILE: Final = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")
_MAX_PROBES: Final = 10_000
"""Places after the samples that may look like a frame; random bytes have one in four million."""

_RATES: Final = dict(enumerate((88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000), 1))
_BITS: Final = {1: 8, 2: 12, 4: 16, 5: 20, 6: 24, 7: 32}
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
    info = _StreamInfo.read(data, begin)
    block = info.min_block_samples  # the size of all blocks but the last
    numbers = {_as_utf8(num_frames)} | ({_as_utf8(num_frames // block)} if block else set())
    pattern = re.compile(b"\xff[\xf8\xf9]..(?:" + b"|".join(map(re.escape, sorted(numbers))) + b")", re.DOTALL)
    for num_probes, match in enumerate(pattern.finditer(data, max(start, 0))):
        if num_probes == _MAX_PROBES:
            raise unreadable(f"the FLAC is damaged: {_MAX_PROBES} places after its samples look like frames")
        end = _end_of_frame(bytes(data[match.start() : match.start() + 16]), info)
        if end is not None and end > num_frames:
            raise unreadable(f"the FLAC holds more than the {num_frames} samples that its header promises")


class _StreamInfo(NamedTuple):
    """What STREAMINFO says of all frames (RFC 9639, section 8.2)."""

    min_block_samples: int
    max_block_samples: int
    sample_rate: int
    channels: int
    bits: int

    @classmethod
    def read(cls, data: memoryview, begin: int) -> _StreamInfo:
        """Read it from a FLAC that begins at an offset."""
        content = bytes(data[begin + 8 : begin + 26])
        packed = int.from_bytes(content[10:14], "big")
        return cls(
            min_block_samples=int.from_bytes(content[0:2], "big"),
            max_block_samples=int.from_bytes(content[2:4], "big"),
            sample_rate=packed >> 12,
            channels=(packed >> 9 & 7) + 1,
            bits=(packed >> 4 & 31) + 1,
        )


def _end_of_frame(header: bytes, info: _StreamInfo) -> int | None:
    """Return the number of the sample after a frame; None if its header is none of this FLAC."""
    if not _fits_stream(header, info):
        return None
    parsed = _parse_header(header)
    if parsed is None or parsed[1] > (info.max_block_samples or parsed[1]):
        return None
    number, num_samples = parsed
    return num_samples + (number if header[1] & 1 else number * info.min_block_samples)


def _fits_stream(header: bytes, info: _StreamInfo) -> bool:
    """Return whether the third and fourth byte of a frame's header agree with STREAMINFO (RFC 9639, section 9.1).

    Random bytes have a sync code, a number and a checksum that fits every thousand million bytes, but not this.
    """
    if len(header) < 6:  # noqa: PLR2004
        return False
    rate_code, channel_code, bits_code = header[2] & 15, header[3] >> 4, header[3] >> 1 & 7
    # Code 0 refers to STREAMINFO; 12 to 14 stand for a rate behind the number, 8 to 10 for two channels in a relation.
    has_rate = rate_code in (0, 12, 13, 14) or _RATES.get(rate_code) == info.sample_rate
    channels = 2 if channel_code in (8, 9, 10) else channel_code + 1
    has_bits = bits_code == 0 or _BITS.get(bits_code) == info.bits
    return has_rate and channels == info.channels and has_bits and not header[3] & 1


def _parse_header(header: bytes) -> tuple[int, int] | None:
    """Return the number of the frame, or of its first sample, and its samples; None unless the checksum fits."""
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
