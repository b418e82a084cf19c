from __future__ import annotations

import os
from pathlib import Path

import pytest

from msmtfn.errors import StorageError
from msmtfn.storage.untrusted import LinkError, inside, parse_object, printable, read_object, read_text


def test_a_place_without_links_is_inside_whether_it_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "day").mkdir()
    assert inside(str(tmp_path), "day") == str(tmp_path / "day")
    assert inside(str(tmp_path), "day", "new") == str(tmp_path / "day" / "new")
    assert inside("s3://bucket/leads", "day") == "s3://bucket/leads/day"


def test_the_root_itself_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "real" / "day").mkdir(parents=True)
    (tmp_path / "root").symlink_to("real")
    assert inside(str(tmp_path / "root"), "day") == str(tmp_path / "root" / "day")
    assert inside(f"file://{tmp_path}/root/", "day") == f"file://{tmp_path}/root/day"


@pytest.mark.parametrize("target", ["../outside", "other", "missing", "day"])
def test_a_link_below_the_root_is_refused_wherever_it_leads(tmp_path: Path, target: str) -> None:
    for name in ("outside", "root/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root" / "day").symlink_to(target)
    for names in (["day"], ["day", "file"]):
        with pytest.raises(LinkError, match="is a symbolic link, and no link below"):
            inside(str(tmp_path / "root"), *names)


def test_a_text_is_read_and_one_that_is_not_there_is_none(place: str, tmp_path: Path) -> None:
    assert read_text(f"{place}/missing") is None
    (tmp_path / "text").write_text("é")
    assert read_text(str(tmp_path / "text")) == "é"


def test_what_is_no_small_text_file_is_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 100)
    (tmp_path / "bytes").write_bytes(b"\xff")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("large")
    (tmp_path / "dangling").symlink_to("missing")
    os.mkfifo(tmp_path / "pipe")
    for name in ("large", "bytes", "folder", "link", "dangling", "pipe"):
        with pytest.raises(StorageError, match=rf"{name} (cannot be read: [^\n]+; check|is not UTF-8 text)"):
            read_text(str(tmp_path / name), max_bytes=99)


def test_only_an_object_is_parsed() -> None:
    assert parse_object('{"a": 1}') == {"a": 1}
    for text in ("", "[]", "null", "[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(ValueError, match=r".+"):
            parse_object(text)


def test_an_object_is_read_from_a_regular_file_of_bounded_size(tmp_path: Path) -> None:
    (tmp_path / "object").write_text('{"a": "é"}', encoding="utf-8")
    (tmp_path / "link").symlink_to("object")
    os.mkfifo(tmp_path / "pipe")
    assert read_object(tmp_path / "object") == read_object(tmp_path / "link") == {"a": "é"}
    with pytest.raises(ValueError, match="object has 11 bytes; at most 10 are read"):
        read_object(tmp_path / "object", max_bytes=10)
    with pytest.raises(OSError, match="pipe is not a regular file"):
        read_object(tmp_path / "pipe")


def test_control_characters_of_others_are_shown_escaped() -> None:
    assert printable("a\x1b[31m\nb\N{RIGHT-TO-LEFT OVERRIDE}é") == "a\\x1b[31m\\nb\\u202eé"
    assert printable("x" * 200) == "x" * 80 + "…"
