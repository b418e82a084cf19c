"""Recordings in formats that only FFmpeg writes, for the tests of the optional decoder and of malformed input."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import av
import numpy as np
import numpy.typing as npt

MUXERS: Final[dict[str, tuple[str, str]]] = {
    "m4a": ("ipod", "aac"),
    "alac": ("ipod", "alac"),
    "3gp": ("3gp", "libopencore_amrnb"),
    "aac": ("adts", "aac"),
    "amr": ("amr", "libopencore_amrnb"),
    "g722": ("g722", "g722"),
}
"""FFmpeg's names of the container and the codec for every kind of file."""


def encode_media(
    kind: str,
    samples: npt.NDArray[np.int16],
    rate: int = 8000,
    options: Mapping[str, str] | None = None,
    *,
    silences_left_out: bool = False,
) -> bytes:
    """Encode (C, S) samples of one or two channels.

    Args:
        kind: key of `MUXERS`.
        samples: (C, S) samples.
        rate: sample rate in Hz.
        options: options of the muxer.
        silences_left_out: for AMR, use discontinuous transmission (DTX).
    """
    muxer, codec = MUXERS[kind]
    layout = "stereo" if len(samples) == 2 else "mono"
    target = io.BytesIO()
    with av.open(target, "w", format=muxer, options=dict(options or {})) as file:
        stream: Any = file.add_stream(codec, rate=rate, layout=layout)
        whole = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="s16", layout=layout)
        whole.sample_rate, whole.pts = rate, 0
        if codec == "libopencore_amrnb":
            stream.bit_rate = 12_200  # the highest rate of AMR-NB, 32 bytes per frame
            stream.options = {"dtx": str(int(silences_left_out))}
        stream.codec_context.open()
        cut = av.AudioResampler(stream.codec_context.format.name, layout, rate, stream.codec_context.frame_size or None)
        for frame in [*cut.resample(whole), *cut.resample(None), None]:
            for packet in stream.encode(frame):
                file.mux(packet)
    return target.getvalue()


def encode_video(samples: npt.NDArray[np.int16], rate: int, layout: str, video_codec: str = "libx264") -> bytes:
    """Encode (C, S) samples as the AAC sound of a short black video in an MP4; `layout` is FFmpeg's, such as `5.1`."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as file:
        picture: Any = file.add_stream(video_codec, rate=5)
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        sound: Any = file.add_stream("aac", rate=rate, layout=layout)
        sound.codec_context.open()
        for _ in range(3):
            black = av.VideoFrame.from_ndarray(np.zeros((48, 32), np.uint8), format="yuv420p")
            file.mux(picture.encode(black))
        whole = av.AudioFrame.from_ndarray(samples.astype(np.float32) / 2**15, format="fltp", layout=layout)
        whole.sample_rate, whole.pts = rate, 0
        cut = av.AudioResampler("fltp", layout, rate, sound.codec_context.frame_size)
        for frame in [*cut.resample(whole), *cut.resample(None), None]:
            file.mux(sound.encode(frame))
        file.mux(picture.encode(None))
    return target.getvalue()
