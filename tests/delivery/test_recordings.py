from __future__ import annotations

import pytest

from msmtfn.delivery.recordings import address_of, check_template, scheme_of
from msmtfn.errors import UsageError

HOSTILE = {"call_id": 'a/../b?x=1#y&"><script>', "uri": "s3://calls/2026/录音 1.wav"}


@pytest.mark.parametrize(
    "template",
    [
        "calls/{call_id}",
        "javascript:alert({call_id})",
        "data:audio/wav,{call_id}",
        "https://{call_id}/x",
        "https://calls.example/",
        "https://calls.example/{date}",
        "https://calls.example/{agent}",
        "https://calls.example/{call_id.__class__}",
        "https://calls.example/{call_id",
        "https://calls.example/ {call_id}",
        "https:///{call_id}",
    ],
)
def test_what_is_no_template_of_an_address_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="--recording-url-template"):
        check_template(template)


def test_an_id_decides_no_more_than_its_own_place_in_the_address() -> None:
    template = "https://calls.example/{date}/{call_id}?at={uri}"
    check_template(template)
    assert address_of(template, "2026-03-02", HOSTILE) == (
        "https://calls.example/2026-03-02/a%2F..%2Fb%3Fx%3D1%23y%26%22%3E%3Cscript%3E"
        "?at=s3%3A%2F%2Fcalls%2F2026%2F%E5%BD%95%E9%9F%B3%201.wav"
    )


def test_a_path_keeps_its_slashes_and_a_file_is_its_last_part() -> None:
    template = "http://127.0.0.1:8000/{path}#{file}"
    check_template(template)
    address = "http://127.0.0.1:8000/calls/2026/%E5%BD%95%E9%9F%B3%201.wav#%E5%BD%95%E9%9F%B3%201.wav"
    assert address_of(template, "", HOSTILE) == address


@pytest.mark.parametrize("uri", [None, "", "../secret.wav", "a/../../b.wav"])
def test_a_call_whose_recording_has_no_address_has_none(uri: str | None) -> None:
    assert address_of("https://calls.example/{path}", "", {"call_id": "c1", "uri": uri}) is None


def test_the_policy_names_the_scheme() -> None:
    assert scheme_of("https://calls.example/{call_id}") == "https:"
