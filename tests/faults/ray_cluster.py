"""A Ray cluster of two nodes on this machine, started by `ray start`; the second node can be killed and replaced."""

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
"""Loopback addresses of the nodes, without 127.0.0.1, which Ray replaces by an address that other hosts can reach."""

OPTIONS: Final = ("--block", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0")
BUSY_MACHINE_SETTINGS: Final = {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "120"}
"""On a busy machine, workers with a raised niceness starve, and Ray's 30 s are too short for a raylet to start."""

OBJECT_STORE_BYTES: Final = 300 * 10**6


class RayCluster:
    """A cluster of two nodes with the same number of logical CPUs."""

    def __init__(self, folder: Path, logs: Path, cpus_per_node: int, environment: dict[str, str]) -> None:
        """Prepare a cluster.

        Args:
            folder: folder for Ray's files; its path must be short, because Unix limits the paths of sockets.
            logs: folder for the nodes' logs.
            cpus_per_node: logical CPUs of each node.
            environment: variables for the cluster's processes, in addition to this process's environment without Ray's
                variables. The cluster requires no token unless `RAY_AUTH_MODE` is set here.
        """
        self.folder = folder
        self.logs = logs
        self.cpus_per_node = cpus_per_node
        self.port, self.dashboard_port, self.client_port = free_ports(3)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {**inherited, **BUSY_MACHINE_SETTINGS, "RAY_AUTH_MODE": "disabled", **environment}
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def dashboard(self) -> str:
        """The value for `RAY_API_SERVER_ADDRESS`."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def address(self) -> str:
        """The value for `RAY_ADDRESS`."""
        return f"{ADDRESSES[0]}:{self.port}"

    def start(self, node: int) -> None:
        """Start a node, 0 being the head, and wait until it is up.

        Raises:
            JobError: the node did not start.
        """
        head = ["--head", f"--port={self.port}", f"--ray-client-server-port={self.client_port}"]
        head += [f"--dashboard-port={self.dashboard_port}", "--dashboard-host=127.0.0.1"]
        head += [f"--temp-dir={self.folder / 'ray'}"]
        role = [f"--address={self.address}"] if node else head
        command = [f"{sysconfig.get_path('scripts')}/ray", "start", *OPTIONS, *role]
        command += [f"--node-ip-address={ADDRESSES[node]}", f"--num-cpus={self.cpus_per_node}"]
        # The default port is fixed; if another Ray instance holds it, the agent accepts no jobs.
        command += [f"--dashboard-agent-listen-port={free_ports(1)[0]}"]
        command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
        log = self.logs / f"node-{node}-{time.monotonic_ns()}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
        self.nodes[node] = process
        deadline = time.monotonic() + START_SEC
        while "Ray runtime started" not in log.read_text(encoding="utf-8", errors="replace"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise JobError(f"the Ray node did not start; see {log}")
            time.sleep(0.2)

    def kill(self, node: int) -> None:
        """Kill a node and all its processes at once, without a shutdown."""
        process = self.nodes.pop(node)
        descendants = processes_below(process.pid)
        process.kill()
        for pid in descendants:
            kill_process(pid)
        process.wait(END_SEC)

    def end(self) -> None:
        """Kill all nodes."""
        for node in list(self.nodes):
            self.kill(node)

    def workers(self, name: str) -> list[int]:
        """Return the ids of the cluster's processes whose command line contains a name."""
        pids = [pid for node in self.nodes.values() for pid in processes_below(node.pid)]
        return [pid for pid in pids if name in _command_of(pid)]


def processes_below(pid: int) -> list[int]:
    """Return the ids of all descendants of a process."""
    import psutil  # noqa: PLC0415 - it comes with the tests' packages

    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


def kill_process(pid: int) -> None:
    """Kill a process if it still exists."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


@contextlib.contextmanager
def running_cluster(folder: Path, logs: Path, cpus_per_node: int, environment: dict[str, str]) -> Iterator[RayCluster]:
    """Run a cluster with both nodes up, and kill it at the end."""
    cluster = RayCluster(folder, logs, cpus_per_node, environment)
    try:
        for node in range(len(ADDRESSES)):
            cluster.start(node)
        yield cluster
    finally:
        cluster.end()
