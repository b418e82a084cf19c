"""A graph without Ray, a model or recordings, which commits the calls that it is told to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from msmtfn import storage
from msmtfn.daily.day import DayPlan, plan_day
from msmtfn.daily.graph import Task
from msmtfn.daily.state import RunState
from msmtfn.daily.success import Success
from msmtfn.daily.tables import LEADS, DayTable
from msmtfn.leads.schema import REJECTED, SCORED, parts_schema
from tests.daily.parts import DATE


class Killed(BaseException):
    """The process is no more."""


@dataclass(frozen=True)
class Figures:
    """Figures of a pass that took no time."""

    done: int
    unavailable: int = 0
    startup_sec: float | None = None
    stage_sec: dict[str, float] = field(default_factory=dict)
    cause: str = ""


@dataclass
class PlainGraph:
    """A graph that gives every call the same score.

    Attributes:
        passes: row ids that each pass commits; after the last, a pass commits all that are left.
        dies_in: number of the pass, from 0, that is killed once it has committed its calls.
        missing: ids of the calls that are rejected, since their recordings are not there.
        look: called before and after each pass, and before the day is published.
    """

    passes: list[Collection[int]] = field(default_factory=list)
    dies_in: int | None = None
    missing: Collection[str] = ()
    look: Callable[[RunState | None], None] = lambda _state: None
    name: str = "plain"
    version: str = "v1"
    options: str = "{}"
    reserved: frozenset[str] = frozenset()
    table: DayTable = LEADS
    max_crashed_share: float = 1.0

    def schema(self, passed: Iterable[pa.Field]) -> pa.Schema:
        return parts_schema(passed)

    def load(self, _manifests: str) -> Callable[..., Figures]:
        return self.run_pass

    def compare(self, _parts: pads.Dataset, _earlier: Iterable[Success]) -> dict[str, Any]:
        self.look(None)
        return {"figures": {}, "moved": []}

    def run_pass(self, task: Task, report: Callable[[int, int], None], *, alone: bool, num_left: int) -> Figures:
        self.look(RunState.RUNNING)
        left = task.folder.uncommitted_ids(task.num_calls).tolist()
        assert num_left == len(left)
        chosen = [row_id for row_id in left if not self.passes or row_id in self.passes[0]]
        self.passes = self.passes[1:]
        commit(task, chosen, self.missing)
        report(len(chosen), 0)
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                raise Killed
        self.look(None)
        return Figures(len(chosen))


def commit(task: Task, row_ids: list[int], missing: Collection[str] = ()) -> None:
    """Write a part with these calls, and then their ids to the checkpoint, as the engine does."""
    if not row_ids:
        return
    filesystem, calls = storage.arrow_filesystem_of(task.folder.calls)
    copied = pads.dataset(calls, filesystem=filesystem).to_table().to_pylist()
    scored = {"status": SCORED, "lead_score": 50.0, "intent_predicted": "B", "duration_sec": 60.0, "num_rounds": 2}
    rejected = {"status": REJECTED, "error_code": "audio_not_found", "error_detail": "why"}
    rows = [{**row, **(rejected if row["call_id"] in missing else scored), "run_id": task.run_id} for row in copied]
    name = "-".join(map(str, row_ids))
    part = pa.Table.from_pylist([row for row in rows if row["row_id"] in row_ids], schema=task.schema)
    storage.write_parquet(f"{task.folder.parts}/{name}.parquet", part)
    storage.make_folder(task.folder.checkpoint)
    ids = pa.table({"row_id": pa.array(row_ids, pa.int64())})
    storage.write_parquet(f"{task.folder.checkpoint}/{name}.parquet", ids)


def write_manifest(root: Path, num_calls: int) -> None:
    """Write the manifest of a day."""
    folder = root / f"date={DATE}"
    folder.mkdir(parents=True)
    names = pa.array([f"c{number}" for number in range(num_calls)], pa.string())
    pq.write_table(pa.table({"call_id": names, "uri": names}), folder / "calls.parquet")


def plan(manifests: Path, leads: str, graph: PlainGraph | None = None, **options: Any) -> DayPlan:
    """Plan the day."""
    return plan_day(DATE, str(manifests), leads, graph or PlainGraph(), **options)
