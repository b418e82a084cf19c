"""Decode formats that libsndfile does not support, through FFmpeg (PyAV, extra `media`): M4A, AAC, AMR and G.722.

The bytes are untrusted, so FFmpeg is always told the container and never probes for it: its playlist demuxers (HLS,
concat) would open other files and URLs. FFmpeg reads from memory and is allowed no protocol, a single demuxer and only
that container's codecs.

Shapes: C channels, S samples per channel.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from msmtfn.calls.layout import unreadable

if TYPE_CHECKING:
    import av
    from av.audio.codeccontext import AudioCodecContext
    from av.container import InputContainer

EXTRA: Final = "media"
AMR, AMR_SAMPLE_RATE = "amrnb", 8000
MIN_INDEXED_SHARE: Final = 0.95
"""Share of the packets' bytes in an MP4 that its index must name: some writers leave a little room."""

FRAGMENT_FRAMES: Final = 2
"""Frames that a fragmented MP4 may lack of its declared length: the encoder's delay and part of the last frame."""

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Format:
    """FFmpeg's name of a container and the codecs that the container may hold."""

    demuxer: str
    codecs: tuple[str, ...]


FORMATS: Final = {
    "MP4": _Format("mov", ("aac", "alac", AMR)),
    "AAC": _Format("aac", ("aac",)),
    "AMR": _Format("amr", (AMR,)),
    "G722": _Format("g722", ("g722",)),
}
"""Formats by the names that `containers.recognise_container` returns; MP4 includes M4A and 3GP."""


def decode_media(
    data: memoryview, container: str, block_frames: int, packet_bytes: int | None = None
) -> tuple[int, Iterator[Waveform]]:
    """Start decoding a recording.

    Args:
        data: content of the file.
        container: container of the file, a key of `FORMATS`.
        block_frames: minimum number of frames in a block; the last one may have fewer.
        packet_bytes: how many bytes the packets of an MP4 have together, so that none is left out; None if unknown.

    Returns:
        The file's sample rate and an iterator over (C, S) float32 blocks; 0 and an empty one if there are no samples.

    Raises:
        CallError: the file cannot be opened or decoded (`audio_unreadable`); the iterator may raise it, too.
    """
    frames = _decode_frames(data, container, packet_bytes)
    first = next(frames, None)
    if first is None:
        return 0, iter(())
    return first.sample_rate, _join_frames(first, frames, block_frames)


def decode_video_sound(data: memoryview, sample_rate: int) -> npt.NDArray[np.int16]:
    """Decode the sound of a video in an MP4, with any number of channels.

    Args:
        data: content of the file.
        sample_rate: sample rate to resample to, in Hz.

    Returns:
        (S,) samples; FFmpeg has mixed the channels down to one.

    Raises:
        CallError: the file cannot be opened or decoded, or has not exactly one audio stream (`audio_unreadable`).
    """
    frames = _decode_frames(data, "MP4", None)
    first = next(frames, None)
    if first is None:
        return np.empty(0, np.int16)
    import av  # noqa: PLC0415

    resampler = av.AudioResampler("s16", "mono", sample_rate)  # of floats it would not keep the sum below full scale
    whole: Iterator[av.AudioFrame | None] = chain([first], frames, [None])  # None ends the stream
    resampled = [part for frame in whole for part in resampler.resample(frame)]
    return np.concatenate([part.to_ndarray().reshape(-1) for part in resampled])


def _decode_frames(data: memoryview, container: str, packet_bytes: int | None) -> Iterator[av.AudioFrame]:
    """Yield the frames of the only audio stream; check that none is damaged or missing."""
    try:
        import av  # noqa: PLC0415  optional, and slow to import (0.3 s)
    except ImportError as exc:
        raise unreadable(
            f"decoding {container} needs FFmpeg: pip install 'msmtfn[{EXTRA}]' on all machines that score calls"
        ) from exc
    media_format = FORMATS[container]
    options = {
        "format_whitelist": media_format.demuxer,
        "codec_whitelist": ",".join(media_format.codecs),
        "protocol_whitelist": "none",  # an empty list would allow all of them
    }
    try:
        source = io.BytesIO(data)
        with av.open(source, "r", format=media_format.demuxer, options=options, metadata_errors="replace") as file:
            yield from _decode_stream(file, container, packet_bytes)
    except av.FFmpegError as exc:
        raise unreadable(f"the {container} is cut short or damaged: FFmpeg's {type(exc).__name__}") from exc


def _decode_stream(file: InputContainer, container: str, packet_bytes: int | None) -> Iterator[av.AudioFrame]:
    if len(file.streams.audio) != 1:
        raise unreadable(f"the {container} has {len(file.streams.audio)} audio streams; it must have exactly one")
    stream = file.streams.audio[0]
    codec = stream.codec_context
    if codec is None or codec.name not in FORMATS[container].codecs:
        raise unreadable(f"the {container} uses another codec than {', '.join(FORMATS[container].codecs)}")
    codec.thread_count = 1
    decoder = _amr_decoder() or codec if codec.name == AMR else codec
    num_packets, num_bytes, num_samples, last = 0, 0, 0, None
    for packet in file.demux(stream):
        if packet.is_corrupt:
            raise unreadable(f"the {container} is cut short in packet {num_packets}")
        num_packets, num_bytes = num_packets + bool(packet.size), num_bytes + packet.size
        for frame in decoder.decode(packet):
            num_samples, last = num_samples + frame.samples, frame
            yield frame
    if num_packets < stream.frames:
        raise unreadable(f"the {container} is cut short: it promises {stream.frames} packets, {num_packets} are there")
    if packet_bytes is not None and len(file.streams) == 1 and num_bytes < MIN_INDEXED_SHARE * packet_bytes:
        raise unreadable(f"the MP4 holds {packet_bytes} bytes of audio, but its index names {num_bytes} of them")
    if container == "MP4" and not stream.frames and last and stream.duration and stream.time_base:
        promised = int(stream.duration * stream.time_base * last.sample_rate)
        if num_samples + FRAGMENT_FRAMES * last.samples < promised:
            raise unreadable(f"the MP4 is cut short: it promises {promised} samples, {num_samples} are there")


def _amr_decoder() -> AudioCodecContext | None:
    """Return the AMR decoder that fills the silences a telephone does not transmit (DTX); None if PyAV lacks it."""
    import av  # noqa: PLC0415

    try:
        decoder = av.CodecContext.create("libopencore_amrnb", "r")
    except av.codec.codec.UnknownCodecError:
        return None
    decoder.sample_rate, decoder.layout = AMR_SAMPLE_RATE, "mono"
    return decoder


def _join_frames(first: av.AudioFrame, frames: Iterator[av.AudioFrame], block_frames: int) -> Iterator[Waveform]:
    rate, channels = first.sample_rate, first.layout.nb_channels
    pending, num_pending = [_to_float(first)], first.samples
    for frame in frames:
        if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
            raise unreadable("the recording changes its sample rate or its number of channels")
        pending.append(_to_float(frame))
        num_pending += frame.samples
        if num_pending >= block_frames:
            yield np.concatenate(pending, axis=1)
            pending, num_pending = [], 0
    if pending:
        yield np.concatenate(pending, axis=1)


def _to_float(frame: av.AudioFrame) -> Waveform:
    """Return the (C, S) samples of a frame, scaled to [-1, 1]."""
    samples: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if np.issubdtype(samples.dtype, np.signedinteger):
        return samples.astype(np.float32) / np.float32(-float(np.iinfo(samples.dtype).min))
    return samples.astype(np.float32)
