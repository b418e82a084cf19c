from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn import storage
from msmtfn.daily.delta_log import RegisteredFile, create_log, open_log
from msmtfn.errors import StorageError
from tests.daily.parts import DATE

SCHEMA = pa.schema([("call_id", pa.string()), ("date", pa.date32())])
PATH = f"date={DATE}/leads-0123abcd-00000.parquet"
FILES = [RegisteredFile(path=PATH, size=7, num_rows=3)]


def test_of_two_commits_upon_one_version_the_second_is_refused(place: str) -> None:
    assert open_log(place) is None
    assert create_log(place, DATE, FILES, SCHEMA, {"run_id": "run-1"}, 7)
    assert not create_log(place, DATE, FILES, SCHEMA, {"run_id": "run-2"}, 7)
    first, second = open_log(place), open_log(place)
    assert first is not None
    assert second is not None
    assert first.files() == {str(DATE): {PATH}}
    assert first.replace_day(DATE.replace(day=3), FILES, SCHEMA, {})
    assert not second.replace_day(DATE.replace(day=4), FILES, SCHEMA, {})


def test_the_retention_is_in_the_properties_with_a_month_to_spare(tmp_path: Path) -> None:
    create_log(str(tmp_path), DATE, FILES, SCHEMA, {}, 7)
    log = open_log(str(tmp_path))
    assert log is not None
    assert set(log.table.metadata().configuration.values()) == {"interval 37 days"}
    log.set_retention(7)
    assert log.table.version() == 0
    log.set_retention(10)
    assert log.table.metadata().configuration["delta.deletedFileRetentionDuration"] == "interval 40 days"


def test_a_log_that_cannot_be_read_is_an_error_in_one_line(tmp_path: Path) -> None:
    create_log(str(tmp_path), DATE, FILES, SCHEMA, {}, 7)
    (tmp_path / "_delta_log" / f"{0:020d}.json").write_text("{")
    with pytest.raises(StorageError, match=r"^the Delta table of [^\n]+ cannot be read or written: [^\n]+$"):
        open_log(str(tmp_path))


def test_a_bucket_that_is_not_there_is_a_storage_error(s3: str) -> None:
    with pytest.raises(StorageError, match="the Delta table of s3://there-is-no-such-bucket"):
        create_log("s3://there-is-no-such-bucket/leads", DATE, FILES, SCHEMA, {}, 7)


def test_commits_of_hundreds_of_days_are_read_from_a_checkpoint(tmp_path: Path) -> None:
    leads = str(tmp_path)
    storage.make_folder(f"{leads}/date={DATE}")
    pq.write_table(pa.table({"call_id": ["a"]}), tmp_path / PATH)
    create_log(leads, DATE, FILES, SCHEMA, {}, 7)
    for number in range(101):
        log = open_log(leads)
        assert log is not None
        files = [RegisteredFile(path=PATH.replace("00000", f"{number + 1:05d}"), size=7, num_rows=1)]
        assert log.replace_day(DATE, files, SCHEMA, {})
    assert list((tmp_path / "_delta_log").glob("*.checkpoint.parquet"))
    log = open_log(leads)
    assert log is not None
    assert len(log.removed_files()) >= 100
    assert log.removed_files(7) == frozenset()
