"""What a run counts while it goes on: calls and their reasons, seconds of audio and of work, and what each node did.

For the eye only: a batch that is tried again counts twice. One actor counts for all processes of a run and shows its
figures to Prometheus through Ray, so that they outlive every worker. Its imports are few, since they cost every
process that counts its seconds.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter as Count
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge, Histogram
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from msmtfn.leads.schema import SCORED

logger = logging.getLogger(__name__)

ID_LENGTH: Final = 8
"""Of a node's id, as much as tells it from others: several may share an address."""
LAST_WORD_SEC: Final = 10.0
PREPARE, SCORE = "prepare", "score"
SECONDS_BOUNDS: Final = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch that was scored.

    Attributes:
        outcomes: calls by `scored` or the reason of their rejection.
        unavailable: calls that are left over, since storage would not give their recordings.
        audio_sec: of the recordings.
        seconds: that the network took.
    """

    outcomes: Mapping[str, int]
    unavailable: int
    audio_sec: float
    seconds: float

    @property
    def done(self) -> int:
        """Calls, scored and rejected."""
        return sum(self.outcomes.values())


@dataclass(slots=True)
class RunFigures:
    """What a run has done so far.

    Attributes:
        done: calls, scored and rejected.
        rejected: of them.
        unavailable: calls that were left over because storage would not give their recordings.
        startup_sec: until the first batch reached a scorer; None before.
        stage_sec: work of all processes by stage, `prepare` and `score`.
        prepared: calls that were prepared, by the id of the node.
    """

    done: int = 0
    rejected: int = 0
    unavailable: int = 0
    startup_sec: float | None = None
    stage_sec: dict[str, float] = field(default_factory=lambda: {PREPARE: 0.0, SCORE: 0.0})
    prepared: Count[str] = field(default_factory=Count)


class RunMetrics:
    """The figures as Ray exports them, each name with `ray_` before it; only within a process of Ray."""

    def __init__(self, num_calls: int) -> None:
        self.calls = Counter("msmtfn_calls", "Calls by outcome: scored, or the reason of the reject.", ("outcome",))
        self.audio = Counter("msmtfn_audio_seconds", "Seconds of recordings in calls that were done.")
        self.stages = Histogram(
            "msmtfn_stage_seconds", "Seconds that a stage took for a batch of calls.", SECONDS_BOUNDS, ("stage",)
        )
        # Not the histogram's sum, which Ray makes up from the middles of its bins.
        self.work = Counter("msmtfn_work_seconds", "Seconds of work of all processes of a stage.", ("stage",))
        self.rate = Gauge("msmtfn_calls_per_second", "Calls done a second since the first batch reached a scorer.")
        self.left = Gauge("msmtfn_calls_left", "Calls of this run that are not done.")
        self.left.set(num_calls)

    def add(self, batch: Batch) -> None:
        """Count a batch that was scored."""
        for outcome, number in batch.outcomes.items():
            self.calls.inc(number, {"outcome": outcome})
        if batch.audio_sec:
            self.audio.inc(batch.audio_sec)
        self.add_work(SCORE, batch.seconds)

    def add_work(self, stage: str, seconds: float) -> None:
        """Count what a stage took for a batch."""
        self.stages.observe(seconds, {"stage": stage})
        if seconds:
            self.work.inc(seconds, {"stage": stage})


class RunCounter:
    """Counts what the stages of a run have done.

    Args:
        num_calls: that this pass has to do.
        metrics: where the figures are shown as well.
    """

    def __init__(self, num_calls: int = 0, metrics: Callable[[int], RunMetrics] | None = RunMetrics) -> None:
        self.num_calls = num_calls
        self.figures = RunFigures()
        self.metrics = metrics and metrics(num_calls)
        self.started = time.monotonic()

    def add(self, batch: Batch) -> None:
        """Count a batch that was scored."""
        figures, seconds = self.figures, time.monotonic() - self.started
        if figures.startup_sec is None:
            figures.startup_sec = max(seconds - batch.seconds, 0.0)
        figures.done += batch.done
        figures.rejected += batch.done - batch.outcomes.get(SCORED, 0)
        figures.unavailable += batch.unavailable
        figures.stage_sec[SCORE] += batch.seconds
        if self.metrics is not None:
            self.metrics.add(batch)
            self.metrics.rate.set(figures.done / max(seconds - figures.startup_sec, 1e-3))
            self.metrics.left.set(max(self.num_calls - figures.done, 0))

    def add_prepared(self, node_id: str, calls: int, seconds: float) -> None:
        """Count a batch that a node has prepared."""
        self.figures.prepared[node_id] += calls
        self.figures.stage_sec[PREPARE] += seconds
        if self.metrics is not None:
            self.metrics.add_work(PREPARE, seconds)

    def read(self) -> RunFigures:
        """What was done so far."""
        return self.figures


@contextlib.contextmanager
def open_counter(name: str, num_calls: int = 0) -> Iterator[Any]:
    """A `RunCounter` on this node, for the stages of a run; at the end the log tells what each node has prepared.

    Args:
        name: of the run, for the log.
        num_calls: that are to be done.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(RunCounter)
    counter = remote.options(num_cpus=0, scheduling_strategy=here).remote(num_calls)
    yield counter
    with contextlib.suppress(RayError):  # no figures are no reason to fail
        prepared = ray.get(counter.read.remote(), timeout=LAST_WORD_SEC).prepared
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        logger.info("%s: %s", name, describe_nodes(prepared, addresses))


def prepare_counted(prepare: Callable[[pa.Table], pa.Table], counter: Any, batch: pa.Table) -> pa.Table:
    """Prepare a batch, and count its calls for the node that this runs on."""
    started = time.monotonic()
    prepared = prepare(batch)
    seconds = time.monotonic() - started
    counter.add_prepared.remote(ray.get_runtime_context().get_node_id(), len(prepared), seconds)
    return prepared


def describe_nodes(prepared: Mapping[str, int], addresses: Mapping[str, str]) -> str:
    """Say how many calls each node has prepared, in one line, the busiest first.

    Args:
        prepared: calls, by the id of the node.
        addresses: of the nodes, by their ids; those that have left the cluster among them.
    """
    nodes = ", ".join(
        f"{addresses.get(node_id, 'unknown')} (node {node_id[:ID_LENGTH]}) {calls} calls"
        for node_id, calls in sorted(prepared.items(), key=lambda item: (-item[1], item[0]))
    )
    count = f"{len(prepared)} node" if len(prepared) == 1 else f"{len(prepared)} nodes"
    return f"prepared on {count}: {nodes}" if nodes else "prepared no calls"
