import io
import struct
from collections.abc import Callable

import numpy as np
import pytest
import soundfile as sf

from msmtfn.calls.containers import check_ogg_end, check_wav_size, recognise_container, unreadable
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


def test_a_complete_wav_is_returned_without_a_copy() -> None:
    data = encode("WAV", "PCM_16")
    assert check_wav_size(data) is data


def test_the_detail_of_a_truncated_wav_names_both_sizes() -> None:
    data = encode("WAV", "PCM_16")[: WAV_HEADER_BYTES + 10_000]
    assert "promises 16000 bytes of samples, 10000 are there" in reject(check_wav_size, data)


def test_a_wav_without_a_data_chunk_is_unreadable() -> None:
    assert "no data chunk" in reject(check_wav_size, encode("WAV", "PCM_16")[:36])


def test_the_64_bit_size_of_an_rf64_is_used() -> None:
    data = encode("RF64", "PCM_16")
    assert "promises 16000 bytes" in reject(check_wav_size, data[: len(data) - 100])


def test_a_wav_size_of_0_becomes_unknown_and_the_samples_are_kept() -> None:
    data = encode("WAV", "PCM_16")
    opened = check_wav_size(with_wav_size(data, 0))
    assert opened == with_wav_size(data, 0xFFFF_FFFF)


def test_a_wav_size_of_0_is_kept_if_another_chunk_follows() -> None:
    data = memoryview(encode("WAV", "PCM_16", 0).tobytes() + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert check_wav_size(data) is data


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_a_complete_ogg_passes(subtype: str) -> None:
    check_ogg_end(encode("OGG", subtype))


def test_an_ogg_truncated_within_a_page_is_unreadable() -> None:
    data = encode("OGG", "VORBIS")
    assert "its last page promises" in reject(check_ogg_end, data[:-10])


def test_an_ogg_truncated_between_two_pages_is_unreadable() -> None:
    data = encode("OGG", "VORBIS", 160_000).tobytes()
    assert "no page ends the stream" in reject(check_ogg_end, data[: data.rindex(b"OggS")])


def test_an_ogg_with_two_streams_is_unreadable() -> None:
    first = encode("OGG", "OPUS").tobytes()
    serial = bytes(byte ^ 0xFF for byte in first[14:18])
    last = first.rindex(b"OggS")
    other = first[last : last + 14] + serial + first[last + 18 :]
    assert "several streams" in reject(check_ogg_end, first + other)


def test_unreadable_keeps_its_detail() -> None:
    assert str(unreadable("it is a picture")) == "audio_unreadable: it is a picture"
