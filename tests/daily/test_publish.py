from __future__ import annotations

import datetime as dt
import decimal
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
import pyarrow.parquet as pq
import pytest

from msmtfn import storage
from msmtfn.daily import publish as module
from msmtfn.daily.publish import day_folder, publish_day, read_leads, read_success, run_folder
from msmtfn.errors import PublishError, StorageError
from msmtfn.leads.schema import leads_schema, parts_schema
from tests.daily.parts import DATE, RECORD, SCHEMA, Row, publish, rejected, scored, write_parts

STEPS = ("write_parquet", "write_text", "rename_folder", "delete", "replace_text")
"""What changes the storage while a day is published."""

FOUR_CALLS = [[scored(0, 10.0), scored(1, 90.0)], [scored(2, 50.0), rejected(3)]]

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


def table(leads: str) -> pa.Table:
    return read_leads(leads, DATE).to_table()


def rows(leads: str) -> list[Row]:
    return [dict(row) for row in table(leads).to_pylist()]


def column(leads: str, name: str) -> list[Any]:
    return [row[name] for row in rows(leads)]


def files_of_the_day(leads: str) -> list[str]:
    return [file.rpartition("/")[2] for file in storage.list_files(day_folder(leads, DATE), ".parquet")]


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


# ---- a day


def test_every_call_is_published_once_and_the_best_first(place: str) -> None:
    publish(place, FOUR_CALLS)
    assert column(place, "call_id") == ["c1", "c2", "c0", "c3"]
    assert column(place, "lead_rank") == [1, 2, 3, None]


def test_calls_without_a_rank_are_published_after_the_ranked_ones_and_counted_by_reason(place: str) -> None:
    reasons = ("refused", "do_not_call", "refused")
    unranked = [scored(number, 90.0 + number, unranked_reason=reason) for number, reason in enumerate(reasons)]
    success = publish(place, [[*unranked, scored(3, 1.0), rejected(4), scored(5, 2.0)]])
    assert column(place, "call_id") == ["c5", "c3", "c2", "c1", "c0", "c4"]
    assert column(place, "lead_rank") == [1, 2, None, None, None, None]
    assert column(place, "unranked_reason") == [None, None, "refused", "do_not_call", "refused", None]
    assert (success.scored, success.unranked, success.rejected) == (5, 3, 1)
    assert success.unranked_by_reason == {"refused": 2, "do_not_call": 1}


def test_a_day_has_the_schema_of_the_leads_whatever_the_parts_held(place: str) -> None:
    publish(place, [[rejected(0)], [rejected(1)]])
    assert table(place).schema.equals(leads_schema(SCHEMA))


def test_a_published_call_keeps_all_its_columns(place: str) -> None:
    said = {
        "five": {"A": 0.5, "B": 0.25, "C": 0.125, "D": 0.125, "E": 0.0},
        "two": {"ABC": 0.75, "DE": 0.25},
        "rounds": [{"start_sec": 0.0, "end_sec": 1.5}, {"start_sec": 1.5, "end_sec": 3.0}],
        "scored_at": dt.datetime(2026, 3, 3, 4, 5, tzinfo=dt.UTC),
        "model_version": "v7",
    }
    publish(place, [[scored(0, 50.0, **said)], [rejected(1, "audio_empty", error_detail="no sound")]])
    best, last = rows(place)
    assert {name: best[name] for name in said} == said
    assert (last["error_code"], last["error_detail"], last["five"], last["rounds"]) == (
        "audio_empty",
        "no sound",
        None,
        None,
    )


def test_columns_that_pass_through_keep_types_and_values(place: str) -> None:
    kinds: dict[str, tuple[Any, pa.DataType]] = {
        "started_at": (dt.datetime(2026, 3, 2, 9, tzinfo=dt.UTC), pa.timestamp("ms", "Asia/Shanghai")),
        "price": (decimal.Decimal("12.34"), pa.decimal128(9, 2)),
        "note": ("long", pa.large_string()),
        "tags": ([["a"], [], None], pa.list_(pa.list_(pa.string()))),
        "crm": (
            {"id": 3, "lines": [{"x": 1}]},
            pa.struct([("id", pa.int16()), ("lines", pa.list_(pa.struct([("x", pa.int8())])))]),
        ),
        "raw": (b"\xff", pa.binary()),
        "nothing": (None, pa.null()),
    }
    schema = parts_schema(
        [pa.field("call_id", pa.string()), *(pa.field(name, kind) for name, (_, kind) in kinds.items())]
    )
    values = {name: value for name, (value, _) in kinds.items()}
    publish(place, [[scored(1, 5.0, **values)], [scored(0, 9.0)]], schema=schema)
    assert table(place).schema.equals(leads_schema(schema))
    assert {name: rows(place)[1][name] for name in kinds} == values
    assert {rows(place)[0][name] for name in kinds} == {None}


def test_a_day_in_several_files_is_sorted_over_all_of_them(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 3)
    calls = [scored(number, float(number * 7 % 10)) for number in range(10)]
    success = publish(place, [calls[:4], calls[4:]])
    assert len(success.files) == 4
    assert column(place, "lead_score") == [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    assert column(place, "lead_rank") == list(range(1, 11))


def test_the_files_in_the_order_of_their_names_are_the_leads_in_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 3)
    publish(str(tmp_path), [[scored(number, float(number)) for number in range(7)] + [rejected(7)]])
    files = sorted((tmp_path / "date=2026-03-02").glob("*.parquet"))
    assert [pq.read_table(file)["lead_rank"].to_pylist() for file in files] == [[1, 2, 3], [4, 5, 6], [7, None]]


def test_rejected_calls_have_no_rank_in_whatever_file_they_are(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_PER_FILE", 2)
    publish(place, [[rejected(0), scored(1, 1.0), rejected(2), scored(3, 3.0), scored(4, 2.0), rejected(5)]])
    assert column(place, "call_id") == ["c3", "c4", "c1", "c0", "c2", "c5"]
    assert column(place, "lead_rank") == [1, 2, 3, None, None, None]


def test_a_day_without_a_call_is_published(place: str) -> None:
    success = publish(place, [])
    assert (success.calls, success.scored, success.rejected, success.audio_hours) == (0, 0, 0, 0)
    assert table(place).num_rows == 0
    assert table(place).schema.equals(leads_schema(SCHEMA))


def test_a_day_whose_only_part_is_empty_is_published(place: str) -> None:
    publish(place, [[]])
    assert rows(place) == []


def test_a_day_without_a_scored_call_is_published(place: str) -> None:
    publish(place, [[rejected(0), rejected(1)]])
    assert column(place, "lead_rank") == [None, None]


# ---- what is said of it


def test_success_counts_the_calls_and_keeps_the_given_fields(place: str) -> None:
    calls = [
        scored(0, 1.0),
        rejected(1, "bad_row"),
        rejected(2, "audio_empty", duration_sec=1740.0),
        rejected(3, "bad_row"),
    ]
    success = publish(place, [calls])
    assert all(success.publication in file for file in success.files)
    assert list(success.files) == files_of_the_day(place)
    assert replace(success, publication="", files=()) == replace(
        RECORD,
        calls=4,
        scored=1,
        rejected=3,
        rejected_by_reason={"bad_row": 2, "audio_empty": 1},
        audio_hours=0.5,
    )


def test_success_is_read_back_as_it_was_returned(place: str) -> None:
    success = publish(place, FOUR_CALLS)
    assert read_success(place, DATE) == success


def test_a_day_that_is_not_published_has_no_success_and_no_leads(place: str) -> None:
    assert read_success(place, DATE) is None
    with pytest.raises(PublishError, match="the leads of 2026-03-02 are not published in"):
        read_leads(place, DATE)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "{}", '{"files": null}', '{"files": "x"}'])
def test_a_success_that_cannot_be_understood_is_named_with_its_cure(tmp_path: Path, text: str) -> None:
    storage.write_text(f"{tmp_path}/date=2026-03-02/_SUCCESS", text)
    with pytest.raises(PublishError, match=r"date=2026-03-02/_SUCCESS .*; remove it to have the day published again"):
        read_success(str(tmp_path), DATE)


def test_a_success_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "date=2026-03-02").mkdir()
    (tmp_path / "date=2026-03-02" / "_SUCCESS").write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match=r"_SUCCESS is not UTF-8 text"):
        read_success(str(tmp_path), DATE)


# ---- what is not published


@pytest.mark.parametrize(
    ("parts", "num_calls", "said"),
    [
        ([[scored(0, 1.0)]], 2, "1 rows for 2 calls of the manifest: 1 are missing and 0 are duplicated"),
        (
            [[scored(0, 1.0)], [scored(0, 1.0)]],
            1,
            "2 rows for 1 calls of the manifest: 0 are missing and 1 are duplicated",
        ),
        (
            [[scored(0, 1.0)], [scored(0, 1.0)]],
            2,
            "2 rows for 2 calls of the manifest: 1 are missing and 1 are duplicated",
        ),
        ([[scored(0, 1.0), scored(1, 1.0)]], 1, "2 rows for 1 calls of the manifest"),
        ([], 3, "0 rows for 3 calls of the manifest: 3 are missing and 0 are duplicated"),
    ],
)
def test_calls_that_are_missing_or_doubled_publish_nothing(
    place: str, parts: list[list[Row]], num_calls: int, said: str
) -> None:
    with pytest.raises(PublishError, match=f"{said}.*; nothing was published; run the same command with --force"):
        publish(place, parts, num_calls=num_calls)
    assert not storage.exists(day_folder(place, DATE))


def test_the_published_day_stays_when_a_call_is_missing(place: str) -> None:
    before = publish(place, FOUR_CALLS)
    with pytest.raises(PublishError, match="1 are missing"):
        publish(place, FOUR_CALLS, "run-2", num_calls=5)
    assert read_success(place, DATE) == before
    assert files_of_the_day(place) == list(before.files)


def test_a_part_that_cannot_be_read_publishes_nothing(tmp_path: Path) -> None:
    run = write_parts(str(tmp_path), "run-1", FOUR_CALLS)
    (Path(run) / "parts" / "1.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(
        PublishError, match=r"cannot be read .*nothing was published; run the same command with --force"
    ):
        publish_day(str(tmp_path), DATE, run, SCHEMA, 4, RECORD)
    assert not (tmp_path / "date=2026-03-02").exists()


def test_a_leads_folder_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    run = write_parts(str(tmp_path / "work"), "run-1", FOUR_CALLS)
    (tmp_path / "leads").write_text("a file")
    with pytest.raises(StorageError, match="Not a directory"):
        publish_day(str(tmp_path / "leads"), DATE, run, SCHEMA, 4, RECORD)


def test_a_bucket_that_is_not_there_is_a_storage_error(place: str, s3: str) -> None:
    run = write_parts(place, "run-1", FOUR_CALLS)
    with pytest.raises(StorageError, match="bucket does not exist"):
        publish_day("s3://there-is-no-such-bucket/leads", DATE, run, SCHEMA, 4, RECORD)


# ---- in what order


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
    assert len(storage.list_files(f"{run_folder(place, 'run-1')}/parts", ".parquet")) == 2


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


# ---- when the publisher dies


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
