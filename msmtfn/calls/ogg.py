"""Walk through the pages of an OGG and add up how long its packets last (RFC 3533; Opus: RFC 6716 and 7845).

An OGG states its length by the position of its last page. That counts packets that were lost on the network and pauses
that were not sent, which players forgive; and a file may hold further streams, which a decoder never reaches. So the
packets that are there are counted, and the decoder has to deliver those.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from msmtfn.calls.layout import DECODER_SLACK_SEC, Layout, too_long, unreadable

_PAGE: Final = re.compile(b"OggS")
_HEADER: Final = struct.Struct("<4sBBq4sIIB")  # magic, version, flags, granule, serial, number, checksum, segments
_CONTINUED, _FIRST, _LAST = 1, 2, 4  # flags of a page
_OPUS_RATE: Final = 48_000
_SILK_FRAME, _CELT_FRAME = (480, 960, 1920, 2880), (120, 240, 480, 960)
_SKELETON: Final = b"fishead"
_MAX_VORBIS_MODES: Final = 64
_MODES_BYTES: Final = 512  # at the end of a Vorbis setup header; 64 modes of 41 bits take 328
_MAX_MISSING_SHARE: Final = 0.02
"""Share of the packets' length that may be missing with lost pages, which players forgive."""

_MAX_TRIMMED_SHARE: Final = 0.02
"""Share of a short recording that an encoder may trim, beyond 0.1 s."""

_MAX_PIECES_PER_SEC: Final = 1_000
_FREE_PIECES: Final = 10_000
"""Maximum pages and packets together, per second of the limit and beyond: Opus has at most 400 packets per second."""

_MAX_TRIMMED_SEC: Final = 1.0
"""What an encoder may trim from the packets of the last page, which holds a second as a rule."""

SamplesOf = Callable[[bytes], float]


class _Page(NamedTuple):
    """A page: its header's fields, and the offsets of its content and of its end."""

    start: int
    flags: int
    granule: int
    serial: bytes
    sequence: int
    lacing: bytes
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class _Codec:
    """Content of the header packets: the rate, the samples to skip at the start, and those of an audio packet."""

    sample_rate: int
    skipped: int
    samples_of: SamplesOf


@dataclass(slots=True)
class _Tally:
    """Tally of the packets of a stream: its header packets, its codec once they are there, and its samples since."""

    max_duration_sec: float
    headers: list[bytes] = field(default_factory=list)
    codec: _Codec | None = None
    num_samples: float = 0.0

    def add(self, packets: Iterable[bytes]) -> None:
        """Add packets; raise CallError (`audio_too_long`) once they last longer than the limit."""
        for packet in packets:
            if self.codec is not None:
                self.num_samples += self.codec.samples_of(packet)
            elif len(self.headers) < 3:  # noqa: PLR2004  Vorbis has most
                self.headers.append(packet)
                self.codec = _read_headers(self.headers)
        if self.codec is not None:
            played = self.num_samples - self.codec.skipped
            if played > (self.max_duration_sec + DECODER_SLACK_SEC) * self.codec.sample_rate:
                raise too_long("is too long", self.max_duration_sec)


class _PacketJoiner:
    """Joiner of the packets of a stream, which may begin on one page and end on another.

    As in libogg, a packet is lost of which a page is missing: its beginning is dropped, and its rest is skipped on as
    many pages as it takes.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._begun = bytearray()
        self._skips = False

    def add(self, page: _Page, *, is_next: bool) -> list[bytes]:
        """Return the packets that end on a page.

        Args:
            page: the next page that is there.
            is_next: whether no page is missing before it.
        """
        if not is_next or not page.flags & _CONTINUED:
            self._begun, self._skips = bytearray(), False
        if page.flags & _CONTINUED and not self._begun:
            self._skips = True
        packets = []
        start = offset = page.body
        for size in page.lacing:
            offset += size
            if size < 255:  # noqa: PLR2004  the last segment of a packet is shorter
                if not self._skips:
                    packets.append(bytes(self._begun + self._data[start:offset]))
                start, self._begun, self._skips = offset, bytearray(), False
        if not self._skips:
            self._begun += self._data[start:offset]
        return packets


def survey_ogg(data: memoryview, max_duration_sec: float = math.inf) -> Layout:
    """Walk through an OGG.

    Raises:
        CallError: the last page is cut short, there are several streams, or more pages are missing than players forgive
            (`audio_unreadable`), or the packets last longer than the limit (`audio_too_long`).
    """
    joiner, tally = _PacketJoiner(data), _Tally(max_duration_sec)
    last: _Page | None = None
    missing, granule = 0.0, 0
    for page in _pages_of_one_stream(data, max_duration_sec):
        is_next = last is None or page.sequence == last.sequence + 1
        before = tally.num_samples
        tally.add(joiner.add(page, is_next=is_next))
        if not is_next:
            missing += max(0.0, page.granule - granule - (tally.num_samples - before))
        granule = max(granule, page.granule)
        last = page
    patches = {} if last is None else _with_end_flag(data, last)
    end = 0 if last is None else last.end
    codec = tally.codec
    if codec is None:
        return Layout(end=end, patches=patches)
    if missing > _MAX_MISSING_SHARE * max(tally.num_samples, 1):
        raise unreadable(f"the OGG is damaged: pages with {missing / codec.sample_rate:.1f} s are missing")
    duration_sec = max(0.0, tally.num_samples - codec.skipped) / codec.sample_rate
    slack_sec = min(_MAX_TRIMMED_SEC, 0.1 + _MAX_TRIMMED_SHARE * duration_sec)
    return Layout(end=end, duration_sec=duration_sec, slack_sec=slack_sec, patches=patches)


def _pages_of_one_stream(data: memoryview, max_duration_sec: float) -> Iterator[_Page]:
    serial: bytes | None = None
    others: set[bytes] = set()
    for page in _pages(data, max_duration_sec):
        if serial is None or page.flags & _FIRST:
            if bytes(data[page.body : page.body + len(_SKELETON)]) == _SKELETON:
                others.add(page.serial)  # an index, which players skip
                continue
            if serial is not None:
                raise unreadable("the OGG holds several streams; give one recording a file")
            serial = page.serial
        if page.serial in others:
            continue
        if page.serial != serial:
            raise unreadable("the OGG holds several streams; give one recording a file")
        yield page


def _with_end_flag(data: memoryview, page: _Page) -> dict[int, bytes]:
    """Return the patches that flag the last page as such, without which libsndfile fails at its end."""
    if page.flags & _LAST:
        return {}
    flags = bytes([page.flags | _LAST])
    changed = with_checksum(bytes(data[page.start : page.start + 5]) + flags + bytes(data[page.start + 6 : page.end]))
    return {page.start + 5: flags, page.start + 22: changed[22:26]}


def with_checksum(page: bytes) -> bytes:
    """Return a page with its checksum: the usual polynomial, the highest bit first, without an initial value."""
    remainder = 0
    for byte in page[:22] + bytes(4) + page[26:]:
        remainder = (remainder << 8 & 0xFFFF_FFFF) ^ _CRC_TABLE[remainder >> 24 ^ byte]
    return page[:22] + remainder.to_bytes(4, "little") + page[26:]


def _crc_of_byte(byte: int) -> int:
    remainder = byte << 24
    for _ in range(8):
        remainder = (remainder << 1 ^ (0x04C1_1DB7 if remainder >> 31 else 0)) & 0xFFFF_FFFF
    return remainder


_CRC_TABLE: Final = tuple(map(_crc_of_byte, range(256)))


def _pages(data: memoryview, max_duration_sec: float) -> Iterator[_Page]:
    """Yield the pages; what lies between them is skipped, as decoders do."""
    offset, size = 0, data.nbytes
    num_pieces, max_pieces = 0, _FREE_PIECES + _MAX_PIECES_PER_SEC * max_duration_sec
    while match := _PAGE.search(data, offset):
        start = match.start()
        body = start + _HEADER.size
        if body <= size:
            _, _, flags, granule, serial, sequence, _, num_segments = _HEADER.unpack_from(data, start)
            lacing = bytes(data[body : body + num_segments])
            offset = body + num_segments + sum(lacing)
        if body > size or offset > size:
            raise unreadable(
                f"the OGG is cut short: its last page promises {max(offset - start, _HEADER.size)} bytes, "
                f"{size - start} are there"
            )
        num_pieces += 1 + num_segments - lacing.count(255)
        if num_pieces > max_pieces:
            raise unreadable(f"the OGG has {num_pieces} pages and packets, more than its maximum length allows")
        yield _Page(start, flags, granule, serial, sequence, lacing, body + num_segments, offset)


def _read_headers(headers: list[bytes]) -> _Codec | None:
    """Return what the headers tell; None if further ones must follow, or if the codec is unknown."""
    first = headers[0]
    if first.startswith(b"OpusHead") and len(headers) == 2:  # noqa: PLR2004
        return _Codec(_OPUS_RATE, int.from_bytes(first[10:12], "little"), _opus_samples)
    if first.startswith(b"\x01vorbis") and len(headers) == 3 and len(first) > 28:  # noqa: PLR2004
        samples_of = _vorbis_samples(1 << (first[28] & 15), 1 << (first[28] >> 4), headers[2])
        rate = int.from_bytes(first[12:16], "little")
        return _Codec(rate, 0, samples_of) if samples_of is not None and rate else None
    return None


def _opus_samples(packet: bytes) -> int:
    """Return the samples of an Opus packet at 48 kHz by its first two bytes (RFC 6716, section 3.1)."""
    if not packet:
        return 0
    config, code = packet[0] >> 3, packet[0] & 3
    if config < 12:  # noqa: PLR2004  SILK
        frame = _SILK_FRAME[config & 3]
    elif config < 16:  # noqa: PLR2004  hybrid
        frame = _SILK_FRAME[config & 1]
    else:
        frame = _CELT_FRAME[config & 3]
    if code == 3:  # noqa: PLR2004
        return frame * (packet[1] & 63) if len(packet) > 1 else 0
    return frame if code == 0 else 2 * frame


def _vorbis_samples(short: int, long: int, setup: bytes) -> SamplesOf | None:
    """Return a function of a Vorbis packet's samples: a quarter of its block and of the one before.

    The modes, which tell short blocks from long ones, stand at the end of the setup header, so it is read backwards:
    the framing bit, then for every mode 8 bits of mapping, 32 bits of 0, and the flag of a long block (Vorbis I,
    4.2.4).
    """
    bits = int.from_bytes(setup.rstrip(b"\0")[-_MODES_BYTES:], "little")
    place, num_modes = bits.bit_length() - 1, 0
    is_long: list[int] = []
    while place >= 47 and len(is_long) < _MAX_VORBIS_MODES:  # noqa: PLR2004  a mode and the number of modes
        if bits >> place - 8 & 0xFF > 63 or bits >> place - 40 & 0xFFFF_FFFF:  # noqa: PLR2004
            break
        place -= 41
        is_long.insert(0, bits >> place & 1)
        if bits >> place - 6 & 63 == len(is_long) - 1:
            num_modes = len(is_long)
    if not num_modes:
        return None
    blocks = [long if flag else short for flag in is_long[-num_modes:]]
    mask, previous = (1 << (num_modes - 1).bit_length()) - 1, 0

    def samples_of(packet: bytes) -> float:
        nonlocal previous
        mode = packet[0] >> 1 & mask if packet else num_modes
        if not packet or packet[0] & 1 or mode >= num_modes:
            return 0
        block = blocks[mode]
        num_samples = (previous + block) / 4 if previous else 0
        previous = block
        return num_samples

    return samples_of
