"""Two publishers of one day, one of them asleep past its lease, over every storage step of the publication.

The code is the real one; before each storage step, and before each check of the lock, a publisher may be put to sleep.
The second takes the day over while the first sleeps, and may be put to sleep in its turn while the first wakes.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

import pyarrow as pa
import pytest

from msmtfn import storage
from msmtfn.daily.publication import begun, publications_in
from msmtfn.daily.publish import day_folder, publish_tables, read_success, tidy_day
from msmtfn.daily.success import Success
from msmtfn.daily.work import default_work, run_folder
from msmtfn.errors import JobError, LockedError
from msmtfn.storage import conditional
from tests.daily.parts import DATE, RECORD

STEPS: Final = ("list_files", "read_at_most", "write_text", "write_parquet", "rename_folder", "delete", "exists")
S3_STEPS: Final = ("list_files", "read_at_most", "write_text", "write_parquet", "delete", "etag_of", "replace_text")
ALL: Final = 10**6
WOKEN_FOR: Final = 3
"""Steps that the first publisher does, every other time, before the second goes on."""
NUM_FILES: Final = 2


class Bucket:
    """An S3 bucket in memory, with the semantics that `storage` has of one: conditional writes and strong reads."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[str, str]] = {}
        self.versions = itertools.count()

    def list_files(self, folder: str, suffix: str) -> list[str]:
        names = [key.removeprefix(f"{folder}/") for key in self.objects if key.startswith(f"{folder}/")]
        return [f"{folder}/{name}" for name in sorted(names) if "/" not in name and name.endswith(suffix)]

    def read_at_most(self, location: str, _: int) -> bytes:
        if location not in self.objects:
            raise FileNotFoundError(location)
        return self.objects[location][0].encode()

    def write_text(self, location: str, text: str) -> None:
        self.objects[location] = (text, str(next(self.versions)))

    def write_parquet(self, location: str, _: pa.Table) -> None:
        self.write_text(location, "rows")

    def delete(self, location: str) -> None:
        for key in [key for key in self.objects if storage.is_within(key, location)]:
            del self.objects[key]

    def etag_of(self, location: str) -> str | None:
        return self.objects[location][1] if location in self.objects else None

    def replace_text(self, location: str, text: str, etag: str | None) -> bool:
        if self.etag_of(location) != etag:
            return False
        self.write_text(location, text)
        return True


class Killed(BaseException):
    """The process is no more."""


class Publisher(threading.Thread):
    """A run that publishes the day, a number of storage steps at a time."""

    def __init__(self, name: str, world: World) -> None:
        super().__init__(name=name, daemon=True)
        self.world = world
        self.left = 0
        self.steps = 0
        self.killed = self.done = False
        self.outcome: Success | JobError | None = None
        self.go, self.paused = threading.Semaphore(0), threading.Semaphore(0)

    def advance(self, steps: int = ALL) -> None:
        """Let it do some steps, or all that are left; before the next it falls asleep."""
        if not self.ident:
            self.start()
        elif self.done:
            return
        self.left = steps
        self.go.release()
        self.paused.acquire()

    def kill(self) -> None:
        self.killed = True
        self.advance()
        self.join()

    def step(self) -> None:
        """Sleep here if it is time."""
        if not self.left:
            self.paused.release()
            self.go.acquire()
        if self.killed:
            raise Killed
        self.left -= 1
        self.steps += 1

    def check(self) -> None:
        self.step()
        if self.world.holder != self.name:
            raise LockedError("another run has taken the day over")

    def run(self) -> None:
        self.go.acquire()
        run = run_folder(default_work(self.world.leads), self.name)
        try:
            tables = iter([pa.table({"a": [1]})] * NUM_FILES)
            self.outcome = publish_tables(
                self.world.leads, DATE, run, tables, replace(RECORD, run_id=self.name), self.check
            )
            self.check()
            for other in {"a", "b"} - {self.name}:  # as the job forgets the other runs of the day
                storage.delete(run_folder(default_work(self.world.leads), other))
        except JobError as exc:
            self.outcome = self.outcome or exc
        except Killed:
            pass
        finally:
            self.done = True
            self.paused.release()


class World:
    """A leads folder, and who holds the day in it."""

    def __init__(self, leads: str) -> None:
        self.leads = leads
        self.holder = ""

    def forget(self) -> None:
        """Delete all of it, since thousands follow."""
        if self.leads.startswith("s3://"):
            storage.delete(self.leads)
        else:
            shutil.rmtree(self.leads)

    def publisher(self, name: str) -> Publisher:
        """Let a run take the day over."""
        self.holder = name
        return Publisher(name, self)

    def published(self) -> str | None:
        """Name of the run whose day is published; that day must be whole."""
        success = read_success(self.leads, DATE)
        if success is None:
            return None
        there = publications_in(day_folder(self.leads, DATE)).get(success.publication, [])
        assert [file.rpartition("/")[2] for file in there] == list(success.files)
        return success.run_id

    def assert_tidy(self) -> None:
        """See that nothing is left but the published day."""
        success = read_success(self.leads, DATE)
        assert success is not None
        assert set(publications_in(day_folder(self.leads, DATE))) == {success.publication}
        assert begun(storage.join(self.leads, "_runs"), DATE) == set()


class MakeWorld(Protocol):
    def __call__(self, *, is_replaced: bool) -> World:
        """Make a world in which the day is published already, or not."""


def hook(monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]) -> None:
    """Let publishers sleep before these functions of `storage`."""

    def hooked(function: Callable[..., Any]) -> Callable[..., Any]:
        def run_step(*arguments: Any) -> Any:
            thread = threading.current_thread()
            if isinstance(thread, Publisher):
                thread.step()
            return function(*arguments)

        return run_step

    for name in names:
        monkeypatch.setattr(storage, name, hooked(getattr(storage, name)))


@pytest.fixture(params=["posix", "s3"])
def make_world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeWorld:
    number = itertools.count()
    if request.param == "posix":
        monkeypatch.setattr(storage, "write_parquet", lambda location, _: Path(location).write_bytes(b"rows"))
        monkeypatch.setattr(conditional, "WAIT_SEC", 0.0)
        hook(monkeypatch, STEPS)
    else:
        bucket = Bucket()
        for name in S3_STEPS:
            monkeypatch.setattr(storage, name, getattr(bucket, name))
        hook(monkeypatch, S3_STEPS)

    def make(*, is_replaced: bool) -> World:
        if request.param == "posix":
            leads = str(tmp_path / f"leads-{next(number)}")
            Path(leads, "_runs").mkdir(parents=True)
        else:
            leads = f"s3://bucket/leads-{next(number)}"
        world = World(leads)
        if is_replaced:
            world.publisher("old").advance()
        return world

    return make


def count_steps(make_world: MakeWorld, *, is_replaced: bool) -> int:
    publisher = make_world(is_replaced=is_replaced).publisher("a")
    publisher.advance()
    assert isinstance(publisher.outcome, Success)
    return publisher.steps


def interleavings(make_world: MakeWorld) -> Iterator[tuple[bool, int, int, int]]:
    """Whether the day is replaced; the steps of the first, of the second, and again of the first."""
    for is_replaced in (False, True):
        steps = count_steps(make_world, is_replaced=is_replaced)
        for first, second in itertools.product(range(steps + 1), range(steps + 2)):
            yield is_replaced, first, second, ALL
            if (first + second) % 2:
                yield is_replaced, first, second, WOKEN_FOR


def test_a_publisher_that_sleeps_past_its_lease_neither_wins_nor_harms_the_newer_publication(
    make_world: MakeWorld,
) -> None:
    cases = 0
    for is_replaced, first, second, again in interleavings(make_world):
        world = make_world(is_replaced=is_replaced)
        asleep = world.publisher("a")
        asleep.advance(first)
        newer = world.publisher("b")
        newer.advance(second)
        world.published()
        asleep.advance(again)
        world.published()
        newer.advance()
        asleep.advance()
        case = (is_replaced, first, second, again, asleep.outcome, newer.outcome)
        if isinstance(newer.outcome, Success):
            assert world.published() == "b", case
        else:  # kept out by one who sleeps in the few microseconds of the swap itself, where POSIX cannot tell
            assert isinstance(newer.outcome, LockedError), case
            assert "does not release it" in str(newer.outcome), case
            assert world.published() in ("a", "old"), case
        assert isinstance(asleep.outcome, Success | LockedError), case
        tidy_day(world.leads, DATE, lambda: None)
        world.assert_tidy()
        world.forget()
        cases += 1
    assert cases > 1000


def test_a_publisher_killed_at_any_step_leaves_nothing_after_the_next_run(make_world: MakeWorld) -> None:
    for is_replaced in (False, True):
        for first in range(count_steps(make_world, is_replaced=is_replaced) + 1):
            for is_tidied in (False, True):
                world = make_world(is_replaced=is_replaced)
                dead = world.publisher("a")
                dead.advance(first)
                dead.kill()
                world.published()
                if is_tidied and world.published():
                    tidy_day(world.leads, DATE, lambda: None)
                else:
                    newer = world.publisher("b")
                    newer.advance()
                    assert world.published() == "b"
                world.assert_tidy()


def test_a_publisher_that_sleeps_while_the_day_is_tidied_does_not_restore_deleted_files(make_world: MakeWorld) -> None:
    for first in range(count_steps(make_world, is_replaced=True) + 1):
        world = make_world(is_replaced=True)
        asleep = world.publisher("a")
        asleep.advance(first)
        world.holder = "b"
        with contextlib.suppress(LockedError):  # of one who sleeps within the swap
            tidy_day(world.leads, DATE, lambda: None)
        kept = world.published()
        asleep.advance()
        assert world.published() == (kept if isinstance(asleep.outcome, LockedError) else "a")
        world.published()
        tidy_day(world.leads, DATE, lambda: None)
        world.assert_tidy()
