"""Live figures of a run: calls by outcome, seconds of audio and of work, and calls prepared per node.

The figures are for display only, since a batch that is retried counts twice. One actor counts for all processes of a
run and exports the figures to Prometheus through Ray, so they outlive every worker. Every process that counts imports
this module, so its imports are kept few.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter as Count
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.metrics import Counter, Gauge, Histogram
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from msmtfn.errors import RejectCode

logger = logging.getLogger(__name__)

NODE_ID_LENGTH: Final = 8
"""Digits of a node's id that are logged; needed because several nodes may share an address."""
FINAL_READ_SEC: Final = 10.0
"""Seconds to wait for the counter's figures at the end of a run."""
PREPARE, SCORE = "prepare", "score"
LISTEN, RECOGNISE = "listen", "recognise"
"""Names of the stages of scoring, and of those of transcription."""
REJECT_CODES: Final = frozenset(map(str, RejectCode))
OUR_FAILURES: Final = frozenset(map(str, (RejectCode.SCORING_FAILED, RejectCode.ASR_FAILED, RejectCode.INTERNAL_ERROR)))
"""Reasons of rejects that no recording and no row should cause."""
SECONDS_BOUNDS: Final = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]


@dataclass(frozen=True, slots=True)
class Batch:
    """Figures of one batch that has left the last stage.

    Attributes:
        outcomes: number of calls by outcome, `scored` or `transcribed`, or the error code of the reject.
        unavailable: number of calls left out because storage did not deliver their recordings.
        audio_sec: total length of the recordings in seconds.
        seconds: seconds that the last stage took.
        failure: detail of one of the rejects for which not the call is to blame, if there are such.
        unranked: number of scored calls that get no rank, by reason.
    """

    outcomes: Mapping[str, int]
    unavailable: int
    audio_sec: float
    seconds: float
    failure: str = ""
    unranked: Mapping[str, int] = field(default_factory=dict)

    @property
    def done(self) -> int:
        """Number of calls, rejects included."""
        return sum(self.outcomes.values())

    @property
    def rejected(self) -> int:
        """Number of rejects."""
        return sum(number for outcome, number in self.outcomes.items() if outcome in REJECT_CODES)

    @property
    def failed(self) -> int:
        """Number of rejects for which not the call is to blame."""
        return sum(number for outcome, number in self.outcomes.items() if outcome in OUR_FAILURES)


@dataclass(slots=True)
class RunFigures:
    """Figures of a run so far.

    Attributes:
        done: number of calls done, rejects included.
        rejected: number of calls rejected.
        unavailable: number of calls left out because storage did not deliver their recordings.
        unranked: number of scored calls that get no rank, by reason.
        startup_sec: seconds until the first batch reached the last stage; None until then.
        stage_sec: seconds of work of all processes, by stage.
        prepared: number of calls prepared, by the id of the node.
        failed: number of rejects for which not the call is to blame.
        failure: detail of one of them.
        starts: number of processes of the last stage that have started, those that died and started again included.
        ready: number of processes of the last stage that have loaded the model.
        cause: cause of the last failure of a block; empty if none failed.
    """

    done: int = 0
    rejected: int = 0
    unavailable: int = 0
    unranked: Count[str] = field(default_factory=Count)
    startup_sec: float | None = None
    stage_sec: dict[str, float] = field(default_factory=dict)
    prepared: Count[str] = field(default_factory=Count)
    failed: int = 0
    failure: str = ""
    starts: int = 0
    ready: int = 0
    cause: str = ""


class RunMetrics:
    """Prometheus metrics exported by Ray, which prefixes their names with `ray_`; works in Ray processes only."""

    def __init__(self, num_calls: int) -> None:
        self.calls = Counter(
            "msmtfn_calls", "Calls by outcome: scored, transcribed, or the error code of the reject.", ("outcome",)
        )
        self.unranked = Counter("msmtfn_calls_unranked", "Scored calls that get no rank, by reason.", ("reason",))
        self.audio = Counter("msmtfn_audio_seconds", "Seconds of audio of the calls done.")
        self.stages = Histogram(
            "msmtfn_stage_seconds", "Seconds a stage took for a batch of calls.", SECONDS_BOUNDS, ("stage",)
        )
        # The histogram's own sum is no substitute: Ray approximates it from the midpoints of the bins.
        self.work = Counter("msmtfn_work_seconds", "Seconds of work of all processes of a stage.", ("stage",))
        self.rate = Gauge("msmtfn_calls_per_second", "Calls done per second since the last stage got its first batch.")
        self.left = Gauge("msmtfn_calls_left", "Calls of this run still to be done.")
        self.left.set(num_calls)

    def add(self, batch: Batch, stage: str) -> None:
        """Count a batch that has left the last stage."""
        for outcome, number in batch.outcomes.items():
            self.calls.inc(number, {"outcome": outcome})
        for reason, number in batch.unranked.items():
            self.unranked.inc(number, {"reason": reason})
        if batch.audio_sec:
            self.audio.inc(batch.audio_sec)
        self.add_work(stage, batch.seconds)

    def add_work(self, stage: str, seconds: float) -> None:
        """Count the seconds a stage took for a batch."""
        self.stages.observe(seconds, {"stage": stage})
        if seconds:
            self.work.inc(seconds, {"stage": stage})


class RunCounter:
    """Counter of the work that the stages of a run have done.

    Args:
        num_calls: number of calls to do in this pass.
        metrics: makes the metrics to export the figures to; None exports nothing.
        stages: names of the first and the last stage.
    """

    def __init__(
        self,
        num_calls: int = 0,
        metrics: Callable[[int], RunMetrics] | None = RunMetrics,
        stages: tuple[str, str] = (PREPARE, SCORE),
    ) -> None:
        self.num_calls = num_calls
        self.stages = stages
        self.figures = RunFigures(stage_sec=dict.fromkeys(stages, 0.0))
        self.attempts: dict[int, float] = {}
        self.overdue: set[int] = set()
        self.metrics = None if metrics is None else metrics(num_calls)
        self.started = time.monotonic()

    def add(self, batch: Batch) -> None:
        """Count a batch that has left the last stage."""
        figures, seconds = self.figures, time.monotonic() - self.started
        if figures.startup_sec is None:
            figures.startup_sec = max(seconds - batch.seconds, 0.0)
        figures.done += batch.done
        figures.rejected += batch.rejected
        figures.unavailable += batch.unavailable
        figures.failed += batch.failed
        figures.failure = batch.failure or figures.failure
        figures.unranked.update(batch.unranked)
        figures.stage_sec[self.stages[1]] += batch.seconds
        if self.metrics is not None:
            self.metrics.add(batch, self.stages[1])
            self.metrics.rate.set(figures.done / max(seconds - figures.startup_sec, 1e-3))
            self.metrics.left.set(max(self.num_calls - figures.done, 0))

    def add_prepared(self, node_id: str, calls: int, seconds: float) -> None:
        """Count a batch prepared by a node."""
        self.figures.prepared[node_id] += calls
        self.figures.stage_sec[self.stages[0]] += seconds
        if self.metrics is not None:
            self.metrics.add_work(self.stages[0], seconds)

    def add_start(self) -> None:
        """Count a process of the last stage that starts; one that dies is started again."""
        self.figures.starts += 1

    def add_ready(self) -> None:
        """Count a process of the last stage that has loaded the model."""
        self.figures.ready += 1

    def begin(self, row_ids: Sequence[int], done: Sequence[int]) -> None:
        """Note that work on some calls begins, and that on others has ended."""
        self.end(done)
        self.attempts |= dict.fromkeys(row_ids, time.monotonic())

    def end(self, row_ids: Sequence[int]) -> None:
        """Note that work on some calls has ended."""
        for row_id in row_ids:
            self.attempts.pop(row_id, None)

    def find_overdue(self, row_ids: Sequence[int], limit_sec: float) -> list[int]:
        """Return the calls of which an earlier attempt began a limit ago and has not ended.

        The process of such an attempt was ended by its watchdog, which can tell nobody.
        """
        now = time.monotonic()
        self.overdue |= {each for each in row_ids if now - self.attempts.get(each, now) >= limit_sec}
        return [row_id for row_id in row_ids if row_id in self.overdue]

    def read(self) -> RunFigures:
        """Return the figures so far."""
        return self.figures


@contextlib.contextmanager
def open_counter(name: str, num_calls: int = 0, stages: tuple[str, str] = (PREPARE, SCORE)) -> Iterator[Any]:
    """Run a `RunCounter` actor on this node; at the end, log how many calls each node has prepared.

    Args:
        name: name of the run in the log.
        num_calls: number of calls to do.
        stages: names of the first and the last stage.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(RunCounter)
    counter = remote.options(num_cpus=0, scheduling_strategy=here).remote(num_calls, stages=stages)
    yield counter
    with contextlib.suppress(RayError):  # missing figures must not fail the run
        prepared = ray.get(counter.read.remote(), timeout=FINAL_READ_SEC).prepared
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        logger.info("%s: %s", name, describe_nodes(prepared, addresses))


def prepare_counted(prepare: Callable[[pa.Table], pa.Table], counter: Any, batch: pa.Table) -> pa.Table:
    """Prepare a batch and count its calls for this node."""
    started = time.monotonic()
    prepared = prepare(batch)
    seconds = time.monotonic() - started
    counter.add_prepared.remote(ray.get_runtime_context().get_node_id(), len(prepared), seconds)
    return prepared


def describe_nodes(prepared: Mapping[str, int], addresses: Mapping[str, str]) -> str:
    """Return one line with the number of calls each node has prepared, the busiest first.

    Args:
        prepared: number of calls by node id.
        addresses: addresses by node id, including nodes that have left the cluster.
    """
    nodes = ", ".join(
        f"{addresses.get(node_id, 'unknown')} (node {node_id[:NODE_ID_LENGTH]}) {calls} calls"
        for node_id, calls in sorted(prepared.items(), key=lambda item: (-item[1], item[0]))
    )
    count = f"{len(prepared)} node" if len(prepared) == 1 else f"{len(prepared)} nodes"
    return f"prepared on {count}: {nodes}" if nodes else "prepared no calls"
