from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest

from msmtfn.delivery.published import open_day, open_days_before, read_batches
from msmtfn.errors import PublishError
from tests.daily.parts import DATE
from tests.delivery.days import SCHEMA, at, lead, open_leads, publish_leads


def test_a_day_that_is_not_published_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="score the day first"):
        open_day(str(tmp_path), DATE)


def test_a_column_that_the_day_lacks_or_has_in_another_type_is_null(tmp_path: Path) -> None:
    older = SCHEMA.remove(SCHEMA.get_field_index("prediction_set"))
    older = older.set(older.get_field_index("facts"), pa.field("facts", pa.string()))
    day = open_leads(str(tmp_path), [lead("c1", 1, 90.0, facts="text")], schema=older)
    fields = [pa.field("facts", SCHEMA.field("facts").type), SCHEMA.field("prediction_set"), SCHEMA.field("call_id")]
    (rows,) = (table.to_pylist() for table in read_batches(day, fields))
    assert rows == [{"facts": None, "prediction_set": None, "call_id": "c1"}]


def test_a_time_is_what_a_clock_at_its_zone_showed(tmp_path: Path) -> None:
    day = open_leads(str(tmp_path), [lead("c1", 1, 90.0, started_at=at(9))])
    (rows,) = (table.to_pylist() for table in read_batches(day, [pa.field("started_at", pa.timestamp("us"))]))
    assert rows[0]["started_at"].hour == 9


def test_only_published_days_within_the_number_of_days_are_opened(tmp_path: Path) -> None:
    for days_before in (0, 1, 3, 8):
        publish_leads(str(tmp_path), [lead("c1", 1, 90.0)], DATE - dt.timedelta(days=days_before))
    (tmp_path / f"date={DATE - dt.timedelta(days=2)}").mkdir()
    found = [day.date for day in open_days_before(str(tmp_path), DATE, 7)]
    assert found == [DATE - dt.timedelta(days=3), DATE - dt.timedelta(days=1)]
