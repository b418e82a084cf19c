import os
from pathlib import Path

import pytest
import s3fs

from msmtfn.calls.fetch import fetch_recording
from msmtfn.errors import CallError, RejectCode

OUTSIDE = RejectCode.FILE_OUTSIDE_ALLOWED_PREFIXES
SECRET = b"not a recording, and nobody's business"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Root of manifests with a recording, next to folders with similar names."""
    for folder in ("calls", "calls-evil", "allowed", "allowed/deep", "other"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.wav").write_bytes(folder.encode())
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "calls"


def fetch(uri: str, root: Path | str, *prefixes: Path | str, limit: int = 1000) -> bytes:
    return fetch_recording(uri, str(root), [str(prefix) for prefix in prefixes], limit)


def code_of(uri: str, root: Path | str, *prefixes: Path | str, limit: int = 1000) -> RejectCode:
    with pytest.raises(CallError) as caught:
        fetch(uri, root, *prefixes, limit=limit)
    assert "secret" not in caught.value.detail
    return caught.value.code


def test_a_recording_below_the_root_is_read(root: Path) -> None:
    (root / "sub").mkdir()
    for uri in ("a.wav", "./a.wav", "sub/../a.wav", "../calls/a.wav", f"{root}/a.wav", f"file://{root}/sub/../a.wav"):
        assert fetch(uri, root) == b"calls"


@pytest.mark.parametrize(
    "uri",
    [
        "../secret",
        "../calls-evil/a.wav",
        "sub/../../secret",
        "{above}/secret",
        "file://{above}/secret",
        "file://{root}/../secret",
        "{root}-evil/a.wav",
        "/etc/passwd",
        "file:///etc/passwd",
        "file://etc/passwd",
        "//etc/passwd",
        "/proc/self/environ",
        "/dev/zero",
        "/",
        "..",
    ],
)
def test_a_file_outside_the_root_is_rejected(uri: str, root: Path) -> None:
    assert code_of(uri.format(above=root.parent, root=root), root) is OUTSIDE


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://host/a.wav",
        "HTTP://host/a.wav",
        "FILE:///etc/passwd",
        "ftp://host/a.wav",
        "gs://bucket/a.wav",
        "s3a://bucket/a.wav",
        "memory://a.wav",
        "concat://a.wav",
        "file::s3://bucket/a.wav",
    ],
)
def test_an_unsupported_scheme_is_rejected(uri: str, root: Path) -> None:
    assert code_of(uri, root, "/") is OUTSIDE


@pytest.mark.parametrize(
    "uri", ["http:/host/a.wav", "file:/etc/passwd", "local:/etc/passwd", "~/a.wav", "%2e%2e/secret"]
)
def test_a_malformed_address_is_taken_as_a_path_below_the_root(uri: str, root: Path) -> None:
    assert code_of(uri, root) is RejectCode.AUDIO_NOT_FOUND


def test_a_link_to_a_file_outside_the_root_is_rejected(root: Path) -> None:
    (root / "file.wav").symlink_to(root.parent / "secret")
    (root / "folder").symlink_to(root.parent / "other")
    (root / "relative.wav").symlink_to("../secret")
    (root / "twice.wav").symlink_to("file.wav")
    (root / "nowhere.wav").symlink_to("/nowhere/a.wav")
    for uri in ("file.wav", "folder/a.wav", "relative.wav", "twice.wav", "nowhere.wav", "folder/../secret"):
        assert code_of(uri, root) is OUTSIDE


def test_a_link_to_an_allowed_file_is_followed(root: Path) -> None:
    (root / "inside.wav").symlink_to("a.wav")
    (root / "allowed.wav").symlink_to(root.parent / "allowed" / "a.wav")
    assert fetch("inside.wav", root) == b"calls"
    assert fetch("allowed.wav", root, root.parent / "allowed") == b"allowed"


def test_a_root_and_a_prefix_may_be_links(root: Path) -> None:
    for name, target in (("root", "calls"), ("prefix", "allowed")):
        (root.parent / name).symlink_to(target)
    linked, prefix = root.parent / "root", root.parent / "prefix"
    for uri in ("a.wav", f"{linked}/a.wav", f"{root}/a.wav"):
        assert fetch(uri, linked) == b"calls"
    for uri in (f"{prefix}/a.wav", f"{root.parent}/allowed/a.wav"):
        assert fetch(uri, linked, prefix) == b"allowed"


def test_a_link_to_itself_is_unreadable(root: Path) -> None:
    (root / "loop.wav").symlink_to("loop.wav")
    assert code_of("loop.wav", root) is RejectCode.AUDIO_UNREADABLE


def test_a_prefix_allows_only_files_below_exactly_that_folder(root: Path) -> None:
    above = root.parent
    assert fetch(f"{above}/allowed/deep/a.wav", root, above / "allowed") == b"allowed/deep"
    assert fetch(f"{above}/other/a.wav", root, f"{above}/allowed", f"{above}/other/") == b"other"
    assert fetch(f"{above}/other/a.wav", root, "/") == b"other"
    assert code_of(f"{above}/calls-evil/a.wav", root, above / "allowed") is OUTSIDE
    assert code_of(f"{above}/other/a.wav", root, above / "oth") is OUTSIDE


def test_a_pipe_a_device_and_a_folder_are_unreadable_without_blocking(root: Path) -> None:
    os.mkfifo(root / "pipe.wav")  # opening it would block until there is a writer
    (root / "folder.wav").mkdir()
    for uri in ("pipe.wav", "folder.wav", "", "/dev/zero"):
        assert code_of(uri, root, "/dev") is RejectCode.AUDIO_UNREADABLE


def test_a_file_over_the_limit_is_too_large(root: Path) -> None:
    assert fetch("a.wav", root, limit=5) == b"calls"
    assert code_of("a.wav", root, limit=4) is RejectCode.AUDIO_TOO_LARGE


def test_a_missing_file_is_reported_only_in_allowed_folders(root: Path) -> None:
    assert code_of("b.wav", root) is RejectCode.AUDIO_NOT_FOUND
    assert code_of("a.wav/b.wav", root) is RejectCode.AUDIO_NOT_FOUND
    assert code_of("../b.wav", root) is OUTSIDE  # does not reveal which files exist elsewhere


@pytest.mark.parametrize(
    "uri", ["s3://bucket/calls-evil/a", "s3://bucket/calls/../a", "s3://bucket", "s3://other/calls/a"]
)
def test_an_address_outside_is_rejected_before_s3_is_contacted(
    uri: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nothing listens there
    assert code_of(uri, root, "s3://bucket/calls") is OUTSIDE
    assert code_of("../../other/a", "s3://bucket/calls") is OUTSIDE
    assert code_of(str(root / "a.wav"), "s3://bucket/calls") is OUTSIDE


def test_a_recording_on_s3_is_read_by_its_normalised_address(s3: str) -> None:
    s3fs.S3FileSystem().pipe_file(f"{s3}/fetch/calls/a.wav", b"calls")
    for uri in ("a.wav", "sub/../a.wav", f"{s3}/fetch/calls/a.wav", f"{s3}/fetch/calls/../calls/./a.wav"):
        assert fetch(uri, f"{s3}/fetch/calls") == b"calls"
    assert fetch(f"{s3}/fetch/calls/a.wav", "/nowhere", f"{s3}/fetch/calls/") == b"calls"
    assert code_of("a.wav", f"{s3}/fetch/calls", limit=4) is RejectCode.AUDIO_TOO_LARGE
    assert code_of("b.wav", f"{s3}/fetch/calls") is RejectCode.AUDIO_NOT_FOUND
