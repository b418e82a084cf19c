from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from msmtfn.calls.days import find_days
from msmtfn.errors import ManifestError


def day(number: int) -> dt.date:
    return dt.date(2026, 3, number)


@pytest.fixture
def root(tmp_path: Path) -> str:
    for name in ("date=2026-03-05", "date=2026-03-02", "date=2026-03-03", "date=soon", "other"):
        (tmp_path / name).mkdir()
    return str(tmp_path)


def test_the_days_of_a_range_are_found_in_order_with_both_ends(root: str) -> None:
    assert find_days(root) == [day(2), day(3), day(5)]
    assert find_days(root, day(3), day(5)) == [day(3), day(5)]
    assert find_days(root, last=day(4)) == [day(2), day(3)]
    assert find_days(root, day(4)) == [day(5)]


def test_a_range_without_a_day_is_refused_with_the_days_that_exist(root: str) -> None:
    with pytest.raises(ManifestError, match="no day from 2026-03-06 to the last; it has 2026-03-02 to 2026-03-05;"):
        find_days(root, day(6))


def test_a_root_without_a_day_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="has no folder date=YYYY-MM-DD"):
        find_days(str(tmp_path / "nowhere"))
