"""Decode one recording, held in memory, into float channels at the model's rate.

Accepted are WAV (WAVEX, RF64, RIFX too), FLAC, MP3 and OGG (Vorbis, Opus), known by their first bytes, and what
`media` decodes where it is installed; whatever else libsndfile knows is rejected, headerless samples first of all.
Decoding and resampling go block by block, so memory is bounded by twice the longest call at the model's rate and some
blocks, whatever the header says.

What cannot be noticed, because nothing in the file tells: the missing end of an MP3 without a Xing or Info header, of
a WAV whose data size a streaming writer left open (0, or about 2 or 4 GiB), or of a FLAC of unknown length cut between
two frames; of an AAC or AMR cut between two frames, or a G.722; audio after the length that a Xing header or a FLAC
header promises.

Shape letters: C channels, S samples of a channel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from torchaudio.functional import resample

from msmtfn.calls.containers import (
    check_mp4_boxes,
    check_ogg_end,
    check_wav_size,
    recognise_container,
    unreadable,
)
from msmtfn.calls.media import FORMATS, decode_media
from msmtfn.errors import CallError, RejectCode

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_CHANNELS: Final = 2
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 384_000
BLOCK_FRAMES: Final = 2**20
"""Frames decoded and resampled at a time: 131 s at 8 kHz."""

MAX_KERNEL_SIZE: Final = 2**22
"""Weights of the largest resampling kernel. 44101 to 8000 Hz would take 353 million, 1.4 GB, without this limit."""

MAX_PACKETS_PER_SEC: Final = 200
"""Packets of sound, and of a picture beside it, that a second of an MP4 can have; AAC has 94 at 96 kHz."""

_FILTER_WIDTH: Final = 6  # zero crossings of the sinc on each side
_UNKNOWN_FRAMES: Final = 2**62  # libsndfile's stand-in for an unknown length is this or more; FLAC ends at 2**36

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


def decode_recording(data: Buffer, *, sample_rate: int, config: AudioConfig, name: str = "") -> Recording:
    """Decode a recording and resample it to `sample_rate`.

    Args:
        data: the file's bytes: `bytes`, a memoryview or an Arrow buffer; copied to fill in a WAV size of 0, and
            for `media`.
        sample_rate: the rate wanted, in Hz. See `choose_ratio` for how exactly an odd rate is met.
        config: the limits.
        name: of the file; a G.722 is known by it.

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
    container = recognise_container(view, name)
    decode = _decode_with_ffmpeg if container in FORMATS else _decode_with_libsndfile
    parts = decode(view, container, sample_rate, config)
    channels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return Recording(np.ascontiguousarray(channels), sample_rate)


def _decode_with_libsndfile(data: memoryview, container: str, sample_rate: int, config: AudioConfig) -> list[Waveform]:
    if container == "WAV":
        data = check_wav_size(data)
    elif container == "OGG":
        check_ogg_end(data)
    try:
        with _ForwardFile(_MemoryFile(data, shows_end_once=container == "MP3")) as file:
            _check_shape(file.channels, file.samplerate)
            if config.max_duration_sec * file.samplerate < file.frames < _UNKNOWN_FRAMES:
                raise _too_long(f"lasts {file.frames / file.samplerate:.1f} s by its header", config)
            return _resampled(_decode_blocks(file), file.samplerate, sample_rate, config)
    except sf.SoundFileError as exc:
        raise unreadable(f"libsndfile cannot open this {container}: {getattr(exc, 'error_string', exc)}") from exc


def _decode_with_ffmpeg(data: memoryview, container: str, sample_rate: int, config: AudioConfig) -> list[Waveform]:
    if container == "MP4":
        check_mp4_boxes(data, most_packets=math.ceil(MAX_PACKETS_PER_SEC * config.max_duration_sec))
    file_rate, blocks = decode_media(data, container, BLOCK_FRAMES)
    first = next(blocks, None)
    if first is None:
        raise CallError(RejectCode.AUDIO_EMPTY, f"the {container} has no samples")
    _check_shape(len(first), file_rate)
    return _resampled(chain([first], blocks), file_rate, sample_rate, config)


def _resampled(blocks: Iterator[Waveform], file_rate: int, sample_rate: int, config: AudioConfig) -> list[Waveform]:
    ratio = choose_ratio(file_rate, sample_rate)
    checked = _check_blocks(blocks, file_rate, config)
    return list(checked if ratio == 1 else _resample_blocks(checked, ratio))


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


def _check_shape(num_channels: int, rate: int) -> None:
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise unreadable(f"the recording has {num_channels} channels, at most {MAX_CHANNELS} can be read")
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise unreadable(f"the sample rate is {rate} Hz, not {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")


def _check_blocks(blocks: Iterator[Waveform], rate: int, config: AudioConfig) -> Iterator[Waveform]:
    """Yield (C, S) blocks; check on the way that no more comes than is allowed, and that all are numbers."""
    num_frames, max_frames = 0, math.floor(config.max_duration_sec * rate)
    for block in blocks:
        num_frames += block.shape[1]
        if num_frames > max_frames:
            raise _too_long("goes on", config)
        if block.size and not (np.isfinite(block.min()) and np.isfinite(block.max())):
            raise unreadable("the recording has samples that are infinite or not a number")
        yield block


def _decode_blocks(file: sf.SoundFile) -> Iterator[Waveform]:
    """Yield (C, S) blocks; check on the way that no less comes than is promised."""
    num_frames, promised = 0, file.frames
    while num_frames < promised:
        wanted = min(BLOCK_FRAMES, promised - num_frames)
        try:
            block = file.read(wanted, dtype="float32", always_2d=True)
        except sf.LibsndfileError as exc:
            raise _cut_short(file, f"decoding fails at or after {file.tell()}") from exc
        num_frames += len(block)
        yield np.ascontiguousarray(block.T)  # no copy of one channel
        if len(block) < wanted:
            break
    if num_frames < promised < _UNKNOWN_FRAMES:
        raise _cut_short(file, f"{num_frames} are there")
    if not num_frames:
        raise CallError(RejectCode.AUDIO_EMPTY, f"the {file.format} has a header and no samples")


def _cut_short(file: sf.SoundFile, found: str) -> CallError:
    promised = file.frames if file.frames < _UNKNOWN_FRAMES else "an unknown number of"
    return unreadable(f"the {file.format} is cut short or damaged: its header promises {promised} frames, {found}")


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
