"""The Delta table over the published files: what it names, what a crash leaves, and what is kept for its readers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from msmtfn import storage
from msmtfn.daily import delta_log, publish
from msmtfn.daily import table as module
from msmtfn.daily.day import open_run
from msmtfn.daily.publish import day_folder, publish_day, read_success, tidy_day
from msmtfn.daily.success import Success
from msmtfn.daily.table import LeadsTable
from msmtfn.errors import PublishError, StorageError
from msmtfn.leads.schema import parts_schema
from tests.daily.parts import DATE, RECORD, SCHEMA, Row, rejected, scored, write_parts
from tests.daily.plain_graph import plan, write_manifest

CALLS = [[scored(0, 10.0), scored(1, 90.0)], [scored(2, 50.0), rejected(3)]]
DAY_MS = 24 * 3600 * 1000


def register(
    leads: str, run_id: str = "run-1", parts: list[list[Row]] = CALLS, schema: pa.Schema = SCHEMA, days: int = 7
) -> Success:
    """Publish the day with a table."""
    run = write_parts(leads, run_id, parts, schema)
    record = replace(RECORD, run_id=run_id)
    return publish_day(leads, DATE, run, schema, sum(map(len, parts)), record, table=LeadsTable(leads, days))


def open_delta(leads: str, version: int | None = None) -> DeltaTable:
    return DeltaTable(leads, version=version, storage_options=storage.object_store_options(leads))


def run_ids(leads: str, version: int | None = None) -> list[str]:
    return [str(name) for name in open_delta(leads, version).to_pyarrow_table()["run_id"].to_pylist()]


def names_in_table(leads: str) -> list[str]:
    return sorted(uri.rpartition("/")[2] for uri in open_delta(leads).file_uris())


def names_in_day(leads: str) -> list[str]:
    return [file.rpartition("/")[2] for file in storage.list_files(day_folder(leads, DATE), ".parquet")]


def assert_follows_success(leads: str) -> None:
    success = read_success(leads, DATE)
    assert success is not None
    assert names_in_table(leads) == list(success.files)


def new_day(kind: pa.DataType, value: Any, name: str = "crm") -> tuple[list[list[Row]], pa.Schema]:
    """A day with a call and a column that is passed through."""
    return [[scored(0, 1.0, **{name: value})]], parts_schema([pa.field("call_id", pa.string()), pa.field(name, kind)])


def test_each_publication_is_one_commit_with_its_run_and_earlier_ones_can_be_read(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "ROWS_PER_FILE", 2)
    first = register(place)
    second = register(place, "run-2")
    table = open_delta(place)
    assert [commit["userMetadata"] for commit in table.history()] == ["run-2", "run-1"]
    assert (run_ids(place), run_ids(place, 0)) == (["run-2"] * 4, ["run-1"] * 4)
    assert names_in_day(place) == sorted([*first.files, *second.files])
    assert_follows_success(place)
    assert table.to_pyarrow_table(columns=["date"])["date"].to_pylist() == [DATE] * 4
    assert re.search(r"\bc1\b", json.dumps(table.history())) is None  # a call's id; ids of publications may contain it


def test_leads_with_odd_names_may_have_a_table(place: str) -> None:
    leads = f"{place}/team [a] * 100% é"
    LeadsTable(leads, 7).repair()
    for run_id in ("run-1", "run-2"):
        register(leads, run_id)
    assert run_ids(leads) == ["run-2"] * 4
    assert_follows_success(leads)


def test_without_retention_the_files_of_a_replaced_publication_go_at_once(tmp_path: Path) -> None:
    register(str(tmp_path), days=0)
    time.sleep(0.01)
    success = register(str(tmp_path), "run-2", days=0)
    LeadsTable(str(tmp_path), 0).repair()
    assert names_in_day(str(tmp_path)) == list(success.files) == names_in_table(str(tmp_path))


def test_files_go_when_their_retention_is_over_and_never_those_of_others(tmp_path: Path) -> None:
    leads = str(tmp_path)
    old, new = register(leads), register(leads, "run-2")
    theirs = tmp_path / f"date={DATE}" / "leads-0123abcd-00000.parquet"
    theirs.write_bytes((theirs.parent / old.files[0]).read_bytes())
    commit = tmp_path / "_delta_log" / f"{1:020d}.json"
    for age_days, expected in ((6, [*old.files, *new.files]), (8, new.files)):
        actions = [json.loads(line) for line in commit.read_text().splitlines()]
        for action in actions:
            if "remove" in action:
                action["remove"]["deletionTimestamp"] = int(time.time() * 1000) - age_days * DAY_MS
        commit.write_text("\n".join(map(json.dumps, actions)))
        LeadsTable(leads, 7).repair()
        assert names_in_day(leads) == sorted([*expected, theirs.name])
    assert run_ids(leads) == ["run-2"] * 4


@pytest.mark.parametrize("repair", ["next job", "same command", "next publication"])
def test_a_crash_before_the_log_leaves_the_old_day_whole_until_the_next_run(
    place: str, monkeypatch: pytest.MonkeyPatch, repair: str
) -> None:
    register(place)
    with monkeypatch.context() as dying:
        dying.setattr(delta_log.DeltaLog, "replace_day", raise_storage_error)
        with pytest.raises(StorageError, match="killed"):
            register(place, "run-2")
    assert run_ids(place) == ["run-1"] * 4
    if repair == "next job":
        LeadsTable(place, 7).repair()
    elif repair == "same command":
        tidy_day(place, DATE, lambda: None, LeadsTable(place, 7))
    else:
        register(place, "run-3")
    assert run_ids(place) == ["run-3" if repair == "next publication" else "run-2"] * 4
    assert_follows_success(place)


def raise_storage_error(*_: Any) -> Any:
    raise StorageError("killed")


def test_a_publisher_that_stops_at_any_step_leaves_a_table_without_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without retention, when deletions follow at once."""
    steps = ("write_parquet", "write_text", "delete", "list_files", "size_of")
    for stops_before in range(100):
        leads = str(tmp_path / str(stops_before))
        register(leads, days=0)
        left = stops_before
        with monkeypatch.context() as broken:

            def stopping(step: Callable[..., Any]) -> Callable[..., Any]:
                def run_step(*arguments: Any) -> Any:
                    nonlocal left
                    left -= 1
                    return raise_storage_error() if left < 0 else step(*arguments)

                return run_step

            run = write_parts(leads, "run-2", CALLS)
            for name in steps:
                broken.setattr(storage, name, stopping(getattr(storage, name)))
            try:
                publish_day(leads, DATE, run, SCHEMA, 4, replace(RECORD, run_id="run-2"), table=LeadsTable(leads, 0))
            except StorageError:
                pass
            else:
                assert stops_before > 8
                return
        assert set(run_ids(leads)) in ({"run-1"}, {"run-2"})
        LeadsTable(leads, 0).repair()
        assert_follows_success(leads)
    raise AssertionError("it never came to its end")


def test_a_run_that_slept_before_its_commit_does_not_put_a_replaced_publication_into_the_log(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_files = module._read_files

    def sleep_meanwhile(*arguments: Any) -> Any:
        found = read_files(*arguments)
        monkeypatch.setattr(module, "_read_files", read_files)
        register(place, "newer", days=0)
        return found

    monkeypatch.setattr(module, "_read_files", sleep_meanwhile)
    register(place, "asleep", days=0)
    assert run_ids(place) == ["newer"] * 4
    assert_follows_success(place)


def test_days_registered_at_once_are_all_in_the_log_and_each_once(place: str) -> None:
    days = [DATE.replace(day=number) for number in range(1, 7)]
    for day in days:
        run = write_parts(place, f"run-{day}", CALLS)
        publish_day(place, day, run, SCHEMA, 4, replace(RECORD, date=day, run_id=f"run-{day}"))
    with ThreadPoolExecutor(len(days)) as pool:
        list(pool.map(LeadsTable(place, 7).register, days))
    table = open_delta(place)
    assert table.version() == len(days) - 1
    assert sorted(map(str, table.to_pyarrow_table()["date"].to_pylist())) == sorted([*map(str, days)] * 4)


def test_days_that_were_published_before_there_was_a_table_are_registered(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leads = str(tmp_path)
    for day, kind in ((1, pa.timestamp("us", "UTC")), (2, pa.timestamp("ns"))):
        parts, schema = new_day(kind, None)
        record = replace(RECORD, date=DATE.replace(day=day), run_id=f"run-{day}")
        publish_day(leads, record.date, write_parts(leads, record.run_id, parts, schema), schema, 1, record)
    LeadsTable(leads, 7).repair()
    assert run_ids(leads) == ["run-1"]
    assert "2026-03-02 was published without a table, in types that a table does not have" in caplog.text


def test_a_new_column_is_null_in_the_days_before(tmp_path: Path) -> None:
    leads = str(tmp_path)
    register(leads)
    parts, schema = new_day(pa.int16(), 7)
    run = write_parts(leads, "run-3", parts, schema)
    record = replace(RECORD, date=DATE.replace(day=3))
    publish_day(leads, record.date, run, schema, 1, record, table=LeadsTable(leads, 7))
    assert sorted(open_delta(leads).to_pyarrow_table()["crm"].to_pylist(), key=str) == [7, *[None] * 4]


def test_a_column_that_does_not_fit_the_table_ends_the_run_before_a_call_is_scored(tmp_path: Path) -> None:
    leads = str(tmp_path / "leads")
    parts, schema = new_day(pa.int64(), 7, "uri")
    register(leads, parts=parts, schema=schema)
    write_manifest(tmp_path / "manifests", 1)
    day = replace(plan(tmp_path / "manifests", leads), table=LeadsTable(leads, 7))
    with pytest.raises(PublishError, match="the column 'uri' is string in this day and int64 in the table"):
        open_run(day)
    assert not (tmp_path / "leads.work" / day.name).exists()


def test_the_log_of_something_else_is_refused(tmp_path: Path) -> None:
    DeltaTable.create(str(tmp_path), pa.schema([("x", pa.int64())]))
    with pytest.raises(StorageError, match="_delta_log is not the log of a table of leads"):
        register(str(tmp_path))
    assert read_success(str(tmp_path), DATE) is None
