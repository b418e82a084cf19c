"""Compare-and-swap, on the local disk and on a real S3 server."""

from __future__ import annotations

import fcntl
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import s3fs

from msmtfn import storage
from msmtfn.errors import LockedError, StorageError
from msmtfn.storage import conditional
from msmtfn.storage.conditional import Seen, exclusive, see, supports_conditional_writes, swap


def test_what_was_seen_is_replaced_and_nothing_newer(place: str) -> None:
    file = f"{place}/file"
    nothing = see(file)
    assert nothing == Seen(None, None)
    assert swap(file, nothing, "one")
    one = see(file)
    assert one.text == "one"
    assert not swap(file, nothing, "other")
    assert swap(file, one, "two")
    assert not swap(file, one, "three")
    assert storage.read_text(file) == "two"
    storage.delete(file)
    assert not swap(file, one, "four")
    assert storage.read_text(file) is None


def test_nothing_is_written_where_the_last_check_fails(place: str) -> None:
    def refuse() -> None:
        raise LockedError("the day is lost")

    with pytest.raises(LockedError, match="the day is lost"):
        swap(f"{place}/file", Seen(None), "text", refuse)
    assert storage.read_text(f"{place}/file") is None


def test_one_of_many_concurrent_swaps_succeeds(place: str) -> None:
    file = f"{place}/file"
    storage.make_folder(place)
    for number in range(5):
        seen, ready = see(file), threading.Barrier(6)

        def write(writer: int, number: int = number, seen: Seen = seen, ready: threading.Barrier = ready) -> bool:
            ready.wait()
            return swap(file, seen, f"{number} by {writer}")

        with ThreadPoolExecutor(6) as pool:
            assert sum(pool.map(write, range(6))) == 1


def test_a_lost_answer_is_not_taken_for_a_lost_swap(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = f"{s3}/lost-answer"
    storage.write_text(file, "old")
    seen, call, calls = see(file), s3fs.S3FileSystem._call_s3, []

    # as a client does that heard no answer
    async def call_twice(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
        calls.append(method)
        if method == "put_object":
            await call(self, method, *arguments, **options)
        return await call(self, method, *arguments, **options)

    with monkeypatch.context() as deaf:
        deaf.setattr(s3fs.S3FileSystem, "_call_s3", call_twice)
        assert swap(file, seen, "new")
    assert "put_object" in calls
    assert storage.read_text(file) == "new"


def test_a_bucket_that_is_not_there_is_an_error(s3: str) -> None:
    with pytest.raises(StorageError, match="bucket does not exist"):
        swap("s3://there-is-no-such-bucket/file", Seen(None), "text")


def test_conditional_writes_are_detected(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert supports_conditional_writes(f"{place}/_runs")
    if place.startswith("s3://"):
        call = s3fs.S3FileSystem._call_s3

        async def ignore(self: Any, method: str, *arguments: Any, **options: Any) -> Any:
            kept = {name: value for name, value in options.items() if name not in ("IfMatch", "IfNoneMatch")}
            return await call(self, method, *arguments, **kept)

        monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", ignore)
    else:

        def refuse(*_: Any) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(fcntl, "flock", refuse)
    assert not supports_conditional_writes(f"{place}/_runs")
    assert storage.list_files(f"{place}/_runs", "") == []


# ---- POSIX


def test_a_holder_that_sleeps_keeps_others_out_and_they_give_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditional, "WAIT_SEC", 0.1)
    file = str(tmp_path / "file")
    with exclusive(file):
        with pytest.raises(LockedError, match=r"\.file\.lock and does not release it"):
            swap(file, Seen(None), "text")
        assert storage.read_text(file) is None
    assert swap(file, Seen(None), "text")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_waiter_for_a_removed_lock_takes_the_next_one(tmp_path: Path) -> None:
    file, counts = str(tmp_path / "file"), {"inside": 0, "most": 0}

    def enter(_: int) -> None:
        with exclusive(file):
            counts["inside"] += 1
            counts["most"] = max(counts["most"], counts["inside"])
            os.sched_yield()
            counts["inside"] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(enter, range(100)))
    assert counts["most"] == 1


@pytest.mark.parametrize("kind", ["folder", "link", "pipe", "file"])
def test_what_others_put_in_the_place_of_the_lock_is_not_deleted(tmp_path: Path, kind: str) -> None:
    mutex, theirs = tmp_path / ".file.lock", tmp_path / "theirs"
    theirs.write_text("theirs")
    {"folder": mutex.mkdir, "link": lambda: mutex.symlink_to(theirs), "pipe": lambda: os.mkfifo(mutex)}.get(
        kind, lambda: mutex.write_text("theirs")
    )()
    if kind == "file":
        assert swap(str(tmp_path / "file"), Seen(None), "text")
    else:
        with pytest.raises(StorageError, match=r"\.file\.lock cannot be locked: [^\n]+$"):
            swap(str(tmp_path / "file"), Seen(None), "text")
    assert mutex.exists()
    assert theirs.read_text() == "theirs"
