"""Find the samples of a WAV: RIFF, RIFX, RF64, BW64 or Sony's Wave64.

The sizes in its header are often wrong: a writer that cannot seek back leaves 0 or -1, one that was killed leaves the
size of its beginning. Chunks that follow the samples are told from samples by their sizes, which fill the file exactly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from msmtfn.calls.layout import MAX_JUNK_SHARE, Layout, unreadable

W64_MAGIC: Final = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_OPEN_SIZE: Final = 0x7FFF_0000  # writers that cannot seek back leave (nearly) the largest 31- or 32-bit number
_UNKNOWN_SIZE: Final = 0xFFFF_FFFF
_MAX_CHUNKS: Final = 1_000
_MAX_JUNK_BYTES: Final = 4096
_RIFF_MAGICS: Final = (b"RIFF", b"RIFX", b"RF64", b"BW64")
_SECOND_FILE: Final = re.compile(rb"(?:RIFF|RIFX|RF64|BW64)....WAVE", re.DOTALL)
_TAGS: Final = (b"TAG", b"ID3", b"APETAGEX", b"LIST", b"id3 ", b"bext", b"iXML", b"cue ", b"fact", b"JUNK", b"PAD ")
_PCM, _MS_ADPCM, _FLOAT, _ALAW, _ULAW, _IMA_ADPCM, _GSM, _EXTENSIBLE = 1, 2, 3, 6, 7, 0x11, 0x31, 0xFFFE

Order = Literal["big", "little"]


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A chunk: its name, the offsets of its size field and of its content, the size that it promises."""

    name: bytes
    size_field: int
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Style:
    """Form of the chunks: bytes of a name and of a size, whether the size counts its header, alignment, byte order."""

    name_bytes: int
    size_bytes: int
    counts_header: bool
    alignment: int
    order: Order

    @property
    def header_bytes(self) -> int:
        return self.name_bytes + self.size_bytes


def is_wav(data: memoryview) -> bool:
    """Return whether a file begins like a WAV."""
    head = bytes(data[:40])
    return (head[:4] in _RIFF_MAGICS and head[8:12] == b"WAVE") or (
        head.startswith(W64_MAGIC) and head[24:28] == b"wave"
    )


def survey_wav(data: memoryview) -> Layout:
    """Find the samples of a WAV and correct a header that promises fewer than there are.

    Raises:
        CallError: samples are missing, there are no samples, or there are those of several recordings
            (`audio_unreadable`).
    """
    style = _style_of(data)
    long_size: _Chunk | None = None
    form = b""
    for chunk in _chunks(data, style.header_bytes + len(b"WAVE") if style.size_bytes == 4 else 40, style):  # noqa: PLR2004
        if chunk.name == b"ds64":
            long_size = chunk
        elif chunk.name == b"fmt ":
            form = bytes(data[chunk.start : chunk.start + min(chunk.size, 40)])
        elif chunk.name == b"data":
            return _survey_samples(data, chunk, style, form, long_size)
    raise unreadable("the WAV has no data chunk")


def _style_of(data: memoryview) -> _Style:
    if bytes(data[:4]) == b"riff":
        return _Style(16, 8, True, 8, "little")
    return _Style(4, 4, False, 2, "big" if bytes(data[:4]) == b"RIFX" else "little")


def _chunks(data: memoryview, offset: int, style: _Style) -> Iterator[_Chunk]:
    for _ in range(_MAX_CHUNKS):
        start = offset + style.header_bytes
        if start > data.nbytes:
            return
        size_field = offset + style.name_bytes
        size = int.from_bytes(data[size_field:start], style.order) - style.header_bytes * style.counts_header
        yield _Chunk(bytes(data[offset : offset + 4]), size_field, start, max(size, 0))
        offset = start + max(size, 0)
        offset += -offset % style.alignment


def _survey_samples(data: memoryview, chunk: _Chunk, style: _Style, form: bytes, long_size: _Chunk | None) -> Layout:
    promised, place, width = chunk.size, chunk.size_field, style.size_bytes
    if long_size is not None and bytes(data[:4]) in (b"RF64", b"BW64"):
        place, width = long_size.start + 8, 8
        promised = int.from_bytes(data[place : place + width], style.order)
    num_bytes = _count_bytes(data, chunk.start, promised, style)
    duration_sec, slack_sec = _duration(form, num_bytes, style.order)
    patches: dict[int, bytes] = {}
    if num_bytes != promised:
        size = num_bytes + style.header_bytes * style.counts_header
        patches[place] = size.to_bytes(width, style.order)
    if bytes(data[:4]) == b"BW64":
        patches[0] = b"RF64"  # the same, under the name that libsndfile knows
    return Layout(end=chunk.start + num_bytes, duration_sec=duration_sec, slack_sec=slack_sec, patches=patches)


def _count_bytes(data: memoryview, start: int, promised: int, style: _Style) -> int:
    """Return how many bytes of samples there are."""
    present = data.nbytes - start
    if promised in (data.nbytes, data.nbytes - 8):  # the size of the file, or of its RIFF chunk, by mistake
        return present
    is_open = promised == 0 or promised >= _OPEN_SIZE
    if promised > present and not is_open:
        raise unreadable(f"the WAV is cut short: its header promises {promised} bytes of samples, {present} are there")
    end = start + min(promised, present)
    if promised <= present and any(_fills_file(data, end + pad, style) for pad in {0, -end % style.alignment}):
        return promised
    if not is_open and _is_junk(data, end, promised):
        return promised
    if _SECOND_FILE.search(data, start):
        raise unreadable("the WAV holds several recordings; give one recording a file")
    return present


def _fills_file(data: memoryview, offset: int, style: _Style) -> bool:
    """Return whether nothing but whole chunks follows; raise CallError if these are further recordings."""
    is_filled = offset == data.nbytes
    for chunk in _chunks(data, offset, style):
        rest = data.nbytes - chunk.start - chunk.size
        if not chunk.name.isascii() or not chunk.name.decode("ascii").isprintable() or rest < 0:
            return False
        if (chunk.name in _RIFF_MAGICS or chunk.name in (b"data", b"riff")) and chunk.size:
            raise unreadable("the WAV holds several recordings; give one recording a file")
        is_filled = rest < style.header_bytes
    return is_filled


def _is_junk(data: memoryview, offset: int, promised: int) -> bool:
    """Return whether what follows the promised samples is a tag, or too little to matter."""
    rest = data.nbytes - offset
    if rest <= min(_MAX_JUNK_BYTES, MAX_JUNK_SHARE * (promised + rest)):
        return True
    head = bytes(data[offset : offset + 9])
    return head.startswith(_TAGS) or head[1:].startswith(_TAGS) or not bytes(data[offset:]).strip(b"\0")


def _duration(form: bytes, num_bytes: int, order: Order) -> tuple[float | None, float]:
    """Return the length in seconds by the format chunk, and the length of a block."""
    tag, channels, rate = (int.from_bytes(form[a:b], order) for a, b in ((0, 2), (2, 4), (4, 8)))
    block_bytes, bits = int.from_bytes(form[12:14], order), int.from_bytes(form[14:16], order)
    if tag == _EXTENSIBLE:
        tag = int.from_bytes(form[24:26], order)
    if tag in (_ALAW, _ULAW):
        block_bytes, block_samples = channels, 1
    elif tag in (_PCM, _FLOAT):
        is_padded = bits == 24 and block_bytes == 4 * channels  # noqa: PLR2004  24 bits in four bytes
        block_bytes, block_samples = 4 * channels if is_padded else channels * -(-bits // 8), 1
    elif tag in (_MS_ADPCM, _IMA_ADPCM, _GSM):
        block_samples = int.from_bytes(form[18:20], order)
    else:
        return None, 0.0
    if not (block_bytes and rate and block_samples):
        return None, 0.0
    slack = 2 * block_samples if block_samples > 1 else 0
    return num_bytes // block_bytes * block_samples / rate, slack / rate
