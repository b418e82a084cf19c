import io
import struct

import numpy as np
import pytest
import soundfile as sf

from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.layout import Layout
from msmtfn.calls.wav import survey_wav
from msmtfn.errors import CallError, RejectCode

HEADER_BYTES = 44
RATE = 8000
LIST = b"LIST" + struct.pack("<I", 4) + b"INFO"


def encode(container: str = "WAV", subtype: str = "PCM_16", num_samples: int = 2 * RATE) -> bytes:
    """Noise at 8 kHz."""
    samples = 0.1 * np.random.default_rng(0).standard_normal(num_samples, dtype=np.float32)
    file = io.BytesIO()
    sf.write(file, samples, RATE, format=container, subtype=subtype)
    return file.getvalue()


def alaw(samples: bytes, size: int) -> bytes:
    """An A-law WAV of these bytes, whose data chunk promises `size` bytes."""
    form = struct.pack("<HHIIHHH", 6, 1, RATE, RATE, 1, 8, 0)
    chunks = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size)
    return b"RIFF" + struct.pack("<I", len(chunks) + len(samples)) + chunks + samples


def with_size(data: bytes, size: int) -> bytes:
    return data[: HEADER_BYTES - 4] + struct.pack("<I", size) + data[HEADER_BYTES:]


def with_w64_size(data: bytes, size: int) -> bytes:
    place = data.index(b"data\xf3\xac") + 16
    return data[:place] + struct.pack("<Q", size) + data[place + 8 :]


def with_rf64_size(data: bytes, size: int) -> bytes:
    place = data.index(b"ds64") + 16
    return data[:place] + struct.pack("<Q", size) + data[place + 8 :]


def survey(data: bytes) -> Layout:
    return survey_wav(memoryview(data))


def decode(data: bytes) -> Recording:
    return decode_recording(data, sample_rate=RATE, config=AudioConfig())


def reject(data: bytes) -> str:
    """Return the detail of the reject."""
    with pytest.raises(CallError) as caught:
        decode(data)
    assert caught.value.code is RejectCode.AUDIO_UNREADABLE
    return caught.value.detail


def test_a_whole_wav_is_left_as_it_is() -> None:
    data = encode()
    assert survey(data) == Layout(end=len(data), duration_sec=2.0)


def test_the_detail_of_a_truncated_wav_names_both_sizes() -> None:
    assert "promises 32000 bytes of samples, 10000 are there" in reject(encode()[: HEADER_BYTES + 10_000])


@pytest.mark.parametrize("counted", [44, 36])
def test_a_data_size_that_counts_the_header_is_forgiven(counted: int) -> None:
    assert decode(with_size(encode(), 4 * RATE + counted)).num_samples == 2 * RATE


def test_a_wav_without_a_data_chunk_is_unreadable() -> None:
    assert "no data chunk" in reject(encode()[:36])


@pytest.mark.parametrize("container", ["RF64", "W64"])
def test_the_64_bit_size_of_a_long_wav_is_used(container: str) -> None:
    data = encode(container)
    assert decode(data).num_samples == 2 * RATE
    assert "cut short" in reject(data[: len(data) - 100])


@pytest.mark.parametrize("promised", [0, 1600, 0xFFFF_FFFF])
def test_a_wav_whose_header_promises_less_than_there_is_is_read_to_its_end(promised: int) -> None:
    whole = decode(encode())
    np.testing.assert_array_equal(decode(with_size(encode(), promised)).channels, whole.channels)


@pytest.mark.parametrize("promised", [0, 1600, 2**64 - 1])
def test_a_long_wav_whose_header_promises_less_is_read_to_its_end(promised: int) -> None:
    assert decode(with_rf64_size(encode("RF64"), promised)).num_samples == 2 * RATE
    assert decode(with_w64_size(encode("W64"), promised)).num_samples == 2 * RATE


def test_a_big_endian_wav_whose_header_promises_less_is_read_to_its_end() -> None:
    file = io.BytesIO()
    sf.write(file, np.full(RATE, 0.5), RATE, format="WAV", subtype="PCM_16", endian="BIG")
    data = file.getvalue()
    assert data.startswith(b"RIFX")
    place = data.index(b"data") + 4
    assert decode(data[:place] + bytes(4) + data[place + 4 :]).channels[0, -1] == pytest.approx(0.5, abs=1e-4)


def test_a_bw64_is_read_as_the_rf64_that_it_is() -> None:
    assert decode(b"BW64" + encode("RF64")[4:]).num_samples == 2 * RATE


@pytest.mark.parametrize("idle", [b"\x55", b"\xd5", b"data", b"LIST", b"    "])
def test_an_idle_pattern_that_looks_like_a_chunk_is_samples(idle: bytes) -> None:
    samples = (idle * RATE)[:RATE] + bytes(range(256)) * 32
    assert decode(alaw(samples, 0)).num_samples == len(samples)


def test_chunks_after_the_samples_are_not_samples() -> None:
    assert decode(encode() + LIST + LIST).num_samples == 2 * RATE


def test_an_empty_wav_with_a_chunk_behind_stays_empty() -> None:
    with pytest.raises(CallError) as caught:
        decode(encode(num_samples=0) + LIST)
    assert caught.value.code is RejectCode.AUDIO_EMPTY


@pytest.mark.parametrize("junk", [b"TAG" + bytes(range(125)), bytes(100), bytes(5000), LIST[:-2], b"\xff" * 99])
def test_junk_after_the_samples_is_not_heard(junk: bytes) -> None:
    assert decode(encode() + junk).num_samples == 2 * RATE


@pytest.mark.parametrize("size", [0, 16_000, 32_000, 0xFFFF_FFFF])
def test_two_wavs_in_one_file_are_unreadable(size: int) -> None:
    assert "several recordings" in reject(with_size(encode(), size) + encode())


def test_two_data_chunks_are_unreadable() -> None:
    assert "several recordings" in reject(encode() + b"data" + struct.pack("<I", 4) + bytes(4))


@pytest.mark.parametrize("subtype", ["ULAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"])
@pytest.mark.parametrize("promised", [0, 130, 0xFFFF_FFFF])
def test_a_compressed_wav_whose_header_promises_less_is_read_to_its_end(subtype: str, promised: int) -> None:
    data = encode("WAV", subtype)
    place = data.index(b"data") + 4
    changed = data[:place] + struct.pack("<I", promised) + data[place + 4 :]
    np.testing.assert_array_equal(decode(changed).channels, decode(data).channels)


@pytest.mark.parametrize("scale", [1.0, 32_768.0, 2.0**23, 2.0**31])
def test_float_samples_in_the_scale_of_integers_are_normalised(scale: float) -> None:
    samples = 0.5 * np.sin(np.arange(RATE, dtype=np.float64) / 3)
    file = io.BytesIO()
    sf.write(file, samples * scale, RATE, format="WAV", subtype="FLOAT")
    np.testing.assert_allclose(decode(file.getvalue()).channels[0], samples, atol=1e-4)


def test_float_samples_of_no_known_scale_are_unreadable() -> None:
    file = io.BytesIO()
    sf.write(file, np.full(RATE, 1e12), RATE, format="WAV", subtype="FLOAT")
    assert "reach 1e+12" in reject(file.getvalue())


def test_a_little_overdriven_float_samples_are_left_as_they_are() -> None:
    file = io.BytesIO()
    sf.write(file, np.full(RATE, 3.0), RATE, format="WAV", subtype="FLOAT")
    assert decode(file.getvalue()).channels.max() == 3.0
