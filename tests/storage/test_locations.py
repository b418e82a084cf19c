"""Locations: which are local, which on S3, and where they lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from msmtfn import storage
from msmtfn.errors import UsageError


@pytest.mark.parametrize(
    ("location", "protocol"), [("/a", "file"), ("a", "file"), ("file:///a", "file"), ("s3://b", "s3")]
)
def test_a_location_is_local_or_on_s3(location: str, protocol: str) -> None:
    assert storage.protocol_of(location) == protocol


@pytest.mark.parametrize("location", ["gs://bucket/a", "http://host/a", "S3://bucket/a", "://a"])
def test_an_unknown_scheme_is_wrong_usage_and_the_message_names_those_known(location: str) -> None:
    with pytest.raises(UsageError, match=r"use a path, file:// or s3://"):
        storage.read_text(location)


@pytest.mark.parametrize(
    "location",
    ["s3://user:tiger@bucket/a", "s3://user:ti/ger@bucket/a", "s3://user@bucket", "https://user:ti/ger@host/a"],
)
def test_a_password_in_a_location_is_refused_and_not_repeated(location: str) -> None:
    with pytest.raises(UsageError) as refused:
        storage.absolute(location)
    assert not any(part in str(refused.value) for part in ("tiger", "ti/ger", "ger@", "user:"))


@pytest.mark.parametrize("location", ["s3://bucket/a@b:c", "s3://arn:aws:s3:eu-1:1:accesspoint/a", "/user:word@host"])
def test_other_locations_may_hold_an_at_sign_or_a_colon(location: str) -> None:
    assert storage.absolute(location) == location


def test_a_relative_path_is_not_absolute_and_an_address_is() -> None:
    absolute = [name for name in ("a/b", "../a", "/a", "file:///a", "s3://b/a") if storage.is_absolute(name)]
    assert absolute == ["/a", "file:///a", "s3://b/a"]


def test_a_relative_path_is_made_absolute_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert storage.absolute("calls/today") == f"{tmp_path}/calls/today"


def test_an_address_is_absolute_and_loses_its_last_slash() -> None:
    assert (storage.absolute("file:///a/b/"), storage.absolute("s3://b/a/")) == ("/a/b", "s3://b/a")


@pytest.mark.parametrize(
    ("location", "place"),
    [
        ("s3://b/calls/../other/a", "s3://b/other/a"),
        ("s3://b/calls/./a", "s3://b/calls/a"),
        ("s3://b/../../c/a", "s3://b/c/a"),
        ("s3://b/calls//a", "s3://b/calls//a"),  # another key than calls/a
        ("s3://b/a..b/...", "s3://b/a..b/..."),
        ("s3://b", "s3://b"),
        ("/nowhere/../a", "/a"),
        ("file:///nowhere/./a", "/nowhere/a"),
    ],
)
def test_a_location_is_resolved_to_where_it_leads(location: str, place: str) -> None:
    assert storage.resolve(location) == place


@pytest.mark.parametrize(
    ("location", "folder", "within"),
    [
        ("s3://b/calls/a", "s3://b/calls", True),
        ("s3://b/calls/a", "s3://b/calls/", True),
        ("s3://b/calls", "s3://b/calls", True),
        ("s3://b/calls-evil/a", "s3://b/calls", False),
        ("s3://b2/a", "s3://b", False),
        ("/a", "/", True),
        ("/b/s3:/b/a", "s3://b", False),
    ],
)
def test_a_place_is_within_a_folder_by_whole_names(location: str, folder: str, within: bool) -> None:
    assert storage.is_within(location, folder) is within


def test_places_are_joined_with_slashes() -> None:
    assert storage.join("s3://b/a", "c", "d.txt") == "s3://b/a/c/d.txt"
    assert storage.join("/a", "c") == "/a/c"
