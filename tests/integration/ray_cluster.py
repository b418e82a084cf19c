"""A Ray cluster of several nodes on this machine, each started by `ray start`, that asks for a token."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from msmtfn.trials.s3_server import free_ports
from tests.integration.job import ROOT

START_SEC = 180.0
END_SEC = 10.0
SUBMIT_SEC = 540.0
NOT_YET = "No available agent to submit job"
"""What a cluster says that has just started."""
AGENT_PORT = "dashboard_agent_listen_port_*"
"""The file of a node that holds the port of its agent; -1 where that could not take it."""
OPTIONS = ("--block", "--min-worker-port", "0", "--max-worker-port", "0", "--disable-usage-stats")


@dataclass(frozen=True, slots=True)
class RayCluster:
    """A cluster, and the environment of somebody who may submit to it."""

    addresses: tuple[str, ...]
    environment: dict[str, str]

    def submit(self, *command: object, **environment: str) -> tuple[int, str]:
        """Exit code and output of `ray job submit` from the root of the project, which follows the job's log."""
        deadline = time.monotonic() + START_SEC
        code, output = self._submit(command, environment)
        while NOT_YET in output and time.monotonic() < deadline:
            time.sleep(1.0)
            code, output = self._submit(command, environment)
        return code, output

    def _submit(self, command: tuple[object, ...], environment: dict[str, str]) -> tuple[int, str]:
        submit = subprocess.run(
            ["ray", "job", "submit", "--working-dir", ".", "--", *map(str, command)],
            cwd=ROOT,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SUBMIT_SEC,
            check=False,
        )
        return submit.returncode, submit.stdout


@contextlib.contextmanager
def run_ray_cluster(nodes: int, cpus_per_node: int) -> Iterator[RayCluster]:
    """Run a cluster whose nodes have a number of logical CPUs, and addresses that only this machine has."""
    gcs, dashboard, client, *agents = free_ports(3 + nodes)
    addresses = tuple(f"127.0.0.{number + 2}" for number in range(nodes))  # Ray replaces 127.0.0.1 by an outer one
    head = ["--head", "--port", gcs, "--ray-client-server-port", client]
    head += ["--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard]
    worker = ["--address", f"{addresses[0]}:{gcs}"]
    with contextlib.ExitStack() as stack:
        # Not pytest's folder: the path of a socket in it would be too long.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-")))
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{environment['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_raylet_start_wait_time_s": "120",  # half a minute is not enough on a busy machine
        }
        for number, address in enumerate(addresses):
            options = [*(worker if number else head), "--node-ip-address", address, "--num-cpus", cpus_per_node]
            # The agent takes its port at 127.0.0.1 too; a random one may be taken there, and then nobody can submit.
            options += ["--dashboard-agent-listen-port", agents[number]]
            stack.enter_context(_node([*map(str, options)], environment, folder / str(number)))
        yield RayCluster(addresses, environment | {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"})


@contextlib.contextmanager
def _node(options: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    log = folder.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(
            ["ray", "start", *OPTIONS, *options, "--temp-dir", str(folder)],
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_until_up(process, log, folder)
        yield
    finally:
        _end(process)


def _wait_until_up(process: subprocess.Popen[bytes], log: Path, folder: Path) -> None:
    """Wait until a node runs, and its agent, which takes the jobs."""
    deadline = time.monotonic() + START_SEC
    session = folder / "session_latest"
    while not (ports := list(session.glob(AGENT_PORT))) or "Ray runtime started" not in log.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the node did not start, exit code {process.poll()}: {log.read_text()}")
        time.sleep(0.2)
    if ports[0].read_text() == "-1":
        raise AssertionError((session / "logs" / "dashboard_agent.log").read_text())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a node and all that it has started; not by `ray stop`, which ends every Ray of the machine."""
    started = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_SEC)
    _, alive = psutil.wait_procs(started, timeout=END_SEC)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.kill()
    process.wait()
