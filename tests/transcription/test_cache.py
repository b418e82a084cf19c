from __future__ import annotations

from pathlib import Path

import pytest

from msmtfn import storage
from msmtfn.errors import CallError, RejectCode
from msmtfn.speech.transcript import HeardCall
from msmtfn.speech.turns import SpokenTurn
from msmtfn.transcription.cache import TranscriptCache, content_key

HEARD = HeardCall("en", True, (SpokenTurn(0, 0.5, 1.5, "Hello.", 0.9),), 1.0, 3.0)


def test_what_was_heard_is_found_by_the_content_of_the_recording(place: str) -> None:
    cache = TranscriptCache.below(place, "whisper")
    assert cache.read(content_key(b"recording", "en")) is None
    cache.write(content_key(b"recording", "en"), HEARD)
    assert TranscriptCache.below(place, "whisper").read(content_key(b"recording", "en")) == HEARD


def test_another_recording_language_recogniser_or_option_is_another_entry(tmp_path: Path) -> None:
    cache = TranscriptCache.below(str(tmp_path), "whisper")
    cache.write(content_key(b"recording", None), HEARD)
    assert cache.read(content_key(b"other", None)) is None
    assert cache.read(content_key(b"recording", "zh")) is None
    assert TranscriptCache.below(str(tmp_path), "other options").read(content_key(b"recording", None)) is None


def test_an_entry_that_cannot_be_understood_counts_as_none(tmp_path: Path) -> None:
    cache, key = TranscriptCache.below(str(tmp_path), "whisper"), content_key(b"recording", None)
    cache.write(key, HEARD)
    (file,) = tmp_path.rglob("*.json")
    file.write_text("{")
    assert cache.read(key) is None
    file.unlink()
    file.symlink_to("/etc/passwd")  # never followed
    assert cache.read(key) is None


def test_storage_that_does_not_answer_leaves_the_call_for_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ENDPOINT_URL": "http://127.0.0.1:1", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    cache = TranscriptCache.below("s3://bucket-that-is-away", "whisper")
    with pytest.raises(CallError) as caught:
        cache.read(content_key(b"recording", None))
    assert caught.value.code == RejectCode.STORAGE_UNAVAILABLE


def test_an_entry_that_cannot_be_written_costs_no_more_than_the_entry(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "_cache").write_text("a file is in the way")
    TranscriptCache.below(str(tmp_path), "whisper").write(content_key(b"recording", None), HEARD)
    assert "is not kept for another run" in caplog.text
    assert "Hello" not in caplog.text
    assert storage.exists(str(tmp_path / "_cache"))
