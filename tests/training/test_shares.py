from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from msmtfn.training.shares import EpochShares

FILES = {"b.parquet": range(5, 9), "a.parquet": range(5), "c.parquet": range(9, 11)}


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """Return a folder of three files with the calls 0 to 10, of which 3 could not be prepared."""
    for name, numbers in FILES.items():
        rows = [{"number": number, "status": "rejected" if number == 3 else None} for number in numbers]
        pq.write_table(
            pa.Table.from_pylist(rows, pa.schema([("number", pa.int64()), ("status", pa.string())])), tmp_path / name
        )
    return str(tmp_path)


def share(calls: EpochShares, epoch: int, rank: int, world_size: int) -> list[int]:
    return [number for table in calls.read([7, epoch], rank, world_size) for number in table["number"].to_pylist()]


def test_one_worker_reads_every_ready_call_once(folder: str) -> None:
    assert sorted(share(EpochShares(folder), 0, 0, 1)) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]


def test_shares_have_equal_sizes_and_no_call_in_common(folder: str) -> None:
    shares = [share(EpochShares(folder), 0, rank, 3) for rank in range(3)]
    assert [len(each) for each in shares] == [3, 3, 3]
    assert len({number for each in shares for number in each}) == 9


def test_another_epoch_deals_the_calls_anew(folder: str) -> None:
    calls = EpochShares(folder)
    first = [frozenset(share(calls, epoch, 0, 2)) for epoch in range(20)]
    assert len(set(first)) > 10
    assert frozenset.union(*first) == {0, 1, 2, 4, 5, 6, 7, 8, 9, 10}


def test_no_call_is_left_out_in_every_epoch(folder: str) -> None:
    calls = EpochShares(folder)
    seen = [{number for rank in range(3) for number in share(calls, epoch, rank, 3)} for epoch in range(40)]
    left_out = [({0, 1, 2, 4, 5, 6, 7, 8, 9, 10} - each).pop() for each in seen]
    assert len(set(left_out)) > 5


def test_a_share_depends_on_seed_epoch_and_rank_only(folder: str) -> None:
    assert share(EpochShares(folder), 4, 1, 2) == share(EpochShares(folder), 4, 1, 2)
