"""Decode one recording, held in memory, into float channels at the model's rate.

Accepted are WAV (WAVEX, RF64, RIFX too), FLAC, MP3 and OGG (Vorbis, Opus), known by their first bytes; whatever else
libsndfile knows is rejected, headerless samples first of all. Decoding and resampling go block by block, so memory is
bounded by twice the longest call at the model's rate and some blocks, whatever the header says.

What cannot be noticed, because nothing in the file tells: the missing end of an MP3 without a Xing or Info header, of
a WAV whose data size a streaming writer left open (0, or about 2 or 4 GiB), or of a FLAC of unknown length cut between
two frames; audio after the length that a Xing header or a FLAC header promises.

Shape letters: C channels, S samples of a channel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from torchaudio.functional import resample

from msmtfn.errors import CallError, RejectCode

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_CHANNELS: Final = 2
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 384_000
BLOCK_FRAMES: Final = 2**20
"""Frames decoded and resampled at a time: 131 s at 8 kHz."""

MAX_KERNEL_SIZE: Final = 2**22
"""Weights of the largest resampling kernel. 44101 to 8000 Hz would take 353 million, 1.4 GB, without this limit."""

_FILTER_WIDTH: Final = 6  # zero crossings of the sinc on each side
_UNKNOWN_FRAMES: Final = 2**62  # libsndfile's stand-in for an unknown length is this or more; FLAC ends at 2**36
_OPEN_WAV_SIZE: Final = 0x7FFF_0000  # writers that cannot seek back leave the largest 31 or 32 bit number, or near it
_MAX_WAV_CHUNKS: Final = 1_000
_MAX_OGG_PAGE: Final = 27 + 255 + 255 * 255  # header, segment table, segments (RFC 3533, section 6)
_MPEG_KBIT: Final = {  # layer III (ISO/IEC 11172-3, 13818-3), by the version bits: 3 MPEG 1, 2 MPEG 2, 0 MPEG 2.5
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATE: Final = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig:
    """What a recording may cost; more is rejected before the memory is spent."""

    max_file_bytes: int = 512 * 2**20
    """Size of the file, in bytes."""
    max_duration_sec: float = 4 * 3600.0
    """Length of the recording, in seconds."""

    def __post_init__(self) -> None:
        if self.max_file_bytes < 1:
            raise ValueError(f"max_file_bytes is {self.max_file_bytes}; give a number of bytes, 1 or more")
        if not 0 < self.max_duration_sec < math.inf:
            raise ValueError(f"max_duration_sec is {self.max_duration_sec}; give a number of seconds above 0")


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """One decoded recording.

    Attributes:
        channels: (C, S) float32, C is 1 or 2, nominally in [-1, 1]; lossy codecs may overshoot.
        sample_rate: samples a second of `channels`.
    """

    channels: Waveform
    sample_rate: int

    @property
    def num_samples(self) -> int:
        """Samples of one channel."""
        return int(self.channels.shape[1])

    @property
    def duration_sec(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate

    def mono(self) -> Waveform:
        """The mean of the channels, (S,); of one channel a view."""
        mono: Waveform = self.channels[0] if len(self.channels) == 1 else self.channels.mean(axis=0)
        return mono


def decode_recording(data: Buffer, *, sample_rate: int, config: AudioConfig) -> Recording:
    """Decode a recording and resample it to `sample_rate`.

    Args:
        data: the file's bytes: `bytes`, a memoryview or an Arrow buffer; copied only to fill in a WAV size of 0.
        sample_rate: the rate wanted, in Hz. See `choose_ratio` for how exactly an odd rate is met.
        config: the limits.

    Raises:
        CallError: the recording is empty, unreadable (cut short, too), too large or too long.
        ValueError: `sample_rate` is out of range.
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(f"sample_rate is {sample_rate}; give {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")
    view = memoryview(data).cast("B")
    if not view.nbytes:
        raise CallError(RejectCode.AUDIO_EMPTY, "the file has no bytes")
    if view.nbytes > config.max_file_bytes:
        detail = f"the file has {view.nbytes} bytes, the limit is {config.max_file_bytes}"
        raise CallError(RejectCode.AUDIO_TOO_LARGE, detail)
    container = _recognise_container(view)
    if container == "WAV":
        view = _check_wav_size(view)
    elif container == "OGG":
        _check_ogg_end(view)
    try:
        with _ForwardFile(_MemoryFile(view, shows_end_once=container == "MP3")) as file:
            _check_header(file, config)
            ratio = choose_ratio(file.samplerate, sample_rate)
            blocks = _decode_blocks(file, config)
            parts = list(blocks if ratio == 1 else _resample_blocks(blocks, ratio))
    except sf.SoundFileError as exc:
        raise _unreadable(f"libsndfile cannot open this {container}: {getattr(exc, 'error_string', exc)}") from exc
    channels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return Recording(np.ascontiguousarray(channels), sample_rate)


def choose_ratio(file_rate: int, sample_rate: int) -> Fraction:
    """Choose the ratio to resample by: exact, unless its kernel would be larger than `MAX_KERNEL_SIZE`.

    The kernel grows with numerator times denominator. Every common rate is met exactly (8012 Hz to 8 kHz, too); an
    awkward one (44101 Hz, 8009 Hz) is rounded to the nearest cheap ratio. That shifts pitch and duration by less than
    1 part in 4000, 0.9 s in an hour, at model rates of 8 and 16 kHz.
    """
    exact = Fraction(sample_rate, file_rate)
    if exact.numerator * exact.denominator <= MAX_KERNEL_SIZE:
        return exact
    return exact.limit_denominator(math.isqrt(int(MAX_KERNEL_SIZE / exact)))


class _ForwardFile(sf.SoundFile):  # type: ignore[misc]
    """Reads on from where it stands; soundfile else seeks after every read, which fails in a FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


class _MemoryFile:
    """The bytes as libsndfile wants to see them; no call raises, for a callback's exception would only be printed.

    An MP3 shows its end once, to libsndfile, and then an end at 0, to mpg123: were that to learn the size, it would
    guess the length of a file without a Xing header from its first frame, and a VBR recording would lose its end.
    """

    def __init__(self, data: memoryview, *, shows_end_once: bool) -> None:
        self._data = data
        self._place = 0
        self._end = data.nbytes
        self._next_end = 0 if shows_end_once else data.nbytes

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        if whence == os.SEEK_END:
            self._end = self._next_end
        self._place = min(max(0, start + offset), self._data.nbytes)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, target: Any) -> int:
        piece = self._data[self._place : self._place + len(target)]
        target[: piece.nbytes] = piece
        self._place += piece.nbytes
        return piece.nbytes


def _recognise_container(data: memoryview) -> str:
    """Name the container by its first bytes: WAV, FLAC, OGG or MP3, FLAC and MP3 perhaps after an ID3 tag."""
    head = bytes(data[:12])
    start = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
    start = start if head.startswith(b"ID3") else 0
    magic = bytes(data[start : start + 4])
    if magic in {b"RIFF", b"RIFX", b"RF64"} and head[8:] == b"WAVE":
        return "WAV"
    if magic in {b"fLaC", b"OggS"}:
        return {b"fLaC": "FLAC", b"OggS": "OGG"}[magic]
    # Raw samples around zero often begin with the 11 set bits of an MPEG header, so a second header must follow.
    size = _mpeg_frame_size(magic)
    if size and (start + size >= data.nbytes or _mpeg_frame_size(bytes(data[start + size : start + size + 4]))):
        return "MP3"
    raise _unreadable("the file does not begin like a WAV, FLAC, MP3 or OGG file")


def _mpeg_frame_size(header: bytes) -> int:
    """Bytes of the layer III frame that this header begins; 0 when it is none."""
    bits = int.from_bytes(header, "big")
    version, kbit_index, rate_index = bits >> 19 & 3, bits >> 12 & 15, bits >> 10 & 3
    is_layer_iii = len(header) == 4 and bits >> 21 == 0x7FF and bits >> 17 & 3 == 1  # noqa: PLR2004
    if not is_layer_iii or version == 1 or not 1 <= kbit_index <= 14 or rate_index == 3:  # noqa: PLR2004
        return 0
    kbit = _MPEG_KBIT[version or 2][kbit_index - 1]
    return (144_000 if version == 3 else 72_000) * kbit // _MPEG_RATE[version][rate_index] + (bits >> 9 & 1)  # noqa: PLR2004


def _check_wav_size(data: memoryview) -> memoryview:
    """Compare the data chunk's size with what is there; a size of 0 that a streaming writer left becomes "unknown"."""
    place, size = _find_wav_samples(data)
    there = data.nbytes - place
    if size == 0 and there and not bytes(data[place : place + 4]).strip().isalnum():  # no other chunk's name follows
        opened = bytearray(data)
        opened[place - 4 : place] = b"\xff\xff\xff\xff"  # libsndfile takes 0 at its word, and this for the file's end
        return memoryview(opened)
    if there < size < _OPEN_WAV_SIZE:
        raise _unreadable(f"the WAV is cut short: its header promises {size} bytes of samples, {there} are there")
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
    raise _unreadable("the WAV has no data chunk")


def _check_ogg_end(data: memoryview) -> None:
    """Every encoder marks its last page (RFC 3533, section 6); a file cut short ends without the mark or in a page."""
    tail = bytes(data[-2 * _MAX_OGG_PAGE :])
    page = tail[max(0, tail.rfind(b"OggS")) :]
    num_segments = page[26] if len(page) > 26 else 255  # noqa: PLR2004  where the count stands
    promised = 27 + num_segments + sum(page[27 : 27 + num_segments])
    if len(page) < promised:
        raise _unreadable(f"the OGG is cut short: its last page promises {promised} bytes, {len(page)} are there")
    if not page[5] & 4:
        raise _unreadable("the OGG is cut short: no page ends the stream")
    if page[14:18] != bytes(data[14:18]):
        raise _unreadable("the OGG holds several streams; give one recording a file")


def _check_header(file: sf.SoundFile, config: AudioConfig) -> None:
    if not 1 <= file.channels <= MAX_CHANNELS:
        raise _unreadable(f"the recording has {file.channels} channels, at most {MAX_CHANNELS} can be read")
    if not MIN_SAMPLE_RATE <= file.samplerate <= MAX_SAMPLE_RATE:
        raise _unreadable(f"the sample rate is {file.samplerate} Hz, not {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")
    if config.max_duration_sec * file.samplerate < file.frames < _UNKNOWN_FRAMES:
        raise _too_long(f"lasts {file.frames / file.samplerate:.1f} s by its header", config)


def _decode_blocks(file: sf.SoundFile, config: AudioConfig) -> Iterator[Waveform]:
    """Yield (C, S) blocks; check on the way that no more comes than is allowed, and no less than is promised."""
    num_frames, promised = 0, file.frames
    max_frames = math.floor(config.max_duration_sec * file.samplerate)
    while num_frames < promised:
        wanted = min(BLOCK_FRAMES, promised - num_frames)
        try:
            block = file.read(wanted, dtype="float32", always_2d=True)
        except sf.LibsndfileError as exc:
            raise _cut_short(file, f"decoding fails at or after {file.tell()}") from exc
        num_frames += len(block)
        if num_frames > max_frames:
            raise _too_long("goes on", config)
        if len(block) and not (np.isfinite(block.min()) and np.isfinite(block.max())):
            raise _unreadable("the recording has samples that are infinite or not a number")
        yield np.ascontiguousarray(block.T)  # no copy of one channel
        if len(block) < wanted:
            break
    if num_frames < promised < _UNKNOWN_FRAMES:
        raise _cut_short(file, f"{num_frames} are there")
    if not num_frames:
        raise CallError(RejectCode.AUDIO_EMPTY, f"the {file.format} has a header and no samples")


def _unreadable(detail: str) -> CallError:
    return CallError(RejectCode.AUDIO_UNREADABLE, detail)


def _cut_short(file: sf.SoundFile, found: str) -> CallError:
    promised = file.frames if file.frames < _UNKNOWN_FRAMES else "an unknown number of"
    return _unreadable(f"the {file.format} is cut short or damaged: its header promises {promised} frames, {found}")


def _too_long(what: str, config: AudioConfig) -> CallError:
    return CallError(RejectCode.AUDIO_TOO_LONG, f"the recording {what}, the limit is {config.max_duration_sec:g} s")


@torch.inference_mode()
def _resample_blocks(blocks: Iterator[Waveform], ratio: Fraction) -> Iterator[Waveform]:
    """Resample block by block; each sees enough of its neighbours that the result is that of the whole recording."""
    up, down = ratio.numerator, ratio.denominator
    context = down * math.ceil(_FILTER_WIDTH / min(up, down) + 1)  # the kernel's half width, in whole steps of `down`
    held, skip = torch.from_numpy(next(blocks)), 0  # of `held`, the first `skip` frames are done and only context
    for block in blocks:
        held = torch.cat((held, torch.from_numpy(block)), dim=1)
        done = max(skip, (held.shape[1] - context) // down * down)
        resampled = resample(held[:, : done + context], down, up, lowpass_filter_width=_FILTER_WIDTH)
        yield resampled[:, skip * up // down : done * up // down].numpy()
        keep = max(0, done - context)
        held, skip = held[:, keep:], done - keep
    yield resample(held, down, up, lowpass_filter_width=_FILTER_WIDTH)[:, skip * up // down :].numpy()
