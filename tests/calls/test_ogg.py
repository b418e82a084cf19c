import io
import time

import numpy as np
import pytest
import soundfile as sf

from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.ogg import survey_ogg, with_checksum
from msmtfn.errors import CallError, RejectCode
from tests.rubbish.damage import PAGES_OF_A_PACKET, base, ogg_pages, renumber, with_serial

ONE_SEC = AudioConfig(max_duration_sec=1.0)
CODECS = ["vorbis.ogg", "opus.ogg", "av.opus"]


def decode(data: bytes) -> Recording:
    return decode_recording(data, sample_rate=8000, config=AudioConfig())


def reject(data: bytes) -> str:
    """Return the detail of the reject."""
    with pytest.raises(CallError) as caught:
        decode(data)
    assert caught.value.code is RejectCode.AUDIO_UNREADABLE
    return caught.value.detail


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("channels", [1, 2])
def test_the_packets_of_an_ogg_last_as_long_as_the_recording(name: str, channels: int) -> None:
    layout = survey_ogg(memoryview(base(name, channels=channels)))
    assert layout.duration_sec == pytest.approx(6.0, abs=0.05)
    assert layout.patches == {}


def test_a_vorbis_of_short_and_long_blocks_lasts_as_long_as_the_recording() -> None:
    clicks = np.zeros((160_000, 1), np.float32)
    clicks[::3000] = 0.9
    file = io.BytesIO()
    sf.write(file, clicks, 16_000, format="OGG", subtype="VORBIS")
    assert survey_ogg(memoryview(file.getvalue())).duration_sec == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("name", CODECS)
def test_a_missing_end_flag_is_forgiven(name: str) -> None:
    data = base(name)
    *pages, last = ogg_pages(data)
    open_ended = b"".join([*pages, with_checksum(last[:5] + bytes([last[5] & ~4]) + last[6:])])
    np.testing.assert_array_equal(decode(open_ended).channels, decode(data).channels)


def test_an_ogg_truncated_within_a_page_is_unreadable() -> None:
    assert "its last page promises" in reject(base("vorbis.ogg")[:-10])


def test_a_packet_that_was_lost_on_the_network_is_forgiven() -> None:
    pages = ogg_pages(base(PAGES_OF_A_PACKET))
    lost = renumber(pages[:100] + pages[101:])
    assert decode(b"".join(lost)).duration_sec == pytest.approx(6.0, abs=0.05)


def test_a_page_that_is_missing_in_the_file_is_forgiven() -> None:
    pages = ogg_pages(base(PAGES_OF_A_PACKET))
    assert decode(b"".join(pages[:100] + pages[101:])).duration_sec == pytest.approx(6.0, abs=0.05)


def test_many_missing_pages_are_a_hole() -> None:
    pages = ogg_pages(base(PAGES_OF_A_PACKET))
    assert "pages with 1.0 s are missing" in reject(b"".join(pages[:100] + pages[150:]))


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1), (1, 1)])
@pytest.mark.parametrize("name", CODECS)
def test_a_chained_ogg_is_unreadable_in_any_order_of_serials(name: str, first: int, second: int) -> None:
    pages = ogg_pages(base(name))
    assert "several streams" in reject(b"".join(with_serial(pages, first) + with_serial(pages, second)))


def test_an_ogg_whose_position_promises_less_than_its_packets_is_unreadable() -> None:
    *pages, last = ogg_pages(base(PAGES_OF_A_PACKET))
    early = with_checksum(last[:6] + (48_000).to_bytes(8, "little") + last[14:])
    assert "decoding ends after" in reject(b"".join([*pages, early]))


@pytest.mark.parametrize("name", CODECS)
def test_bytes_after_the_last_page_are_not_heard(name: str) -> None:
    data = base(name)
    assert survey_ogg(memoryview(data + b"TAG" + bytes(125))).end == len(data)


# ---- packets that are continued on further pages


def page(flags: int, sequence: int, body: bytes, *, ends: bool) -> bytes:
    """One page of the stream of `PAGES_OF_A_PACKET` with a part of a packet: its rest, or 255 bytes of it."""
    first = ogg_pages(base(PAGES_OF_A_PACKET))[0]
    assert len(body) == 255 or (ends and len(body) < 255)
    head = b"OggS\0" + bytes([flags]) + bytes([255] * 8) + first[14:18] + sequence.to_bytes(4, "little") + bytes(4)
    return with_checksum(head + bytes([1, len(body)]) + body)


CONTINUED = 1
SILK_60_MS = bytes([3 << 3]) * 255  # each byte is the beginning of an Opus packet of 60 ms


@pytest.mark.parametrize("begins", [False, True])
def test_the_rest_of_a_packet_whose_page_is_lost_does_not_count_on_any_page(begins: bool) -> None:
    pages = ogg_pages(base(PAGES_OF_A_PACKET))[:100]
    begun = [page(0, 100, SILK_60_MS, ends=False)] if begins else []
    rest = [page(CONTINUED, 102, SILK_60_MS, ends=False), page(CONTINUED, 103, SILK_60_MS[:9], ends=True)]
    expected = survey_ogg(memoryview(b"".join(pages))).duration_sec
    assert survey_ogg(memoryview(b"".join([*pages, *begun, *rest]))).duration_sec == expected


def test_a_packet_on_three_pages_counts_once() -> None:
    pages = ogg_pages(base(PAGES_OF_A_PACKET))[:100]
    parts = [page(0, 100, SILK_60_MS, ends=False), page(CONTINUED, 101, SILK_60_MS, ends=False)]
    parts.append(page(CONTINUED, 102, SILK_60_MS[:9], ends=True))
    before, after = (survey_ogg(memoryview(b"".join(each))).duration_sec for each in (pages, pages + parts))
    assert before is not None
    assert after == pytest.approx(before + 0.06)


def test_a_packet_on_many_pages_is_not_copied_for_each_of_them() -> None:
    pages = ogg_pages(base(PAGES_OF_A_PACKET))[:100]
    part = page(CONTINUED, 0, SILK_60_MS, ends=False)
    parts = [part[:18] + number.to_bytes(4, "little") + part[22:] for number in range(101, 15_000)]
    data = memoryview(b"".join([*pages, page(0, 100, SILK_60_MS, ends=False), *parts]))
    started = time.process_time()
    survey_ogg(data)
    assert time.process_time() - started < 1.0  # 28 GB of copies take many times that


def test_endless_pages_without_packets_are_unreadable() -> None:
    pages = ogg_pages(base(PAGES_OF_A_PACKET))
    with pytest.raises(CallError, match="pages and packets, more than its maximum length allows"):
        decode_recording(b"".join([*pages[:3], *12_000 * [pages[3][:26] + b"\0"]]), sample_rate=8000, config=ONE_SEC)
