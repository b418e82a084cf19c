import io
import math
import struct
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st

from msmtfn.calls import audio
from msmtfn.calls.audio import AudioConfig, Recording, Waveform, choose_ratio, decode_recording
from msmtfn.errors import CallError, RejectCode

LOSSLESS = [("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE")]
LOSSLESS += [("WAVEX", "PCM_16"), ("RF64", "PCM_16"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]
LOSSY = [("WAV", "PCM_U8"), ("WAV", "ALAW"), ("WAV", "ULAW"), ("WAV", "IMA_ADPCM")]
LOSSY += [("WAV", "MS_ADPCM"), ("MP3", "MPEG_LAYER_III"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
CONTAINERS = [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
WAV_HEADER_BYTES = 44


def tone(rate: int = 8000, channels: int = 1, duration_sec: float = 1.0) -> Waveform:
    """(S, C): 440 Hz of amplitude 0.5 in channel 0, 880 Hz of amplitude 0.25 in channel 1."""
    seconds = np.arange(round(rate * duration_sec)) / rate
    both = [0.5 * np.sin(2 * np.pi * 440 * seconds), 0.25 * np.sin(2 * np.pi * 880 * seconds)]
    return np.stack(both[:channels], axis=1).astype(np.float32)


def encode(container: str, subtype: str, samples: Waveform, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    sf.write(file, samples, rate, format=container, subtype=subtype)
    return file.getvalue()


def decode(data: bytes, sample_rate: int = 8000, **limits: float) -> Recording:
    return decode_recording(data, sample_rate=sample_rate, config=AudioConfig(**limits))  # type: ignore[arg-type]


def reject(data: bytes, sample_rate: int = 8000, **limits: float) -> CallError:
    with pytest.raises(CallError) as caught:
        decode(data, sample_rate, **limits)
    return caught.value


def amplitude(samples: Waveform, rate: int, frequency: float) -> float:
    """Amplitude of one frequency in the middle half, away from the codecs' edge effects."""
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4]
    phases = np.exp(-2j * np.pi * frequency * np.arange(len(middle)) / rate)
    return float(2 * abs(np.mean(middle * phases)))


def with_wav_size(data: bytes, size: int) -> bytes:
    return data[: WAV_HEADER_BYTES - 4] + struct.pack("<I", size) + data[WAV_HEADER_BYTES:]


def with_flac_frames(data: bytes, num_frames: int) -> bytes:
    """Set the number of frames, the last 36 bits of STREAMINFO before its checksum."""
    return data[:21] + bytes([data[21] & 0xF0 | num_frames >> 32]) + struct.pack(">I", num_frames % 2**32) + data[26:]


@pytest.mark.parametrize(("container", "subtype"), LOSSLESS)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_lossless_file_decodes_to_its_samples(container: str, subtype: str, channels: int) -> None:
    samples = tone(channels=channels)
    recording = decode(encode(container, subtype, samples))
    assert recording.channels.dtype == np.float32
    assert recording.channels.flags.c_contiguous
    np.testing.assert_allclose(recording.channels, samples.T, atol=1 / 32768)


@pytest.mark.parametrize(
    ("container", "subtype", "channels"),
    [("WAV", "GSM610", 1), *[(*codec, channels) for codec in LOSSY for channels in (1, 2)]],
)
def test_a_lossy_file_keeps_the_tone_of_each_channel(container: str, subtype: str, channels: int) -> None:
    recording = decode(encode(container, subtype, tone(channels=channels)))
    assert recording.duration_sec == pytest.approx(1.0, abs=0.065)  # a block of ADPCM is 63 ms
    for channel, (frequency, expected) in zip(recording.channels, [(440, 0.5), (880, 0.25)], strict=False):
        assert amplitude(channel, 8000, frequency) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("sample_rate", [8000, 16000])
@pytest.mark.parametrize("rate", [6000, 8000, 8012, 11025, 16000, 22050, 44100, 44101, 48000, 96000])
def test_resampling_keeps_frequency_amplitude_and_duration(rate: int, sample_rate: int) -> None:
    recording = decode(encode("WAV", "FLOAT", tone(rate, 2), rate), sample_rate)
    assert recording.sample_rate == sample_rate
    assert recording.num_samples == pytest.approx(sample_rate, abs=2)
    assert amplitude(recording.channels[0], sample_rate, 440) == pytest.approx(0.5, rel=0.01)
    assert amplitude(recording.channels[1], sample_rate, 880) == pytest.approx(0.25, rel=0.01)


def test_resampling_removes_frequencies_above_the_new_nyquist_limit() -> None:
    seconds = np.arange(48000) / 48000
    high = np.sin(2 * np.pi * 7000 * seconds, dtype=np.float32)[:, None]
    recording = decode(encode("WAV", "FLOAT", high, 48000), 8000)
    assert amplitude(recording.channels[0], 8000, 1000) < 0.01  # the alias of 7 kHz


@pytest.mark.parametrize("rate", [8000, 11025, 44100])
def test_decoding_in_small_blocks_gives_the_same_samples_as_one_block(
    rate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode("FLAC", "PCM_16", tone(rate, 2), rate)
    whole = decode(data)
    monkeypatch.setattr(audio, "BLOCK_FRAMES", 4099)
    np.testing.assert_allclose(decode(data).channels, whole.channels, atol=1e-6)


@pytest.mark.parametrize("sample_rate", [8000, 16000])
def test_every_rate_is_met_within_one_part_in_4000_with_a_small_kernel(sample_rate: int) -> None:
    for rate in [*range(1000, 384_000, 37), 15993, 16004, 31996, 44101]:
        ratio = choose_ratio(rate, sample_rate)
        assert abs(float(ratio) * rate / sample_rate - 1) < 1 / 4000
        assert ratio.numerator * ratio.denominator <= 2**22


@pytest.mark.parametrize("rate", [8012, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 96000])
def test_a_common_rate_is_met_exactly(rate: int) -> None:
    assert choose_ratio(rate, 8000) == Fraction(8000, rate)


def test_mono_is_the_mean_of_two_channels() -> None:
    recording = Recording(np.array([[1.0, 0.0], [0.5, -0.5]], dtype=np.float32), 8000)
    assert recording.mono().tolist() == [0.75, -0.25]
    assert recording.mono().dtype == np.float32


def test_mono_of_one_channel_is_not_copied() -> None:
    recording = Recording(np.zeros((1, 8), dtype=np.float32), 8000)
    assert np.shares_memory(recording.mono(), recording.channels)
    assert (recording.num_samples, recording.duration_sec) == (8, 0.001)


@pytest.mark.parametrize("wrap", [bytearray, memoryview, pa.py_buffer])
def test_every_kind_of_byte_buffer_is_read(wrap: type) -> None:
    data = wrap(encode("WAV", "PCM_16", tone()))
    assert decode(data).num_samples == 8000


def test_a_file_without_bytes_is_empty() -> None:
    assert reject(b"").code is RejectCode.AUDIO_EMPTY


@pytest.mark.parametrize("container", ["WAV", "RF64", "OGG"])
def test_a_header_without_samples_is_empty(container: str) -> None:
    subtype = "VORBIS" if container == "OGG" else "PCM_16"
    assert reject(encode(container, subtype, tone(duration_sec=0))).code is RejectCode.AUDIO_EMPTY


def test_an_empty_wav_followed_by_a_list_chunk_is_empty() -> None:
    header = encode("WAV", "PCM_16", tone(duration_sec=0))
    assert reject(header + b"LIST" + struct.pack("<I", 4) + b"INFO").code is RejectCode.AUDIO_EMPTY


def test_three_channels_are_unreadable() -> None:
    error = reject(encode("WAV", "PCM_16", np.zeros((800, 3), dtype=np.float32)))
    assert error.code is RejectCode.AUDIO_UNREADABLE
    assert "3 channels" in error.detail


@pytest.mark.parametrize("rate", [999, 384_001])
def test_a_nonsensical_rate_is_unreadable(rate: int) -> None:
    error = reject(encode("WAV", "PCM_16", tone(), rate))
    assert error.code is RejectCode.AUDIO_UNREADABLE
    assert f"{rate} Hz" in error.detail


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_samples_that_are_not_finite_are_unreadable(value: float) -> None:
    samples = tone()
    samples[4000] = value
    assert reject(encode("WAV", "FLOAT", samples)).code is RejectCode.AUDIO_UNREADABLE


@pytest.mark.parametrize("scale", [1.0, 2.0**15])
def test_a_glitch_in_float_samples_is_clipped_and_leaves_the_scale_of_the_others(scale: float) -> None:
    samples = tone(duration_sec=2.0)
    samples[800:810] = 40.0
    channel = decode(encode("WAV", "FLOAT", samples * np.float32(scale))).channels[0]
    assert amplitude(channel, 8000, 440) == pytest.approx(0.5, abs=0.001)
    assert np.abs(channel).max() == 1.0


def test_a_loud_second_in_float_samples_of_integers_is_no_glitch() -> None:
    samples = np.random.default_rng(0).integers(-2, 3, (80_000, 1)).astype(np.float32)
    samples[36_000:44_000] += tone() * 20_000
    channel = decode(encode("WAV", "FLOAT", samples)).channels[0]
    assert amplitude(channel[36_000:44_000], 8000, 440) == pytest.approx(10_000 / 2**15, abs=0.001)


def test_the_error_of_a_damaged_file_keeps_its_cause() -> None:
    data = encode("FLAC", "PCM_16", tone())
    assert isinstance(reject(data[: len(data) // 2]).__cause__, sf.LibsndfileError)


@pytest.mark.parametrize(("container", "subtype"), [*CONTAINERS, ("RF64", "PCM_16"), ("WAV", "GSM610")])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_file_is_unreadable(container: str, subtype: str, share: float) -> None:
    data = encode(container, subtype, tone(duration_sec=5))
    error = reject(data[: int(share * len(data))])
    assert error.code is RejectCode.AUDIO_UNREADABLE
    assert "cut short" in error.detail


def test_the_detail_of_a_flac_with_too_long_a_length_names_both_lengths() -> None:
    data = with_flac_frames(encode("FLAC", "PCM_16", tone()), 9000)
    assert "promises 9000 frames, 8000 are there" in reject(data).detail


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF - 36, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF - 36, 0xFFFF_FFFF])
def test_a_wav_whose_size_a_streaming_writer_left_open_is_read_to_its_end(size: int) -> None:
    samples = tone()
    recording = decode(with_wav_size(encode("WAV", "PCM_16", samples), size))
    np.testing.assert_allclose(recording.channels, samples.T, atol=1 / 32768)


def test_a_flac_of_unknown_length_is_read_to_its_end() -> None:
    data = with_flac_frames(encode("FLAC", "PCM_16", tone(channels=2)), 0)
    assert decode(data).channels.shape == (2, 8000)


def test_an_mp3_of_varying_bit_rate_without_a_length_is_read_to_its_end() -> None:
    samples = tone(duration_sec=20) * np.linspace(0, 1, 160_000, dtype=np.float32)[:, None]
    data = encode("MP3", "MPEG_LAYER_III", samples)
    second_frame = data.index(data[:2], 4)
    assert b"Xing" in data[:second_frame]
    assert decode(data[second_frame:]).duration_sec == pytest.approx(20, abs=0.3)


def test_an_mp3_after_an_id3_tag_is_read() -> None:
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 2]) + bytes(130)  # 7 bits a byte: 1 * 128 + 2
    assert decode(tag + encode("MP3", "MPEG_LAYER_III", tone())).num_samples == 8000


def test_a_file_over_the_byte_limit_is_too_large() -> None:
    data = encode("WAV", "PCM_16", tone())
    assert decode(data, max_file_bytes=len(data)).num_samples == 8000
    assert reject(data, max_file_bytes=len(data) - 1).code is RejectCode.AUDIO_TOO_LARGE


@pytest.mark.parametrize(("container", "subtype"), CONTAINERS)
def test_a_recording_over_the_duration_limit_is_too_long(container: str, subtype: str) -> None:
    data = encode(container, subtype, tone())
    assert decode(data, max_duration_sec=1.0).duration_sec == 1.0
    assert reject(data, max_duration_sec=0.9).code is RejectCode.AUDIO_TOO_LONG


@pytest.mark.parametrize("num_frames", [0, 2**36 - 1, 8000 * 3600])
def test_a_flac_of_hours_is_rejected_before_it_is_held_in_memory(num_frames: int) -> None:
    silence = np.zeros((8000 * 1200, 1), dtype=np.float32)  # 38 MB as float
    data = with_flac_frames(encode("FLAC", "PCM_16", silence), num_frames)
    tracemalloc.start()
    error = reject(data, max_duration_sec=60)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code is RejectCode.AUDIO_TOO_LONG
    assert peak_bytes < 10e6  # about one block of 4 MB


def test_a_tiny_wav_that_claims_an_hour_is_rejected_without_allocating_it() -> None:
    data = with_wav_size(encode("WAV", "PCM_16", tone(duration_sec=0.005)), 16_000 * 3600)
    tracemalloc.start()
    error = reject(data)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code is RejectCode.AUDIO_UNREADABLE
    assert peak_bytes < 1e6


@pytest.mark.parametrize("limits", [{"max_file_bytes": 0}, {"max_duration_sec": 0.0}, {"max_duration_sec": math.nan}])
def test_a_limit_that_is_not_positive_is_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        AudioConfig(**limits)  # type: ignore[arg-type]


def test_a_rate_that_is_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_rate is 0"):
        decode(encode("WAV", "PCM_16", tone()), 0)


VALID = [encode(container, subtype, tone(channels=2, duration_sec=0.3)) for container, subtype in CONTAINERS]


def decode_or_reject(data: bytes) -> None:
    try:
        assert np.isfinite(decode(data, 16000, max_duration_sec=60.0).channels).all()
    except CallError as error:
        assert error.detail  # noqa: PT017  both outcomes are correct, any other exception is not


@settings(max_examples=150, deadline=None)
@given(
    start=st.sampled_from([b"", b"RIFF\xff\xff\xff\xffWAVE", b"fLaC", b"OggS", b"ID3", b"\xff\xfb"]), rest=st.binary()
)
def test_random_bytes_raise_nothing_but_a_call_error(start: bytes, rest: bytes) -> None:
    decode_or_reject(start + rest)


@settings(max_examples=300, deadline=None)
@given(valid=st.sampled_from(VALID), data=st.data())
def test_a_damaged_file_raises_nothing_but_a_call_error(valid: bytes, data: st.DataObject) -> None:
    damaged = bytearray(valid)
    for _ in range(data.draw(st.integers(0, 3))):
        index = data.draw(st.one_of(st.integers(0, 99), st.integers(0, len(valid) - 1)))
        damaged[index] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(valid)), st.integers(0, len(valid))))
    decode_or_reject(bytes(damaged[:end]))


REAL = [
    ("auto_repairs_40.flac", 2, 245),
    ("auto_repairs_mono_u8.wav", 1, 278),
    ("weather_mulaw.wav", 1, 2),
    ("mandarin_short.wav", 1, 2.5),
]


@pytest.mark.parametrize(("name", "channels", "duration_sec"), REAL)
def test_a_real_recording_is_read(recordings: Path, name: str, channels: int, duration_sec: float) -> None:
    recording = decode((recordings / name).read_bytes())
    assert len(recording.channels) == channels
    assert recording.duration_sec == pytest.approx(duration_sec, abs=0.6)
    assert 0.1 < np.abs(recording.mono()).max() <= 1.01


def test_real_headerless_samples_are_unreadable(recordings: Path) -> None:
    error = reject((recordings / "headerless.wav").read_bytes())
    assert error.code is RejectCode.AUDIO_UNREADABLE
