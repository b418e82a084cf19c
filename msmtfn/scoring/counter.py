"""What a run counts while it goes on: calls done and rejected, and how many calls each node has prepared.

For the eye only: a batch that is tried again counts twice. Its imports are few, since they cost every process that
counts its seconds.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

logger = logging.getLogger(__name__)

ID_LENGTH: Final = 8
"""Of a node's id, as much as tells it from others: several may share an address."""
LAST_WORD_SEC: Final = 10.0


class RunCounter:
    """Counts what the stages of a run have done."""

    def __init__(self) -> None:
        self.done = 0
        self.rejected = 0
        self.unavailable = 0
        self.prepared: Counter[str] = Counter()

    def add(self, done: int, rejected: int, unavailable: int) -> None:
        """Count a batch that was scored."""
        self.done += done
        self.rejected += rejected
        self.unavailable += unavailable

    def add_prepared(self, node_id: str, calls: int) -> None:
        """Count a batch that a node has prepared."""
        self.prepared[node_id] += calls

    def read(self) -> tuple[int, int, int]:
        """Calls done, rejected, and left over because storage would not give their recordings."""
        return self.done, self.rejected, self.unavailable

    def read_prepared(self) -> dict[str, int]:
        """Calls that were prepared, by the id of the node."""
        return dict(self.prepared)


@contextlib.contextmanager
def open_counter(name: str) -> Iterator[Any]:
    """A `RunCounter` on this node, for the stages of a run; at the end the log tells what each node has prepared.

    Args:
        name: of the run, for the log.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote: Any = ray.remote(RunCounter)
    counter = remote.options(num_cpus=0, scheduling_strategy=here).remote()
    yield counter
    with contextlib.suppress(RayError):  # no figures are no reason to fail
        prepared = ray.get(counter.read_prepared.remote(), timeout=LAST_WORD_SEC)
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        logger.info("%s: %s", name, describe_nodes(prepared, addresses))


def prepare_counted(prepare: Callable[[pa.Table], pa.Table], counter: Any, batch: pa.Table) -> pa.Table:
    """Prepare a batch, and count its calls for the node that this runs on."""
    prepared = prepare(batch)
    counter.add_prepared.remote(ray.get_runtime_context().get_node_id(), len(prepared))
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
