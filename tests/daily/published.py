"""What is read of a published day, for the tests of publishing."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from msmtfn import storage
from msmtfn.daily.publish import day_folder, read_leads
from tests.daily.parts import DATE, Row, rejected, scored

FOUR_CALLS = [[scored(0, 10.0), scored(1, 90.0)], [scored(2, 50.0), rejected(3)]]


def table(leads: str) -> pa.Table:
    return read_leads(leads, DATE).to_table()


def rows(leads: str) -> list[Row]:
    return [dict(row) for row in table(leads).to_pylist()]


def column(leads: str, name: str) -> list[Any]:
    return [row[name] for row in rows(leads)]


def files_of_the_day(leads: str) -> list[str]:
    return [file.rpartition("/")[2] for file in storage.list_files(day_folder(leads, DATE), ".parquet")]
