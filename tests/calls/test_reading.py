"""Manifests of many files, of files that change, and of files that unpack to more than there is room for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msmtfn.calls import manifest as module
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.calls.memory import available_memory
from msmtfn.calls.parquet import Footer
from msmtfn.calls.reading import FILES_AHEAD, ROWS_TOGETHER, SMALL_BYTES, join_batches, read_ahead
from msmtfn.errors import ManifestError, StorageError
from tests.calls.manifests import DATE, calls, read, write


def test_more_files_than_are_read_ahead_are_read_in_order(place: str) -> None:
    for number in range(FILES_AHEAD + 3):
        write(place, calls(1, number), f"{number:03d}.parquet")
    assert [row["call_id"] for row in read(place)] == [f"c{number}" for number in range(FILES_AHEAD + 3)]


def test_large_files_are_not_read_ahead(tmp_path: Path) -> None:
    sizes = [SMALL_BYTES, SMALL_BYTES + 1, 1]
    files = [tmp_path / f"{size}" for size in sizes]
    for file, size in zip(files, sizes, strict=True):
        file.write_bytes(bytes(size))
    assert [data and len(data) for data in read_ahead([*map(str, files)])] == [SMALL_BYTES, None, 1]


def test_a_file_that_is_gone_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"missing\.parquet cannot be read"):
        list(read_ahead([f"{tmp_path}/missing.parquet"]))


def test_small_batches_are_joined_and_none_is_lost() -> None:
    batch = pa.record_batch({"a": pa.array(range(1000))})
    joined = list(join_batches([batch] * 10))
    assert [len(each) for each in joined] == [4000, 4000, 2000]
    assert ROWS_TOGETHER == 4096
    assert pa.Table.from_batches(joined) == pa.Table.from_batches([batch] * 10)
    assert list(join_batches([])) == []


def large_calls(first: int) -> dict[str, Any]:
    """Return calls that make a file of about 5 MB, which is read in pieces."""
    return calls(10_000, first, note=[os.urandom(500) for _ in range(10_000)])


@pytest.mark.parametrize("make", [lambda first: calls(2, first), large_calls])
def test_a_manifest_that_is_replaced_before_its_rows_are_read_is_refused(
    tmp_path: Path, make: Callable[[int], dict[str, Any]]
) -> None:
    write(tmp_path, make(0))
    manifest = open_manifest(str(tmp_path), DATE)
    assert sum(map(len, iter_calls(manifest))) == manifest.num_rows
    write(tmp_path, make(1))
    with pytest.raises(ManifestError, match=r"date=2026-03-02 was changed while it was read.*same command again"):
        list(iter_calls(manifest))


def test_a_large_file_that_is_rewritten_while_it_is_read_is_refused(tmp_path: Path) -> None:
    file = Path(write(tmp_path, large_calls(0)))
    assert file.stat().st_size > SMALL_BYTES
    batches = iter_calls(open_manifest(str(tmp_path), DATE))
    next(batches)
    with file.open("ab") as handle:  # in place: the file that is open is changed
        handle.write(b"more")
    with pytest.raises(ManifestError, match="was changed while it was read"):
        list(batches)


PROGRAM = """
import datetime as dt, sys
from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.calls.memory import limited_memory
from msmtfn.errors import ManifestError
manifest = open_manifest(sys.argv[1], dt.date(2026, 3, 2))
try:
    with limited_memory(2**29):
        print(sum(map(len, iter_calls(manifest))))
except ManifestError as exc:
    print(exc)
"""


def test_a_small_file_that_unpacks_to_more_than_the_memory_that_is_left_is_named(tmp_path: Path) -> None:
    note = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), ["x" * 2**20])  # 2 GB in all
    file = write(tmp_path, calls(2000, note=note))
    assert Path(file).stat().st_size < 2**20
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert process.stdout.startswith(f"{file} unpacks to more than the memory that is left"), process.stderr


def test_a_file_that_promises_more_rows_than_fit_into_memory_is_named() -> None:
    footers = [
        Footer(file, rows, pa.schema([]), frozenset(), frozenset()) for file, rows in {"a": 1, "b": 2**50}.items()
    ]
    with pytest.raises(ManifestError, match=r"^b promises 1125899906842624 rows"):
        module._check_promises(footers)
    assert available_memory() > 0
