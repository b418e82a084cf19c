"""What is told of a Ray that cannot start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.faults.ray_cluster import RayCluster

PROGRAM = """
import sys, time
from msmtfn.cli.command import run_command
from msmtfn.engine import start_engine
def work():
    print("starting", flush=True)
    with start_engine():
        print("started")
        time.sleep(float(sys.argv[1]) if sys.argv[1:] else 0)
sys.exit(run_command(work, job="train"))
"""


def last_line(**environment: str) -> dict[str, Any]:
    """Start the engine in a process of its own; return the last line of its output."""
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "RAY_ADDRESS": "local", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    line: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    assert process.returncode == line["exit_code"]
    return line


def test_a_temporary_folder_that_is_too_long_for_sockets_is_named_with_the_cure(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    line = last_line(RAY_TMPDIR=str(folder))
    assert line["exit_code"] == 1
    assert "set RAY_TMPDIR to a shorter one" in line["error"]


@pytest.mark.slow
@pytest.mark.long
def test_an_object_store_that_is_too_small_is_named() -> None:
    line = last_line(RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES="1000")
    assert line["exit_code"] == 1
    assert "Ray cannot start: Attempting to cap object store memory usage at 1000 bytes" in line["error"]


@pytest.mark.slow
@pytest.mark.parametrize("after_sec", [0.5, 3.0])
def test_a_signal_while_ray_starts_ends_the_job_with_its_last_line(after_sec: float) -> None:
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    job = subprocess.Popen([sys.executable, "-c", PROGRAM, "60"], env=environment, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None
    assert job.stdout.readline() == "starting\n"
    time.sleep(after_sec)  # whether Ray starts or runs by then, the end is the same
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=60)
    line = json.loads(output.splitlines()[-1])
    assert job.returncode == line["exit_code"] == 128 + signal.SIGTERM


RESTARTED = """
import os, signal, sys, threading, time
import ray
from msmtfn.engine import start_engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell has it ignored
threading.Timer(float(sys.argv[1]), os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    with start_engine():
        time.sleep(300)
except KeyboardInterrupt:
    pass
with start_engine():
    print(ray.get(ray.remote(lambda: 7).remote(), timeout=120))
"""


@pytest.mark.slow
@pytest.mark.long
def test_ray_starts_anew_in_a_process_where_its_start_was_interrupted() -> None:
    process = subprocess.run(
        [sys.executable, "-c", RESTARTED, "2.0"],
        env={**os.environ, "RAY_ADDRESS": "local"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert process.stdout == "7\n", process.stderr


@pytest.mark.slow
@pytest.mark.long
def test_an_address_without_a_cluster_is_named() -> None:
    line = last_line(RAY_ADDRESS="127.0.0.1:1")
    assert line["exit_code"] == 1
    assert "no Ray cluster responds at RAY_ADDRESS=127.0.0.1:1" in line["error"]


@pytest.mark.slow
@pytest.mark.long
def test_a_folder_that_is_too_large_to_be_uploaded_is_named_with_the_cure(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "recordings").write_bytes(os.urandom(40 * 2**20))
    settings = json.dumps({"runtime_env": {"working_dir": str(folder)}})  # as a submitted job gets it
    line = last_line(RAY_JOB_CONFIG_JSON_ENV_VAR=settings, RAY_max_grpc_message_size=str(30 * 2**20))
    assert line["exit_code"] == 1
    assert "exceeds the maximum size" in line["error"]
    assert "start the job in a smaller one" in line["error"]


@pytest.mark.slow
@pytest.mark.long
def test_a_wrong_token_is_told_as_such(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a" * 64)
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:  # pytest's is too long for sockets
        cluster = RayCluster(Path(folder), tmp_path, 1, environment)
        try:
            cluster.start(0)
            token.write_text("f" * 64)
            line = last_line(RAY_ADDRESS=cluster.address, **environment)
        finally:
            cluster.kill(0)
    assert line["exit_code"] == 1
    assert "refuses the token" in line["error"]
    assert "f" * 64 not in line["error"]
