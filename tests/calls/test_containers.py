import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import soundfile as sf

from msmtfn.calls.containers import recognise_container
from msmtfn.calls.layout import unreadable
from msmtfn.errors import CallError, RejectCode

WAV_HEADER_BYTES = 44
ID3_TAG = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 2]) + bytes(130)  # 7 bits a byte: 1 * 128 + 2


def encode(container: str, subtype: str, num_samples: int = 8000) -> memoryview:
    """Noise at 8 kHz."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(num_samples, dtype=np.float32)
    file = io.BytesIO()
    sf.write(file, samples, 8000, format=container, subtype=subtype)
    return memoryview(file.getvalue())


def with_wav_size(data: memoryview, size: int) -> memoryview:
    return memoryview(data[: WAV_HEADER_BYTES - 4].tobytes() + struct.pack("<I", size) + data[WAV_HEADER_BYTES:])


def reject(check: Callable[[memoryview], object], data: bytes | memoryview) -> str:
    """Return the detail of the reject."""
    with pytest.raises(CallError) as caught:
        check(memoryview(data))
    assert caught.value.code is RejectCode.AUDIO_UNREADABLE
    return caught.value.detail


@pytest.mark.parametrize(
    ("container", "subtype", "name"),
    [
        ("WAV", "PCM_16", "WAV"),
        ("WAVEX", "PCM_16", "WAV"),
        ("RF64", "PCM_16", "WAV"),
        ("FLAC", "PCM_16", "FLAC"),
        ("OGG", "OPUS", "OGG"),
        ("MP3", "MPEG_LAYER_III", "MP3"),
    ],
)
def test_a_container_is_recognised_by_its_first_bytes(container: str, subtype: str, name: str) -> None:
    assert recognise_container(encode(container, subtype)) == name


@pytest.mark.parametrize(("container", "subtype"), [("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")])
def test_a_flac_and_an_mp3_are_recognised_after_an_id3_tag(container: str, subtype: str) -> None:
    assert recognise_container(memoryview(ID3_TAG + encode(container, subtype))) == container


def test_an_unsupported_container_is_unreadable() -> None:
    assert "does not begin like" in reject(recognise_container, encode("AU", "PCM_16"))


@pytest.mark.parametrize("first", [-1, -2, 255, 0, 1000])
def test_headerless_samples_are_unreadable(first: int) -> None:
    assert "does not begin" in reject(
        recognise_container, struct.pack("<h", first) + encode("WAV", "PCM_16")[WAV_HEADER_BYTES:]
    )


def test_headerless_samples_that_begin_like_an_mp3_frame_are_unreadable() -> None:
    noise = np.random.default_rng(0).bytes(60_000)
    assert "does not begin" in reject(recognise_container, b"\xff\xfb\x90\x64" + noise)


def test_unreadable_keeps_its_detail() -> None:
    assert str(unreadable("it is a picture")) == "audio_unreadable: it is a picture"
