"""Decode what libsndfile does not know, through FFmpeg (PyAV, the extra `media`): M4A, AAC, AMR and G.722.

The bytes come from a stranger, so FFmpeg is told the container and never guesses it: its demuxers of playlists (HLS,
concat) would open other files and addresses. It reads from memory, may use no protocol, and one demuxer and its codecs
only.

Shape letters: C channels, S samples of a channel.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from msmtfn.calls.containers import unreadable

if TYPE_CHECKING:
    import av
    from av.audio.codeccontext import AudioCodecContext
    from av.container import InputContainer

EXTRA: Final = "media"
AMR, AMR_SAMPLE_RATE = "amrnb", 8000
FRAGMENT_FRAMES: Final = 2
"""How many frames a fragmented MP4 may have less than its length says: the encoder's delay, and a part of the last."""

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Format:
    """How FFmpeg calls a container, and the codecs that it may hold."""

    demuxer: str
    codecs: tuple[str, ...]


FORMATS: Final = {
    "MP4": _Format("mov", ("aac", "alac", AMR)),
    "AAC": _Format("aac", ("aac",)),
    "AMR": _Format("amr", (AMR,)),
    "G722": _Format("g722", ("g722",)),
}
"""By the names that `containers.recognise_container` gives; MP4 is M4A and 3GP, too."""


def decode_media(data: memoryview, container: str, block_frames: int) -> tuple[int, Iterator[Waveform]]:
    """Begin to decode a recording.

    Args:
        data: the file's bytes, of a container in `FORMATS`.
        container: its name there.
        block_frames: frames of a block, at least; the last may have fewer.

    Returns:
        The file's sample rate, and (C, S) float32 blocks; 0 and none where it has no samples.

    Raises:
        CallError: it cannot be opened, or decoding fails now or on the way (`audio_unreadable`).
    """
    frames = _decode_frames(data, container)
    first = next(frames, None)
    if first is None:
        return 0, iter(())
    return first.sample_rate, _join_frames(first, frames, block_frames)


def _decode_frames(data: memoryview, container: str) -> Iterator[av.AudioFrame]:
    """Yield the frames of the only audio stream; check on the way that none is damaged or missing."""
    try:
        import av  # noqa: PLC0415  an extra, and a third of a second
    except ImportError as exc:
        raise unreadable(f"the {container} needs FFmpeg: pip install 'msmtfn[{EXTRA}]' where calls are read") from exc
    form = FORMATS[container]
    options = {
        "format_whitelist": form.demuxer,
        "codec_whitelist": ",".join(form.codecs),
        "protocol_whitelist": "none",  # an empty list would allow them all
    }
    try:
        source = io.BytesIO(data)
        with av.open(source, "r", format=form.demuxer, options=options, metadata_errors="replace") as file:
            yield from _decode_stream(file, container)
    except av.FFmpegError as exc:
        raise unreadable(f"the {container} is cut short or damaged: FFmpeg's {type(exc).__name__}") from exc


def _decode_stream(file: InputContainer, container: str) -> Iterator[av.AudioFrame]:
    if len(file.streams.audio) != 1:
        raise unreadable(f"the {container} has {len(file.streams.audio)} audio streams; give one recording a file")
    stream = file.streams.audio[0]
    codec = stream.codec_context
    if codec is None or codec.name not in FORMATS[container].codecs:
        raise unreadable(f"the {container} holds another codec than {', '.join(FORMATS[container].codecs)}")
    codec.thread_count = 1
    decoder = _amr_decoder() or codec if codec.name == AMR else codec
    num_packets, num_samples, last = 0, 0, None
    for packet in file.demux(stream):
        if packet.is_corrupt:
            raise unreadable(f"the {container} is cut short in packet {num_packets}")
        num_packets += bool(packet.size)
        for frame in decoder.decode(packet):
            num_samples, last = num_samples + frame.samples, frame
            yield frame
    if num_packets < stream.frames:
        raise unreadable(f"the {container} is cut short: it promises {stream.frames} packets, {num_packets} are there")
    if container == "MP4" and not stream.frames and last and stream.duration and stream.time_base:
        promised = int(stream.duration * stream.time_base * last.sample_rate)
        if num_samples + FRAGMENT_FRAMES * last.samples < promised:
            raise unreadable(f"the MP4 is cut short: it promises {promised} samples, {num_samples} are there")


def _amr_decoder() -> AudioCodecContext | None:
    """The decoder of AMR that knows the silences a telephone does not send; None where PyAV was built without it."""
    import av  # noqa: PLC0415

    try:
        decoder = av.CodecContext.create("libopencore_amrnb", "r")
    except av.codec.codec.UnknownCodecError:
        return None
    decoder.sample_rate, decoder.layout = AMR_SAMPLE_RATE, "mono"
    return decoder


def _join_frames(first: av.AudioFrame, frames: Iterator[av.AudioFrame], block_frames: int) -> Iterator[Waveform]:
    rate, channels = first.sample_rate, first.layout.nb_channels
    held, num_held = [_samples_of(first)], first.samples
    for frame in frames:
        if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
            raise unreadable("the recording changes its sample rate or its channels on the way")
        held.append(_samples_of(frame))
        num_held += frame.samples
        if num_held >= block_frames:
            yield np.concatenate(held, axis=1)
            held, num_held = [], 0
    if held:
        yield np.concatenate(held, axis=1)


def _samples_of(frame: av.AudioFrame) -> Waveform:
    """(C, S) samples of a frame in [-1, 1]."""
    samples: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if np.issubdtype(samples.dtype, np.signedinteger):
        return samples.astype(np.float32) / np.float32(-float(np.iinfo(samples.dtype).min))
    return samples.astype(np.float32)
