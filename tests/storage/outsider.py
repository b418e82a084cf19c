"""Somebody else who writes to the same storage."""

from __future__ import annotations

from pathlib import Path

import s3fs


def written_by_another(location: str, data: bytes) -> None:
    """Write a file past the module under test and all that it may remember."""
    if location.startswith("s3://"):
        s3fs.S3FileSystem(skip_instance_cache=True).pipe_file(location, data)
    else:
        Path(location).parent.mkdir(parents=True, exist_ok=True)
        Path(location).write_bytes(data)
