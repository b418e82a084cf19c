"""A two-node cluster that requires a token, and a client that submits jobs to it."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.ray_cluster import running_cluster
from tests.integration.job import ROOT

START_SEC = 180.0
SUBMIT_SEC = 540.0
NOT_YET = "No available agent to submit job"
"""Error message of a cluster that has just started."""


@dataclass(frozen=True, slots=True)
class Submitter:
    """A client with an environment in which it may submit jobs."""

    environment: dict[str, str]

    def submit(self, *command: object, **environment: str) -> tuple[int, str]:
        """Run `ray job submit` in the root of the project; return its exit code and output, including the job's log."""
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
def run_ray_cluster(cpus_per_node: int) -> Iterator[Submitter]:
    """Run a cluster whose nodes have the given number of logical CPUs."""
    # The paths of sockets in pytest's temporary folder would be too long.
    with tempfile.TemporaryDirectory(prefix="ray-") as path:
        folder = Path(path)
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        environment = {
            "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }
        with running_cluster(folder, folder, cpus_per_node, environment) as cluster:
            yield Submitter(cluster.environment | {"RAY_API_SERVER_ADDRESS": cluster.dashboard})
