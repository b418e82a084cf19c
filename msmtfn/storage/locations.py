"""Locations: a path, a `file://` or an `s3://` URI; how they are compared, and which file system holds one.

Endpoint and credentials of S3 come from the usual AWS environment and profiles (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, …).
"""

from __future__ import annotations

import os
import posixpath
from pathlib import Path
from typing import Any, Final

import fsspec
import pyarrow.fs as pafs
from fsspec import AbstractFileSystem

from msmtfn.errors import UsageError

PROTOCOLS: Final = ("file", "s3")

S3_TIMEOUTS: Final = {"connect_timeout": 10, "read_timeout": 60}

S3_RETRIES: Final = {"mode": "standard", "max_attempts": 10}
"""How botocore bears a server that fails, throttles or does not answer, unless the environment says otherwise: up to
nine more tries, in about a minute. A client for which a hundred of them were in vain stops trying again."""

_RETRY_VARIABLES: Final = {"mode": "AWS_RETRY_MODE", "max_attempts": "AWS_MAX_ATTEMPTS"}


def protocol_of(location: str) -> str:
    """`file` or `s3`.

    Raises:
        UsageError: another scheme.
    """
    scheme, separator, _ = location.partition("://")
    protocol = scheme if separator else "file"
    if protocol not in PROTOCOLS:
        raise UsageError(f"{location} has the scheme {scheme}://; use a path, file:// or s3://")
    return protocol


def is_absolute(location: str) -> bool:
    """Whether a location stands for itself, and not for a place under another one."""
    return "://" in location or location.startswith("/")


def absolute(location: str) -> str:
    """The location with its scheme, or as an absolute path of this machine."""
    if protocol_of(location) == "file":
        return str(Path(location.removeprefix("file://")).expanduser().absolute())
    return location.rstrip("/")


def join(location: str, *names: str) -> str:
    """A place under a location."""
    return posixpath.join(location, *names)


def resolve(location: str) -> str:
    """Where a location leads: a place to compare with others, and to open.

    `.` and `..` are taken away, and symbolic links of this machine are followed. S3 has no folders to go up from, so
    there `..` takes the name before it away, and never the bucket.

    Raises:
        UsageError: another scheme than `file://` and `s3://`.
        ValueError: a name that no file can have.
    """
    if protocol_of(location) == "file":
        return os.path.realpath(location.removeprefix("file://"))
    bucket, *names = location.removeprefix("s3://").split("/")
    kept: list[str] = []
    for name in names:
        if name == "..":
            del kept[-1:]
        elif name != ".":
            kept.append(name)
    return "s3://" + "/".join([bucket, *kept])


def is_within(location: str, folder: str) -> bool:
    """Whether a place is a folder or stands below it, by whole names; both as `resolve` gives them."""
    folder = folder.rstrip("/")
    return location == folder or location.startswith(f"{folder}/")


def filesystem_of(location: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a location and its path there, as fsspec has them."""
    protocol = protocol_of(location)
    path = location.removeprefix(f"{protocol}://")
    # A kept listing would hide what other processes have written since.
    return fsspec.filesystem(protocol, use_listings_cache=False, **_client_options(protocol)), path


def _client_options(protocol: str) -> dict[str, Any]:
    if protocol != "s3":
        return {}
    # What is given here would go before what the environment says.
    retries = {name: value for name, value in S3_RETRIES.items() if _RETRY_VARIABLES[name] not in os.environ}
    return {"config_kwargs": S3_TIMEOUTS | {"retries": retries}}


def arrow_filesystem_of(location: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a location and its path there, as Arrow and Ray Data want them."""
    filesystem, path = filesystem_of(location)
    if protocol_of(location) == "file":
        return pafs.LocalFileSystem(), path
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path
