"""What a day needs of the graph that its calls go through; `scoring` and `transcription` plug their own in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.dataset as pads

from msmtfn.daily.state import RunFolder
from msmtfn.daily.success import Success
from msmtfn.daily.tables import DayTable


@dataclass(frozen=True, slots=True)
class Task:
    """Calls of one run, and the folder where the graph reads and writes.

    Attributes:
        folder: folder of the run.
        num_calls: number of calls in its copy of the manifest.
        schema: schema of the parts.
        model_version: version of the model, for the lineage columns.
        run_id: id of the run, for the lineage columns.
    """

    folder: RunFolder
    num_calls: int
    schema: pa.Schema
    model_version: str
    run_id: str


class PassFigures(Protocol):
    """Figures of one pass of a graph."""

    @property
    def done(self) -> int:
        """Number of calls done, rejects included."""

    @property
    def unavailable(self) -> int:
        """Number of calls left out because storage did not deliver their recordings."""

    @property
    def startup_sec(self) -> float | None:
        """Seconds until the first batch reached the last stage; None if none did."""

    @property
    def stage_sec(self) -> Mapping[str, float]:
        """Seconds of work of all processes, by stage."""

    @property
    def cause(self) -> str:
        """Cause of the last failure that left calls undone; empty if there was none."""


class RunPass(Protocol):
    """Function that runs one pass of a graph over the calls that are not committed; Ray must be running."""

    def __call__(self, task: Task, report: Callable[[int, int], None], *, alone: bool, num_left: int) -> PassFigures:
        """Write each call's row to the run's parts, and its id to the checkpoint.

        A call whose process died, or whose recording storage did not deliver, is left uncommitted.

        Args:
            task: what to read and where to write.
            report: callback that receives the numbers of calls done and rejected by this pass.
            alone: whether to process one call at a time, so that a call that crashes its process affects no other.
            num_left: number of calls that are not committed.
        """


class Graph(Protocol):
    """Graph that a day's calls go through, with its model and its options."""

    @property
    def name(self) -> str:
        """Name of the model as the caller gave it."""

    @property
    def version(self) -> str:
        """Fingerprint of the model's content."""

    @property
    def options(self) -> str:
        """Options that change a result, as JSON."""

    @property
    def reserved(self) -> frozenset[str]:
        """Names of the graph's own columns, which a column of the manifest must not have."""

    @property
    def table(self) -> DayTable:
        """Leads or transcripts: the rows that the days publish."""

    @property
    def max_crashed_share(self) -> float:
        """Maximum share of the day's calls that may be rejected because their processes died."""

    def schema(self, passed: Iterable[pa.Field], /) -> pa.Schema:
        """Return the schema of the parts, given the columns of the manifest that pass through."""

    def load(self, manifests: str, /) -> RunPass:
        """Load the model, so that its errors show before the cluster starts.

        Args:
            manifests: root of all manifests, which relative names of recordings refer to.
        """

    def compare(self, parts: pads.Dataset, earlier: Iterable[Success], /) -> dict[str, Any]:
        """Compare a day that is complete with what the model was made on and with the days before it."""
