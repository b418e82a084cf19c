from __future__ import annotations

import datetime as dt
import logging
from pathlib import Path

import pyarrow as pa
import pytest

from msmtfn import storage
from msmtfn.calls.days import find_days
from msmtfn.daily.schedule import newest_unscored_day
from msmtfn.errors import ManifestError
from tests.calls.manifests import calls, column, day_of, fingerprint, write


def write_below(root: Path | str, file: str, start: int) -> None:
    location = f"{day_of(root)}/{file}"
    storage.make_folder(location.rpartition("/")[0])
    storage.write_parquet(location, pa.table(calls(1, start)))


def test_files_in_partitions_and_in_folders_named_like_files_are_read(place: str) -> None:
    write(place, calls(1))
    write_below(place, "hour=10/calls.parquet", 1)
    write_below(place, "more.parquet/part-00000-6f1c-c000.snappy.parquet", 2)
    write_below(place, "region=eu/hour=11/calls.parquet", 3)
    assert column(place, "call_id") == ["c0", "c1", "c2", "c3"]


def test_what_spark_keeps_beside_its_parts_is_left_out(tmp_path: Path) -> None:
    write_below(tmp_path, "part-00000-6f1c-c000.snappy.parquet", 0)
    write_below(tmp_path, "_temporary/0/part-00001.snappy.parquet", 1)
    write_below(tmp_path, ".spark-staging/part-00002.snappy.parquet", 2)
    for name in ("_SUCCESS", "_metadata", "_common_metadata", "._SUCCESS.crc", ".part-00000.snappy.parquet.crc"):
        Path(day_of(tmp_path), name).write_bytes(b"x")
    assert column(tmp_path, "call_id") == ["c0"]


def test_files_of_other_names_are_told_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, calls(1))
    Path(day_of(tmp_path), "late.parquet.gz").write_bytes(b"x")
    assert column(tmp_path, "call_id") == ["c0"]
    assert "1 files are left out, since their names do not end in .parquet:" in caplog.text
    assert "late.parquet.gz" in caplog.text


def test_the_error_about_a_missing_manifest_names_a_file_of_another_name(tmp_path: Path) -> None:
    Path(day_of(tmp_path)).mkdir()
    Path(day_of(tmp_path), "calls.csv").write_bytes(b"x")
    with pytest.raises(ManifestError, match=r"holds no \*\.parquet, only files of other names, such as .*calls\.csv"):
        column(tmp_path, "call_id")


def test_the_fingerprint_tells_files_of_one_name_in_two_folders_apart(tmp_path: Path) -> None:
    for root, (first, second) in {"a": (0, 1), "b": (1, 0)}.items():
        write_below(tmp_path / root, "hour=10/calls.parquet", first)
        write_below(tmp_path / root, "hour=11/calls.parquet", second)
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


def test_linked_folders_are_read_once_and_a_loop_ends(tmp_path: Path) -> None:
    write_below(tmp_path, "calls.parquet", 0)
    write_below(tmp_path / "elsewhere", "calls.parquet", 1)
    Path(day_of(tmp_path), "linked").symlink_to(day_of(tmp_path / "elsewhere"))
    Path(day_of(tmp_path), "again").symlink_to(day_of(tmp_path / "elsewhere"))
    Path(day_of(tmp_path), "loop").symlink_to(day_of(tmp_path))
    assert column(tmp_path, "call_id") == ["c1", "c0"]


# ---- days


def test_a_linked_day_of_the_manifests_is_found_without_a_date(tmp_path: Path) -> None:
    write(tmp_path / "nas", calls(1))
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "date=2026-03-02").symlink_to(day_of(tmp_path / "nas"))
    (tmp_path / "m" / "date=2026-03-03").symlink_to(tmp_path / "nothing")
    assert newest_unscored_day(f"{tmp_path}/m", f"{tmp_path}/leads") == dt.date(2026, 3, 2)
    assert find_days(f"{tmp_path}/m") == [dt.date(2026, 3, 2)]
    assert column(tmp_path / "m", "call_id") == ["c0"]


def test_a_linked_day_of_other_roots_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "nas", calls(1))
    (tmp_path / "leads").mkdir()
    (tmp_path / "leads" / "date=2026-03-02").symlink_to(day_of(tmp_path / "nas"))
    assert storage.list_days(f"{tmp_path}/leads") == []


@pytest.mark.parametrize("name", ["date=20260303", "date=2026-W10-2", "date=2026-3-3", "date=", "date=2026-03-03T00"])
def test_a_day_of_another_form_is_skipped_with_a_warning(
    place: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(place, calls(1))
    storage.make_folder(f"{place}/{name}")
    storage.write_parquet(f"{place}/{name}/calls.parquet", pa.table(calls(1)))
    with caplog.at_level(logging.WARNING):
        assert newest_unscored_day(place, f"{place}/leads") == dt.date(2026, 3, 2)
    assert f"{name} is left out, since its name is not date=YYYY-MM-DD" in caplog.text
