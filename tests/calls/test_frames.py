import struct

import numpy as np
import pytest

from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.flac import _as_utf8, _crc8
from msmtfn.calls.frames import AMR, MP3, skip_id3, survey_adts, survey_amr, survey_mp3
from msmtfn.errors import CallError, RejectCode
from tests.rubbish.damage import base, frame_offsets

ID3_TAG = b"ID3\x04\x00\x00" + bytes([0, 0, 1, 2]) + bytes(130)  # 7 bits a byte: 1 * 128 + 2
PLAIN_MP3 = "av.plain.mp3"  # without a Xing header


def decode(data: bytes) -> Recording:
    return decode_recording(data, sample_rate=8000, config=AudioConfig())


def reject(data: bytes) -> str:
    """Return the detail of the reject."""
    with pytest.raises(CallError) as caught:
        decode(data)
    assert caught.value.code is RejectCode.AUDIO_UNREADABLE
    return caught.value.detail


def with_xing_frames(data: bytes, num_frames: int) -> bytes:
    place = max(data.find(b"Xing"), data.find(b"Info")) + 8
    return data[:place] + struct.pack(">I", num_frames) + data[place + 4 :]


@pytest.mark.parametrize("name", ["mp3", "av.mp3", "av.44.mp3", PLAIN_MP3])
def test_the_frames_of_an_mp3_last_as_long_as_the_recording(name: str) -> None:
    layout = survey_mp3(memoryview(base(name)))
    assert layout.duration_sec == pytest.approx(6.0, abs=0.1)
    assert layout.patches == {}


def test_the_frames_of_an_aac_and_an_amr_last_as_long_as_the_recording() -> None:
    assert survey_adts(memoryview(base("av.aac"))).duration_sec == pytest.approx(6.0, abs=0.1)
    assert survey_amr(memoryview(base("av.amr"))).duration_sec == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize("name", ["mp3", PLAIN_MP3, "av.aac"])
def test_a_hole_in_a_chain_of_frames_is_unreadable(name: str) -> None:
    data = base(name)
    third = len(data) // 3
    assert "has a hole after" in reject(data[:third] + data[third + 1001 :])


def test_lost_bytes_in_an_amr_are_unreadable() -> None:
    data = base("av.amr")
    header = list(frame_offsets(data, AMR))[100]
    assert "after 100 frames are no frames" in reject(data[:header] + b"\x83" + data[header + 1 :])


@pytest.mark.parametrize("name", [PLAIN_MP3, "av.aac"])
@pytest.mark.parametrize(("rate", "channels"), [(24_000, 1), (16_000, 2)])
def test_a_recording_that_changes_its_format_is_unreadable(name: str, rate: int, channels: int) -> None:
    changed = base(name) + base(name, rate=rate, channels=channels)
    assert "changes its sample rate or its number of channels after 6.1 s" in reject(changed)


@pytest.mark.parametrize("name", ["mp3", "av.mp3"])
def test_two_mp3s_in_one_file_are_unreadable_if_the_first_knows_its_length(name: str) -> None:
    assert "holds more than one recording" in reject(base(name) + base(name, seed=1))


@pytest.mark.parametrize("name", [PLAIN_MP3, "av.aac"])
def test_two_recordings_that_do_not_know_their_lengths_are_heard_as_one(name: str) -> None:
    assert decode(base(name) + base(name, seed=1)).duration_sec == pytest.approx(12.0, abs=0.3)


@pytest.mark.parametrize("num_frames", [20, 100_000])
def test_an_mp3_of_another_length_than_its_header_promises_is_unreadable(num_frames: int) -> None:
    assert f"promises {num_frames} frames" in reject(with_xing_frames(base("av.mp3"), num_frames))


def test_an_mp3_whose_encoder_could_not_write_its_length_is_read_to_its_end() -> None:
    data = base("av.mp3")
    assert decode(with_xing_frames(data, 0)).num_samples == decode(data).num_samples


def test_an_mp3_that_ends_within_a_frame_is_unreadable() -> None:
    assert "cut short: its last frame promises" in reject(base(PLAIN_MP3)[:-10])


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), bytes(5000), b"APETAGEX" + bytes(40)])
def test_what_follows_the_last_frame_of_an_mp3_is_not_heard(tail: bytes) -> None:
    data = base(PLAIN_MP3)
    assert survey_mp3(memoryview(data + tail)).end == len(data)


def test_a_tag_between_two_mp3s_is_skipped() -> None:
    data = base(PLAIN_MP3)
    assert survey_mp3(memoryview(data + ID3_TAG + data)).duration_sec == pytest.approx(12.0, abs=0.2)


def test_several_id3_tags_are_skipped() -> None:
    assert skip_id3(memoryview(2 * ID3_TAG + b"rest")) == 2 * len(ID3_TAG)


def test_one_lost_frame_is_forgiven() -> None:
    data = base(PLAIN_MP3)
    offsets = list(frame_offsets(data, MP3))
    lost = data[: offsets[40]] + data[offsets[41] :]
    assert decode(lost).duration_sec == pytest.approx(6.0, abs=0.1)


# ---- FLAC


def with_flac_samples(data: bytes, num_samples: int) -> bytes:
    return data[:22] + struct.pack(">I", num_samples) + data[26:]


@pytest.mark.parametrize("name", ["flac", "av.flac"])
@pytest.mark.parametrize("promised", [1, 4096, 4608, 20_000, 47_999])
def test_a_flac_that_promises_less_than_there_is_is_unreadable(name: str, promised: int) -> None:
    assert f"holds more than the {promised} samples" in reject(with_flac_samples(base(name), promised))


@pytest.mark.parametrize("name", ["flac", "av.flac"])
@pytest.mark.parametrize("second", [0, 1])
def test_two_flacs_in_one_file_are_unreadable(name: str, second: int) -> None:
    assert "several recordings" in reject(base(name) + base(name, seed=second))


@pytest.mark.parametrize("tail", [b"TAG" + bytes(125), bytes(100_000), b"\xff\xf8" * 1000])
def test_what_follows_the_last_frame_of_a_flac_is_not_heard(tail: bytes) -> None:
    assert decode(ID3_TAG + base("flac") + tail).num_samples == 48_000


@pytest.mark.parametrize("number", [0, 127, 128, 0x7FF, 0x800, 0xFFFF, 0x10_0000])
def test_frame_numbers_are_coded_as_characters_are(number: int) -> None:
    assert _as_utf8(number) == chr(number).encode()


def test_random_bytes_with_a_number_and_a_checksum_are_no_frame_of_the_flac() -> None:
    rng = np.random.default_rng(0)
    base_flac = base("flac")
    number = _as_utf8(48_000 // int.from_bytes(base_flac[8:10], "big"))
    headers = [b"\xff\xf8" + rng.bytes(2) + number for _ in range(50)]
    # Size and rate codes that need further bytes are cleared, so that the checksum stands where a parser looks for it.
    headers = [header[:2] + bytes([header[2] & 0x7B | 0x80]) + header[3:] for header in headers]
    tail = b"".join(header + bytes([_crc8(header)]) + rng.bytes(20) for header in headers)
    assert decode(base_flac + tail).num_samples == 48_000


# ---- limits of the walk


@pytest.mark.parametrize("name", ["mp3", PLAIN_MP3, "av.aac", "av.amr", "av.opus"])
def test_the_walk_ends_where_the_recording_is_too_long(name: str) -> None:
    with pytest.raises(CallError) as caught:  # a walk to the end would find that it is cut short
        decode_recording(base(name)[:-10], sample_rate=8000, config=AudioConfig(max_duration_sec=3.0))
    assert (caught.value.code, caught.value.detail) == (
        RejectCode.AUDIO_TOO_LONG,
        "the recording is too long; the limit is 3 s",
    )


def test_endless_id3_tags_are_not_skipped() -> None:
    assert skip_id3(memoryview(1000 * (b"ID3\x04\x00\x00" + bytes(4)))) == 100 * 10


def test_endless_bytes_that_look_like_frames_are_unreadable() -> None:
    header = b"\xff\xf3\x4a\xc0"  # 16 kHz, 32 kbit/s, padded: 145 bytes, where no other header stands
    assert "100000 places after its last frame look like frames" in reject(base(PLAIN_MP3) + 150_000 * header)
