"""The steps of a publication: what readers see between them, and what a publisher leaves that dies."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msmtfn import storage
from msmtfn.daily import publish as module
from msmtfn.daily.publish import publish_day, read_success
from msmtfn.daily.work import default_work, run_folder
from msmtfn.errors import StorageError
from tests.daily.parts import DATE, RECORD, SCHEMA, publish, scored, write_parts
from tests.daily.published import FOUR_CALLS, column, files_of_the_day

STEPS = ("write_parquet", "write_text", "rename_folder", "delete", "replace_text")
"""What changes the storage while a day is published."""


DYING_PUBLISHER = """
import itertools, os, signal, sys
from dataclasses import replace
from msmtfn import storage
from msmtfn.daily import publish
from tests.daily.parts import RECORD, DATE, SCHEMA

leads, run, dies_before = sys.argv[1], sys.argv[2], int(sys.argv[3])
steps = itertools.count()

def dying(step):
    def run_step(*arguments):
        if next(steps) == dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)
    return run_step

for name in ("write_parquet", "write_text", "rename_folder", "delete", "replace_text"):
    setattr(storage, name, dying(getattr(storage, name)))
publish.ROWS_PER_FILE = 2
publish.publish_day(leads, DATE, run, SCHEMA, 4, replace(RECORD, run_id="run-2"))
"""


def records(leads: str) -> list[str]:
    """Of publications that were begun and not finished."""
    return storage.list_files(f"{leads}/_runs", ".json")


def before_each_step(monkeypatch: pytest.MonkeyPatch, look: Callable[[str], None]) -> None:
    """Call `look` with the name of each step, before it is done."""

    def looked_at(name: str, step: Callable[..., Any]) -> Callable[..., Any]:
        def run_step(*arguments: Any) -> Any:
            look(name)
            return step(*arguments)

        return run_step

    for name in STEPS:
        monkeypatch.setattr(storage, name, looked_at(name, getattr(storage, name)))


def test_a_new_local_day_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 2)
    day = tmp_path / "date=2026-03-02"
    there: list[tuple[str, bool]] = []
    run = write_parts(str(tmp_path), "run-1", FOUR_CALLS)
    before_each_step(monkeypatch, lambda step: there.append((step, day.exists())))
    success = publish_day(str(tmp_path), DATE, run, SCHEMA, 4, RECORD)
    assert there == [
        ("write_text", False),  # the record of the publication
        *[("write_parquet", False)] * 2,
        ("write_text", False),
        ("rename_folder", False),
        ("delete", True),  # the record
    ]
    assert sorted(file.name for file in day.iterdir()) == sorted([*success.files, "_SUCCESS"])


def test_on_s3_success_is_written_after_the_files(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 2)
    leads = f"{s3}/order-of-publication"
    seen: list[tuple[str, int, bool]] = []
    run = write_parts(leads, "run-1", FOUR_CALLS)
    before_each_step(
        monkeypatch,
        lambda step: seen.append((step, len(files_of_the_day(leads)), read_success(leads, DATE) is not None)),
    )
    publish_day(leads, DATE, run, SCHEMA, 4, RECORD)
    assert seen == [
        ("write_text", 0, False),  # the record of the publication
        ("write_parquet", 0, False),
        ("write_parquet", 1, False),
        ("replace_text", 2, False),
        ("delete", 2, True),  # the record
    ]


def test_a_day_is_replaced_and_the_old_files_go(place: str) -> None:
    old = publish(place, FOUR_CALLS)
    new = publish(place, [[scored(0, 1.0)]], "run-2")
    assert files_of_the_day(place) == list(new.files)
    assert not set(old.files) & set(new.files)
    assert column(place, "run_id") == ["run-2"]


def test_the_same_run_may_be_published_again(place: str) -> None:
    for _ in range(2):
        publish(place, FOUR_CALLS)
    assert column(place, "call_id") == ["c1", "c2", "c0", "c3"]
    assert len(files_of_the_day(place)) == 1


def test_other_days_and_runs_are_left_alone(place: str) -> None:
    other = f"{place}/date=2026-03-01/leads.parquet"
    storage.make_folder(f"{place}/date=2026-03-01")
    storage.write_parquet(other, pa.table({"a": [1]}))
    for run_id in ("run-1", "run-2"):
        publish(place, FOUR_CALLS, run_id)
    assert storage.exists(other)
    assert len(storage.list_files(f"{run_folder(default_work(place), 'run-1')}/parts", ".parquet")) == 2


def test_a_folder_with_a_pattern_in_its_name_is_as_good_as_any(place: str) -> None:
    leads = f"{place}/team [a] *"
    for run_id in ("run-1", "run-2"):
        publish(leads, FOUR_CALLS, run_id)
    assert column(leads, "run_id") == ["run-2"] * 4
    assert len(files_of_the_day(leads)) == 1


def test_a_reader_always_sees_one_whole_day_while_it_is_replaced(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 3)
    calls = [[scored(number, float(number)) for number in range(9)]]
    publish(place, calls, "run-0")
    seen: list[list[str]] = []
    finished = threading.Event()
    failed: list[Exception] = []

    def poll() -> None:
        while not finished.is_set():
            try:
                seen.append(column(place, "run_id"))
            except FileNotFoundError:  # the rule of reading: begin again
                continue
            except Exception as exc:
                failed.append(exc)
                return

    reader = threading.Thread(target=poll)
    reader.start()
    for number in range(1, 21):
        publish(place, calls, f"run-{number}")
    finished.set()
    reader.join()
    assert not failed
    assert len(seen) > 3
    assert all(len(run_ids) == 9 and len(set(run_ids)) == 1 for run_ids in seen)


def assert_whole(leads: str, run_id: str) -> None:
    assert column(leads, "run_id") == [run_id] * 4
    assert column(leads, "lead_rank") == [1, 2, 3, None]


@pytest.mark.parametrize(("dies_before", "readable"), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)])
def test_a_publisher_killed_at_any_step_leaves_a_whole_day_and_the_next_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_before: int, readable: int
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 2)
    leads = str(tmp_path)
    publish(leads, FOUR_CALLS, "run-1")
    run = write_parts(leads, "run-2", FOUR_CALLS)
    killed = subprocess.run(
        [sys.executable, "-c", DYING_PUBLISHER, leads, run, str(dies_before)],
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert killed.returncode == -signal.SIGKILL
    assert_whole(leads, f"run-{readable}")
    success = publish(leads, FOUR_CALLS, "run-2")
    assert files_of_the_day(leads) == list(success.files)
    assert records(leads) == []
    assert_whole(leads, "run-2")


@pytest.mark.parametrize(("stops_before", "readable"), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)])
def test_a_publisher_that_stops_at_any_step_leaves_a_whole_day(
    place: str, monkeypatch: pytest.MonkeyPatch, stops_before: int, readable: int
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 2)
    publish(place, FOUR_CALLS, "run-1")
    run = write_parts(place, "run-2", FOUR_CALLS)
    steps = itertools.count()

    def stop(name: str) -> None:
        if next(steps) == stops_before:
            raise StorageError("the network is gone")

    with monkeypatch.context() as broken:
        before_each_step(broken, stop)
        with pytest.raises(StorageError, match="the network is gone"):
            publish_day(place, DATE, run, SCHEMA, 4, replace(RECORD, run_id="run-2"))
    assert_whole(place, f"run-{readable}")
    success = publish(place, FOUR_CALLS, "run-3")
    assert files_of_the_day(place) == list(success.files)
    assert records(place) == []
    assert_whole(place, "run-3")


@pytest.mark.parametrize("stops_before", range(5))
def test_a_publisher_that_stops_before_a_new_local_day_is_whole_shows_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_before: int
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 2)
    run = write_parts(str(tmp_path), "run-1", FOUR_CALLS)
    steps = itertools.count()

    def stop(name: str) -> None:
        if next(steps) == stops_before:
            raise StorageError("the disk is gone")

    with monkeypatch.context() as broken:
        before_each_step(broken, stop)
        with pytest.raises(StorageError, match="the disk is gone"):
            publish_day(str(tmp_path), DATE, run, SCHEMA, 4, RECORD)
    assert not (tmp_path / "date=2026-03-02").exists()
    publish(str(tmp_path), FOUR_CALLS)
    assert_whole(str(tmp_path), "run-1")


def test_a_publisher_that_stops_while_it_writes_success_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = publish(str(tmp_path), FOUR_CALLS)

    def stop(path: Path, target: Path) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as broken:
        broken.setattr(Path, "replace", stop)
        with pytest.raises(StorageError, match="the power is gone"):
            publish(str(tmp_path), FOUR_CALLS, "run-2")
    assert (tmp_path / "date=2026-03-02" / "_SUCCESS").read_text() == old.to_json()
    assert_whole(str(tmp_path), "run-1")
