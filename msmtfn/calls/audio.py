"""Decode one recording, held in memory, into float channels at the model's rate.

Accepted formats are WAV (including WAVEX, RF64 and RIFX), FLAC, MP3 and OGG (Vorbis, Opus), recognised by their first
bytes, and the formats that `media` decodes if the extra is installed. Other formats that libsndfile could read are
rejected, above all headerless samples. Decoding and resampling work block by block, so memory is bounded by twice the
longest allowed call at the model's rate plus a few blocks, whatever the header claims.

A recording is decoded to its end or rejected: the decoder has to deliver what a walk through the file has found.
`README.md` lists the damage that nothing in a file reveals.

Shapes: C channels, S samples per channel.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from torchaudio.functional import resample

from msmtfn.calls.channels import merge_channels
from msmtfn.calls.containers import recognise_container, survey_container
from msmtfn.calls.flac import READ_AHEAD, check_flac_rest
from msmtfn.calls.frames import skip_id3
from msmtfn.calls.layout import Layout, check_heard, too_long, unreadable
from msmtfn.calls.media import FORMATS, decode_media
from msmtfn.errors import CallError, RejectCode, require

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_CHANNELS: Final = 2
MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 1_000, 384_000
BLOCK_FRAMES: Final = 2**20
"""Number of frames that are decoded and resampled at once: 131 s at 8 kHz."""

MAX_KERNEL_SIZE: Final = 2**22
"""Maximum numerator times denominator of a resampling ratio, which bounds its kernel; see `choose_ratio`."""

FLOAT_SUBTYPES: Final = ("FLOAT", "DOUBLE")
MAX_OVERSHOOT: Final = 16.0
"""Level of float samples up to which they are taken as scaled to 1: 24 dB above full scale."""

MAX_GLITCH_SHARE: Final = 1 / 1000
MIN_GLITCH_SAMPLES: Final = 64
"""Samples that may be a glitch: this share of those that are not 0, or this number; 64 are 8 ms at 8 kHz."""

MIN_GLITCH_RATIO: Final = 8.0
"""How far a glitch stands out from all other samples, at least; the peaks of real recordings reach 3.2 times."""

INTEGER_SCALES: Final = (2.0**15, 2.0**23, 2.0**31)
"""Full scale of 16, 24 and 32 bits, by which some writers forget to divide."""

_FILTER_WIDTH: Final = 6  # zero crossings of the sinc kernel on each side
_UNKNOWN_FRAMES: Final = 2**62  # libsndfile reports an unknown length as this or more; a FLAC has fewer than 2**36

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True, slots=True)
class AudioConfig:
    """Limits of a recording; one that exceeds them is rejected before its memory is allocated."""

    max_file_bytes: int = 512 * 2**20
    """Maximum size of a recording's file in bytes; larger ones are rejected."""
    max_duration_sec: float = 4 * 3600.0
    """Maximum length of a recording in seconds; longer ones are rejected."""

    def __post_init__(self) -> None:
        require(self.max_file_bytes >= 1, "max_file_bytes", self.max_file_bytes, "at least 1")
        seconds = self.max_duration_sec
        require(0 < seconds < math.inf, "max_duration_sec", seconds, "more than 0, and finite")


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A decoded recording.

    Attributes:
        channels: (C, S) float32 with C = 1 or 2, nominally in [-1, 1]; lossy codecs may overshoot.
        sample_rate: sample rate of `channels` in Hz.
    """

    channels: Waveform
    sample_rate: int

    @property
    def num_samples(self) -> int:
        """Number of samples per channel."""
        return int(self.channels.shape[1])

    @property
    def duration_sec(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate

    def mono(self) -> Waveform:
        """Return the mean of the channels, (S,); a view if there is only one channel."""
        mono: Waveform = self.channels[0] if len(self.channels) == 1 else self.channels.mean(axis=0)
        return mono


def decode_recording(data: Buffer, *, sample_rate: int, config: AudioConfig, name: str = "") -> Recording:
    """Decode a recording and resample it to `sample_rate`; two channels that are one signal become one.

    Args:
        data: content of the file as `bytes`, a memoryview or an Arrow buffer; copied only for `media`.
        sample_rate: target sample rate in Hz; `choose_ratio` says how exactly it is met.
        config: limits of a recording.
        name: name of the file; a G.722 is recognised by its suffix.

    Raises:
        CallError: the recording is empty, unreadable (for example truncated), too large or too long.
        ValueError: `sample_rate` is out of range.
    """
    if not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(f"sample_rate is {sample_rate}; it must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")
    view = memoryview(data).cast("B")
    if not view.nbytes:
        raise CallError(RejectCode.AUDIO_EMPTY, "the file has no bytes")
    if view.nbytes > config.max_file_bytes:
        detail = f"the file has {view.nbytes} bytes; the limit is {config.max_file_bytes}"
        raise CallError(RejectCode.AUDIO_TOO_LARGE, detail)
    container = recognise_container(view, name)
    layout = survey_container(view, container, config.max_duration_sec)
    decode = _decode_with_ffmpeg if container in FORMATS else _decode_with_libsndfile
    parts = decode(view, container, layout, sample_rate, config)
    channels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    return Recording(merge_channels(np.ascontiguousarray(channels), sample_rate), sample_rate)


def _decode_with_libsndfile(
    data: memoryview, container: str, layout: Layout, sample_rate: int, config: AudioConfig
) -> list[Waveform]:
    content = _MemoryFile(data[: layout.end], layout.patches, hides_end_after_first_seek=container == "MP3")
    try:
        with _ForwardFile(content) as file:
            _check_shape(file.channels, file.samplerate)
            if config.max_duration_sec * file.samplerate < file.frames < _UNKNOWN_FRAMES:
                problem = f"lasts {file.frames / file.samplerate:.1f} s according to its header"
                raise too_long(problem, config.max_duration_sec)
            parts = _resample(_decode_blocks(file, layout, container), file.samplerate, sample_rate, config)
            if container == "FLAC":
                check_flac_rest(data, skip_id3(data), content.tell() - READ_AHEAD, file.frames)
            return _normalise_floats(parts) if file.subtype in FLOAT_SUBTYPES else parts
    except sf.SoundFileError as exc:
        raise unreadable(f"libsndfile cannot open this {container}: {getattr(exc, 'error_string', exc)}") from exc


def _normalise_floats(parts: list[Waveform]) -> list[Waveform]:
    """Bring samples that stand in a float file in the scale of integers to [-1, 1].

    Raises:
        CallError: they are larger than any scale of integers (`audio_unreadable`).
    """
    peak = max((float(np.abs(part).max()) for part in parts if part.size), default=0.0)
    if peak <= MAX_OVERSHOOT:
        return parts
    level = _level_without_glitches(parts)
    if not peak > MIN_GLITCH_RATIO * level:  # also if it is NaN, since resampling overflowed
        level = peak
    scales = [1.0] if level <= MAX_OVERSHOOT else [scale for scale in INTEGER_SCALES if level <= 1.25 * scale]
    if not scales:  # 1.25, since resampling overshoots
        raise unreadable(
            f"the recording's float samples reach {level:.3g}; they must be scaled to 1, or to integers' range"
        )
    scaled = [part / np.float32(scales[0]) for part in parts]
    return scaled if level == peak else [np.clip(part, -1.0, 1.0) for part in scaled]


def _level_without_glitches(parts: list[Waveform]) -> float:
    """Return the magnitude that all samples but the largest few reach, of those that are not 0."""
    num_samples = sum(int(np.count_nonzero(part)) for part in parts)
    num_glitches = min(max(MIN_GLITCH_SAMPLES, int(MAX_GLITCH_SHARE * num_samples)), num_samples // 2)
    largest = np.concatenate([_largest(np.abs(part).ravel(), num_glitches + 1) for part in parts])
    return float(_largest(largest, num_glitches + 1).min())


def _largest(values: npt.NDArray[np.float32], number: int) -> npt.NDArray[np.float32]:
    return np.partition(values, -number)[-number:] if len(values) > number else values


def _decode_with_ffmpeg(
    data: memoryview, container: str, layout: Layout, sample_rate: int, config: AudioConfig
) -> list[Waveform]:
    file_rate, blocks = decode_media(data[: layout.end], container, BLOCK_FRAMES, layout.packet_bytes)
    first = next(blocks, None)
    if first is None:
        raise CallError(RejectCode.AUDIO_EMPTY, f"the {container} has no samples")
    _check_shape(len(first), file_rate)
    whole = _check_whole(chain([first], blocks), file_rate, layout, container)
    return _resample(whole, file_rate, sample_rate, config)


def _check_whole(blocks: Iterator[Waveform], rate: int, layout: Layout, container: str) -> Iterator[Waveform]:
    """Yield the (C, S) blocks; check at their end that the whole file has been decoded."""
    num_frames = 0
    for block in blocks:
        num_frames += block.shape[1]
        yield block
    check_heard(num_frames / rate, layout, container)


def _resample(blocks: Iterator[Waveform], file_rate: int, sample_rate: int, config: AudioConfig) -> list[Waveform]:
    ratio = choose_ratio(file_rate, sample_rate)
    checked = _check_blocks(blocks, file_rate, config)
    return list(checked if ratio == 1 else _resample_blocks(checked, ratio))


def choose_ratio(file_rate: int, sample_rate: int) -> Fraction:
    """Return the resampling ratio: exact, unless its kernel would be larger than `MAX_KERNEL_SIZE`.

    The polyphase kernel has one filter per output phase, so it grows with numerator times denominator: 353 million
    weights (1.4 GB) from 44101 to 8000 Hz. Common rates, and many odd ones such as 8012 Hz, are met exactly. An
    awkward rate (44101 Hz, 8009 Hz) is rounded to the nearest ratio with a small kernel, which shifts pitch and
    duration by less than 1 part in 4000 (0.9 s in an hour) at model rates of 8 and 16 kHz.
    """
    exact = Fraction(sample_rate, file_rate)
    if exact.numerator * exact.denominator <= MAX_KERNEL_SIZE:
        return exact
    return exact.limit_denominator(math.isqrt(int(MAX_KERNEL_SIZE / exact)))


class _ForwardFile(sf.SoundFile):  # type: ignore[misc]
    """A sound file that is only read forwards: soundfile's seek after every read fails in a FLAC of unknown length."""

    def seekable(self) -> bool:
        return False


class _MemoryFile:
    """A file-like view of bytes for libsndfile; its methods never raise: a callback's exception is only printed.

    The end of an MP3 is reported once, to libsndfile, and then as 0, to mpg123. If mpg123 knew the size, it would guess
    the length of a file without a Xing header from its first frame and cut off the end of a VBR recording.
    """

    def __init__(self, data: memoryview, patches: Mapping[int, bytes], *, hides_end_after_first_seek: bool) -> None:
        self._data = data
        self._patches = patches
        self._position = 0
        self._end = data.nbytes
        self._next_end = 0 if hides_end_after_first_seek else data.nbytes

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        if whence == os.SEEK_END:
            self._end = self._next_end
        self._position = min(max(0, start + offset), self._data.nbytes)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, target: Any) -> int:
        piece = self._data[self._position : self._position + len(target)]
        target[: piece.nbytes] = piece
        for offset, patch in self._patches.items():
            for place, byte in enumerate(patch, offset - self._position):
                if 0 <= place < piece.nbytes:
                    target[place : place + 1] = bytes([byte])
        self._position += piece.nbytes
        return piece.nbytes


def _check_shape(num_channels: int, rate: int) -> None:
    if not 1 <= num_channels <= MAX_CHANNELS:
        raise unreadable(f"the recording has {num_channels} channels; at most {MAX_CHANNELS} are supported")
    if not MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE:
        raise unreadable(f"the sample rate is {rate} Hz; it must be {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE} Hz")


def _check_blocks(blocks: Iterator[Waveform], rate: int, config: AudioConfig) -> Iterator[Waveform]:
    """Yield the (C, S) blocks; check that the recording is not too long and that all samples are finite."""
    num_frames, max_frames = 0, math.floor(config.max_duration_sec * rate)
    for block in blocks:
        num_frames += block.shape[1]
        if num_frames > max_frames:
            raise too_long("is too long", config.max_duration_sec)
        if block.size and not (np.isfinite(block.min()) and np.isfinite(block.max())):
            raise unreadable("the recording has samples that are infinite or NaN")
        yield block


def _decode_blocks(file: sf.SoundFile, layout: Layout, container: str) -> Iterator[Waveform]:
    """Yield (C, S) blocks; check that the file holds as many frames as its header promises."""
    num_frames, promised = 0, file.frames
    while num_frames < promised:
        wanted = min(BLOCK_FRAMES, promised - num_frames)
        try:
            block = file.read(wanted, dtype="float32", always_2d=True)
        except sf.LibsndfileError as exc:
            raise _cut_short(file, f"decoding fails at or after frame {file.tell()}") from exc
        num_frames += len(block)
        yield np.ascontiguousarray(block.T)  # a view if there is one channel
        if len(block) < wanted:
            break
    if num_frames < promised < _UNKNOWN_FRAMES and layout.duration_sec is None:
        raise _cut_short(file, f"{num_frames} are there")
    if not num_frames:
        raise CallError(RejectCode.AUDIO_EMPTY, f"the {file.format} has a header and no samples")
    check_heard(num_frames / file.samplerate, layout, container)


def _cut_short(file: sf.SoundFile, found: str) -> CallError:
    promised = file.frames if file.frames < _UNKNOWN_FRAMES else "an unknown number of"
    return unreadable(f"the {file.format} is cut short or damaged: its header promises {promised} frames, {found}")


@torch.inference_mode()
def _resample_blocks(blocks: Iterator[Waveform], ratio: Fraction) -> Iterator[Waveform]:
    """Resample block by block, with the result of resampling the whole recording at once.

    Output sample n depends on the input within the kernel's half width of n * down / up. The sinc is cut off just
    below half of the lower rate and spans `_FILTER_WIDTH` zero crossings on each side, so its half width is
    `_FILTER_WIDTH * down / min(up, down)` input samples. Each block therefore keeps that many samples, rounded up to
    whole steps of `down`, of its neighbours. Blocks are cut at multiples of `down`, where an output sample coincides
    with an input sample, so all blocks share the phases of the whole recording.
    """
    up, down = ratio.numerator, ratio.denominator
    context = down * math.ceil(_FILTER_WIDTH / min(up, down) + 1)  # half width, plus a step for the roll-off
    held, skip = torch.from_numpy(next(blocks)), 0  # the first `skip` frames of `held` are only context
    for block in blocks:
        held = torch.cat((held, torch.from_numpy(block)), dim=1)
        done = max(skip, (held.shape[1] - context) // down * down)
        resampled = resample(held[:, : done + context], down, up, lowpass_filter_width=_FILTER_WIDTH)
        yield resampled[:, skip * up // down : done * up // down].numpy()
        keep = max(0, done - context)
        held, skip = held[:, keep:], done - keep
    yield resample(held, down, up, lowpass_filter_width=_FILTER_WIDTH)[:, skip * up // down :].numpy()
