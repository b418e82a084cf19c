"""What is published of a day, what its `_SUCCESS` says, and what is not published."""

from __future__ import annotations

import datetime as dt
import decimal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn import storage
from msmtfn.daily import publish as module
from msmtfn.daily.publish import day_folder, publish_day, read_leads, read_success
from msmtfn.errors import PublishError, StorageError
from msmtfn.leads.schema import leads_schema, parts_schema
from tests.daily.parts import DATE, RECORD, SCHEMA, Row, publish, rejected, scored, write_parts
from tests.daily.published import FOUR_CALLS, column, files_of_the_day, rows, table


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
        unranked_by_reason={},
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
