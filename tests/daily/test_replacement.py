"""A published day is not replaced by a worse one, unless the caller insists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from msmtfn.daily.graph import Task
from msmtfn.daily.publish import read_success
from msmtfn.daily.replacement import refuse_worse
from msmtfn.daily.runner import DayRunner
from msmtfn.daily.success import Success
from msmtfn.errors import PublishError
from tests.daily.parts import DATE, RECORD
from tests.daily.plain_graph import Figures, PlainGraph, write_manifest


def record(calls: int, rejected: int) -> Success:
    reasons = {"scoring_failed": rejected} if rejected else {}
    return replace(RECORD, calls=calls, scored=calls - rejected, rejected=rejected, rejected_by_reason=reasons)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((10, 0), (10, 10)),  # no score at all
        ((10, 0), (10, 3)),  # more rejects than allowed
        ((10, 2), (100, 100)),
        ((10, 4), (10, 5)),
    ],
)
def test_a_worse_day_is_refused(before: tuple[int, int], after: tuple[int, int]) -> None:
    with pytest.raises(PublishError, match=r"rejected \(scoring_failed \d+\).*--force replaces the day nevertheless$"):
        refuse_worse(record(*before), record(*after), 0.2)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((10, 0), (10, 2)),  # as many rejects as allowed
        ((10, 6), (10, 5)),  # still too many, but fewer
        ((10, 5), (10, 5)),
        ((10, 10), (10, 10)),  # what is published is of no use either
        ((0, 0), (10, 10)),
        ((10, 0), (0, 0)),  # a day without calls has nothing to reject
    ],
)
def test_other_days_are_accepted(before: tuple[int, int], after: tuple[int, int]) -> None:
    refuse_worse(record(*before), record(*after), 0.2)


def test_the_first_publication_of_a_day_is_accepted_whatever_its_rejects() -> None:
    refuse_worse(None, record(10, 10), 0.2)


def test_all_rejects_may_be_allowed_but_not_a_day_without_a_score() -> None:
    refuse_worse(record(10, 0), record(10, 9), 1.0)
    with pytest.raises(PublishError):
        refuse_worse(record(10, 0), record(10, 10), 1.0)


@dataclass
class BrokenGraph(PlainGraph):
    """A graph whose model gives no call a score."""

    def run_pass(self, task: Task, report: Callable[[int, int], None], *, alone: bool, num_left: int) -> Figures:
        figures = super().run_pass(task, report, alone=alone, num_left=num_left)
        for part in Path(task.folder.parts).glob("*.parquet"):
            rows = pq.read_table(part).to_pylist()
            failed = {"status": "rejected", "error_code": "scoring_failed", "lead_score": None}
            pq.write_table(pa.Table.from_pylist([row | failed for row in rows], task.schema), part)
        return figures


def runner(manifests: Path, leads: str, graph: PlainGraph, **options: Any) -> DayRunner[PlainGraph]:
    places: dict[str, Any] = {"manifests": str(manifests), "root": leads, "work": f"{leads}.work"}
    console = Console(file=StringIO())
    return DayRunner(**places, graph=graph, console=console, start_ray=lambda: None, verb="scoring", **options)


def test_a_model_that_rejects_every_call_does_not_replace_a_good_day_unless_forced(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifests", 3)
    leads = str(tmp_path / "leads")
    _, good = runner(tmp_path / "manifests", leads, PlainGraph()).run(DATE)
    for _ in range(2):  # the same command again says the same
        with pytest.raises(PublishError, match=r"3 of 3 calls were rejected \(scoring_failed 3\)"):
            runner(tmp_path / "manifests", leads, BrokenGraph(version="v2")).run(DATE)
        assert read_success(leads, DATE) == good

    # What was scored is kept, so that forcing the day needs no second pass.
    _, forced = runner(tmp_path / "manifests", leads, PlainGraph([[]], version="v2"), force=True).run(DATE)
    assert (forced.rejected, read_success(leads, DATE)) == (3, forced)
