"""A Ray cluster of two nodes on this machine, each by `ray start`, of which the second may be killed and replaced."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msmtfn.errors import JobError
from tests.faults.s3_server import free_ports

START_SEC: Final = 180.0
END_SEC: Final = 30.0
ADDRESSES: Final = ("127.0.0.2", "127.0.0.3")
"""Loopback addresses, a node each: Ray replaces 127.0.0.1 by one that others can reach."""

OPTIONS: Final = ("--block", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0")
OF_A_BUSY_MACHINE: Final = {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "120"}
"""The nice starve there, and half a minute is not enough to start."""

OBJECT_STORE_BYTES: Final = 300 * 10**6


class RayCluster:
    """Two nodes with a number of logical CPUs each."""

    def __init__(self, folder: Path, logs: Path, cpus_per_node: int, environment: dict[str, str]) -> None:
        """Prepare a cluster.

        Args:
            folder: for its files; its path must be short, for the sockets' sake.
            logs: for the nodes' logs.
            cpus_per_node: logical CPUs of each node.
            environment: what its processes are to see beside this one's environment, Ray's variables left out; without
                a word of it in there, the cluster asks for no token.
        """
        self.folder = folder
        self.logs = logs
        self.cpus_per_node = cpus_per_node
        self.port, self.dashboard_port, self.client_port = free_ports(3)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {**inherited, **OF_A_BUSY_MACHINE, "RAY_AUTH_MODE": "disabled", **environment}
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def dashboard(self) -> str:
        """What `RAY_API_SERVER_ADDRESS` must say."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def address(self) -> str:
        """What `RAY_ADDRESS` must say."""
        return f"{ADDRESSES[0]}:{self.port}"

    def start(self, node: int) -> None:
        """Start a node, 0 is the head, and wait until it is there.

        Raises:
            JobError: it did not start.
        """
        head = ["--head", f"--port={self.port}", f"--ray-client-server-port={self.client_port}"]
        head += [f"--dashboard-port={self.dashboard_port}", "--dashboard-host=127.0.0.1"]
        head += [f"--temp-dir={self.folder / 'ray'}"]
        role = [f"--address={self.address}"] if node else head
        command = [f"{sysconfig.get_path('scripts')}/ray", "start", *OPTIONS, *role]
        command += [f"--node-ip-address={ADDRESSES[node]}", f"--num-cpus={self.cpus_per_node}"]
        # Ray's own is fixed, and where another Ray has it the agent takes no jobs.
        command += [f"--dashboard-agent-listen-port={free_ports(1)[0]}"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
        log = self.logs / f"node-{node}-{time.monotonic_ns()}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
        self.nodes[node] = process
        deadline = time.monotonic() + START_SEC
        while "Ray runtime started" not in log.read_text(encoding="utf-8", errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise JobError(f"the Ray node did not start; {log} says why")
            time.sleep(0.2)

    def kill(self, node: int) -> None:
        """Kill a node with all its processes, at once and without a word."""
        process = self.nodes.pop(node)
        below = processes_below(process.pid)
        process.kill()
        for pid in below:
            kill_process(pid)
        process.wait(END_SEC)

    def end(self) -> None:
        """Kill all nodes."""
        for node in list(self.nodes):
            self.kill(node)

    def workers(self, name: str) -> list[int]:
        """Ids of the cluster's processes in whose command line a name stands."""
        pids = [pid for node in self.nodes.values() for pid in processes_below(node.pid)]
        return [pid for pid in pids if name in _command_of(pid)]


def processes_below(pid: int) -> list[int]:
    """Ids of all processes that one has started, directly or not."""
    import psutil  # noqa: PLC0415 - it comes with the tests' packages

    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def kill_process(pid: int) -> None:
    """Kill a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


@contextlib.contextmanager
def running_cluster(folder: Path, logs: Path, cpus_per_node: int, environment: dict[str, str]) -> Iterator[RayCluster]:
    """A cluster with both of its nodes up, ended at the end."""
    cluster = RayCluster(folder, logs, cpus_per_node, environment)
    try:
        for node in range(len(ADDRESSES)):
            cluster.start(node)
        yield cluster
    finally:
        cluster.end()
