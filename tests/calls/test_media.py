import contextlib
import http.server
import io
import os
import struct
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.containers import check_mp4_boxes, recognise_container
from msmtfn.calls.media import FORMATS, decode_media, decode_video_sound
from msmtfn.errors import CallError, RejectCode
from tests.ffmpeg import encode_media, encode_video

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
RATES = {"m4a": 44_100, "alac": 8000, "3gp": 8000, "aac": 16_000, "amr": 8000, "g722": 16_000}
CONTAINERS = {"m4a": "MP4", "alac": "MP4", "3gp": "MP4", "aac": "AAC", "amr": "AMR", "g722": "G722"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "200000"}
INDEX_FIRST = {"moov_size": "5000"}


def tone(rate: int, duration_sec: float = 2.0, channels: int = 1) -> npt.NDArray[np.int16]:
    """(C, S): 440 Hz of amplitude 0.5 in channel 0, 880 Hz of amplitude 0.25 in channel 1."""
    seconds = np.arange(round(rate * duration_sec)) / rate
    both = [0.5 * np.sin(2 * np.pi * 440 * seconds), 0.25 * np.sin(2 * np.pi * 880 * seconds)]
    return (32767 * np.stack(both[:channels])).astype(np.int16)


def encode(kind: str, duration_sec: float = 2.0, channels: int = 1, options: dict[str, str] | None = None) -> bytes:
    return encode_media(kind, tone(RATES[kind], duration_sec, channels), RATES[kind], options)


def decode(data: bytes, kind: str = "", max_duration_sec: float = 10.0) -> Recording:
    config = AudioConfig(max_duration_sec=max_duration_sec)
    return decode_recording(data, sample_rate=8000, config=config, name=f"calls/a.{kind}")


def reject(data: bytes, kind: str = "", max_duration_sec: float = 10.0) -> CallError:
    with pytest.raises(CallError) as caught:
        decode(data, kind, max_duration_sec)
    return caught.value


def amplitude(samples: npt.NDArray[np.floating[Any]], frequency: float) -> float:
    """Amplitude of one frequency in the middle half."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4]
    return float(2 * abs(np.mean(middle * np.exp(-2j * np.pi * frequency * np.arange(len(middle)) / 8000))))


@pytest.mark.parametrize("kind", RATES)
def test_a_decoded_recording_keeps_its_tone_and_its_length(kind: str) -> None:
    data = encode(kind)
    assert recognise_container(memoryview(data), f"a.{kind}") == CONTAINERS[kind]
    recording = decode(data, kind)
    assert recording.channels.dtype == np.float32
    assert recording.channels.flags.c_contiguous
    assert recording.duration_sec == pytest.approx(2.0, abs=0.15)  # codecs add a few frames of 20 to 128 ms
    assert amplitude(recording.channels[0], 440) == pytest.approx(0.5, rel=0.2)  # AMR attenuates a pure tone


@pytest.mark.parametrize("kind", ["m4a", "alac", "aac"])
def test_two_channels_stay_apart(kind: str) -> None:
    recording = decode(encode(kind, channels=2), kind)
    assert amplitude(recording.channels[0], 440) == pytest.approx(0.5, rel=0.1)
    assert amplitude(recording.channels[1], 880) == pytest.approx(0.25, rel=0.1)
    assert amplitude(recording.channels[1], 440) < 0.01


def test_a_lossless_recording_decodes_to_its_samples() -> None:
    recording = decode(encode("alac", channels=2), "alac")
    np.testing.assert_allclose(recording.channels, tone(8000, channels=2) / 32768, atol=1e-6)


@pytest.mark.parametrize("options", [FRAGMENTED, INDEX_FIRST], ids=["fragmented", "index first"])
def test_other_layouts_of_an_m4a_are_read(options: dict[str, str]) -> None:
    recording = decode(encode("m4a", options=options))
    assert recording.duration_sec == pytest.approx(2.0, abs=0.1)
    assert amplitude(recording.channels[0], 440) == pytest.approx(0.5, rel=0.1)


@pytest.mark.parametrize("block_frames", [1, 5000, 10**9])
def test_the_blocks_joined_are_the_whole_recording(block_frames: int) -> None:
    data = memoryview(encode("alac"))
    rate, blocks = decode_media(data, "MP4", block_frames)
    pieces = list(blocks)
    assert rate == 8000
    assert all(block.shape[1] >= min(block_frames, 16_000) for block in pieces[:-1])
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), tone(8000) / 32768, atol=1e-6)


@pytest.mark.parametrize("kind", RATES)
def test_a_recording_over_the_limit_is_too_long(kind: str) -> None:
    assert decode(encode(kind), kind, 2.2).num_samples > 0
    assert reject(encode(kind), kind, 1.5).code is RejectCode.AUDIO_TOO_LONG


@pytest.mark.parametrize(
    ("kind", "options"), [("m4a", {}), ("m4a", INDEX_FIRST), ("m4a", FRAGMENTED), ("3gp", {}), ("aac", {}), ("amr", {})]
)
@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_a_truncated_recording_is_unreadable(kind: str, options: dict[str, str], share: float) -> None:
    data = encode(kind, options=options)
    size = int(share * len(data))
    if kind == "amr":
        size += (size - 6) % 32 == 0  # frames have 13 or 32 bytes, and a cut between two frames cannot be detected
    error = reject(data[:size], kind)
    assert error.code is RejectCode.AUDIO_UNREADABLE
    assert "cut short" in error.detail


def test_an_m4a_with_complete_boxes_but_missing_samples_is_unreadable() -> None:
    data = encode("m4a", options=INDEX_FIRST)
    place = data.index(b"mdat") - 4
    half = (len(data) - place) // 2
    error = reject(data[:place] + struct.pack(">I", half) + data[place + 4 : place + half])
    assert error.code is RejectCode.AUDIO_UNREADABLE
    assert "cut short" in error.detail


def test_a_fragmented_m4a_longer_than_its_fragments_is_unreadable() -> None:
    data = encode("m4a", options=FRAGMENTED)
    place = data.index(b"mdhd") + 20  # offset of its length
    longer = data[:place] + struct.pack(">I", 4 * 44_100) + data[place + 4 :]
    assert "promises 176400 samples" in reject(longer).detail


def test_an_amr_without_frames_is_empty() -> None:
    assert reject(b"#!AMR\n").code in {RejectCode.AUDIO_EMPTY, RejectCode.AUDIO_UNREADABLE}


def test_a_g722_is_recognised_only_by_its_name() -> None:
    data = encode("g722")
    assert decode(data, "G722").num_samples > 0
    assert "does not begin" in reject(data, "wav").detail


def test_the_first_bytes_take_precedence_over_the_name() -> None:
    assert decode(encode("amr"), "g722").duration_sec == pytest.approx(2.0, abs=0.1)


def test_a_text_named_g722_is_unreadable() -> None:
    assert "does not begin" in reject(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "g722").detail


def mp4_of(*codecs: str) -> bytes:
    """An MP4 with a silent audio stream of each codec."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as file:
        streams: list[Any] = [file.add_stream(codec, rate=16_000, layout="mono") for codec in codecs]
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 576), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            file.mux([*stream.encode(frame), *stream.encode(None)])
    return target.getvalue()


def test_more_than_one_audio_stream_is_unreadable() -> None:
    assert "2 audio streams" in reject(mp4_of("aac", "aac")).detail


def test_another_codec_is_unreadable() -> None:
    assert "another codec than aac, alac, amrnb" in reject(mp4_of("libmp3lame")).detail


@pytest.mark.parametrize("kind", CONTAINERS)
def test_without_pyav_the_detail_names_the_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(kind)
    monkeypatch.setitem(sys.modules, "av", None)  # as if it were not installed
    error = reject(data, kind)
    assert error.code is RejectCode.AUDIO_UNREADABLE
    assert "pip install 'msmtfn[media]'" in error.detail
    assert "media" in tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("kind", ["amr", "3gp"])
def test_silences_that_a_telephone_does_not_transmit_are_restored(kind: str) -> None:
    samples = np.concatenate([np.zeros((1, 16_000), np.int16), tone(8000)], axis=1)
    data = encode_media(kind, samples, silences_left_out=True)
    assert len(data) < 0.8 * len(encode_media(kind, samples))
    recording = decode(data)
    assert recording.duration_sec == pytest.approx(4.0, abs=0.1)
    assert np.abs(recording.channels[0, 2000:14_000]).max() < 0.01
    assert amplitude(recording.channels[0, 16_000:], 440) == pytest.approx(0.5, rel=0.2)


def test_metadata_that_is_not_utf_8_is_accepted() -> None:
    data = encode("m4a")
    assert data.count(b"Lavf") == 1  # name of the encoder in the file's metadata
    assert decode(data.replace(b"Lavf", b"L\xe4\xff\xfe")).num_samples > 0


# ---- files that FFmpeg may open


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Address of a server on this machine, and the list of paths requested from it."""
    requested: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", requested
        listening.shutdown()


def playlists(address: str) -> list[bytes]:
    return [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{address}\n#EXT-X-ENDLIST\n".encode(),
        f"ffconcat version 1.0\nfile '{address}'\n".encode(),
        f"[playlist]\nFile1={address}\nNumberOfEntries=1\n".encode(),
        f'<?xml version="1.0"?><MPD><BaseURL>{address}</BaseURL></MPD>'.encode(),
    ]


def test_a_playlist_of_any_name_opens_no_address(server: tuple[str, list[str]]) -> None:
    address, requested = server
    for text, kind in product(playlists(f"{address}/a.aac"), [*CONTAINERS, "m3u8", "wav"]):
        assert reject(text, kind).code is RejectCode.AUDIO_UNREADABLE
    assert requested == []


@pytest.mark.parametrize("container", FORMATS)
def test_a_playlist_decoded_as_a_recording_opens_no_address(container: str, server: tuple[str, list[str]]) -> None:
    address, requested = server
    for text in playlists(f"{address}/a.aac"):
        with contextlib.nullcontext() if container == "G722" else pytest.raises(CallError):  # any bytes are valid G.722
            assert list(decode_media(memoryview(text), container, 1)[1])
    assert requested == []


def test_an_m4a_that_refers_to_another_file_does_not_open_it(tmp_path: Path) -> None:
    """A QuickTime reference to samples in another file; here a pipe, which would block when opened."""
    data = encode("m4a", options=INDEX_FIRST)
    pipe = tmp_path / "other.m4a"
    os.mkfifo(pipe)
    place = data.index(b"url \x00\x00\x00\x01") - 4
    path = str(pipe).encode()
    alias = bytearray(150)
    alias[4:6] = struct.pack(">H", 2)
    alias += struct.pack(">HH", 2, len(path)) + path + bytes(len(path) % 2) + struct.pack(">HH", 0xFFFF, 0)
    reference = struct.pack(">I", 12 + len(alias)) + b"alis" + bytes(4) + bytes(alias)
    num_added = len(reference) - 12
    changed = bytearray(data[:place] + reference + data[place + 12 :])
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        start = changed.index(box) - 4
        changed[start : start + 4] = struct.pack(">I", struct.unpack(">I", changed[start : start + 4])[0] + num_added)
    assert reject(bytes(changed)).code is RejectCode.AUDIO_UNREADABLE


# ---- numbers of packets that an MP4 may promise


def with_packets(data: bytes, promised: int) -> bytes:
    """Declare that many packets, of one byte each, in one chunk."""
    changed = bytearray(data)
    sizes, chunks, times = (changed.index(name) for name in (b"stsz", b"stsc", b"stts"))
    changed[sizes + 8 : sizes + 16] = struct.pack(">II", 1, promised)
    changed[chunks + 16 : chunks + 20] = struct.pack(">I", promised)
    changed[times + 12 : times + 16] = struct.pack(">I", promised)
    return bytes(changed)


def test_an_m4a_that_promises_a_billion_packets_is_unreadable() -> None:
    error = reject(with_packets(encode("m4a"), 10**9))
    assert (error.code, "promises 1000000000 packets" in error.detail) == (RejectCode.AUDIO_UNREADABLE, True)


def test_the_packets_of_all_tables_are_added_up() -> None:
    data = memoryview(encode("m4a", options=FRAGMENTED))
    counts = bytes(data).count(b"trun")
    assert counts > 1
    num_packets = sum(
        struct.unpack(">I", data[place + 8 : place + 12])[0]
        for place in range(len(data) - 12)
        if bytes(data[place : place + 4]) == b"trun"
    )
    assert num_packets >= 2 * 44_100 / 1024
    check_mp4_boxes(data, num_packets)
    with pytest.raises(CallError, match=f"promises {num_packets} packets"):
        check_mp4_boxes(data, num_packets - 1)


@pytest.mark.parametrize(
    ("tail", "detail"),
    [
        (struct.pack(">I", 7) + b"free", "impossible size"),
        (struct.pack(">I", 9) + b"free", "a box promises 9 bytes, 8 are there"),
        (struct.pack(">I", 1) + b"free" + struct.pack(">Q", 2**63), "a box promises"),
        (struct.pack(">I", 16) + b"moovcmov" + bytes(4), "compressed index"),
        ((struct.pack(">I", 8) + b"free") * 100_000, "more than 100000 boxes"),
    ],
)
def test_invalid_boxes_are_unreadable(tail: bytes, detail: str) -> None:
    with pytest.raises(CallError, match=detail):
        check_mp4_boxes(memoryview(encode("m4a") + tail), 10_000)


@pytest.mark.parametrize("tail", [struct.pack(">I", 1) + b"free" + struct.pack(">Q", 16), bytes(1000), b"abc"])
def test_a_64_bit_size_and_padding_bytes_are_accepted(tail: bytes) -> None:
    assert decode(encode("m4a") + tail).num_samples > 0


def test_many_boxes_of_unusual_names_do_not_have_the_file_searched_for_each() -> None:
    unusual = (struct.pack(">I", 8) + b"\xa9abc") * 3_000
    padding = struct.pack(">I", 2**20) + b"free" + bytes(2**20 - 8)
    data = memoryview(encode("m4a") + unusual + padding + struct.pack(">I", 8) + b"mdat")
    started = time.process_time()
    check_mp4_boxes(data, 10_000)
    assert time.process_time() - started < 1.0  # searching 3 GB takes many times that


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.1", 6)])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_the_sound_of_a_video_is_mixed_down_and_resampled(layout: str, channels: int, codec: str) -> None:
    samples = np.repeat(tone(48_000, 1.0), channels, axis=0)
    sound = decode_video_sound(memoryview(encode_video(samples, 48_000, layout, codec)), 8000)

    assert sound.dtype == np.int16
    assert len(sound) == pytest.approx(8000, abs=2 * 1024 / 6)  # AAC frames of 1024 samples at 48 kHz
    assert amplitude(sound / 2**15, 440) == pytest.approx(0.5, rel=0.1)
    assert amplitude(sound / 2**15, 1000) < 0.01


def test_a_video_that_is_cut_off_is_rejected() -> None:
    video = encode_video(tone(16_000), 16_000, "mono")
    with pytest.raises(CallError, match="the MP4"):
        decode_video_sound(memoryview(video[: len(video) // 2]), 16_000)
