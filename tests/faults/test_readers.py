from __future__ import annotations

import pytest

from tests.faults.readers import READERS, ReadersConfig, run_readers


@pytest.mark.slow
@pytest.mark.long
def test_readers_see_whole_days_only_while_a_day_is_replaced(place: str) -> None:
    rows = run_readers(ReadersConfig(replacements=10, calls=30), f"{place}/leads")
    assert len(rows) == len(READERS)
    assert [row for row in rows if row["whole"] < 1 or row["mixed"] or row["missing"] or row["failed"]] == []
