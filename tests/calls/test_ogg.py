import io

import numpy as np
import pytest
import soundfile as sf

from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.ogg import survey_ogg, with_checksum
from msmtfn.errors import CallError, RejectCode
from tests.rubbish.damage import PAGES_OF_A_PACKET, base, ogg_pages, renumber, with_serial

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
