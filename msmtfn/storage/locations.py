"""Locations: a path, a `file://` or an `s3://` URI; how they are compared, and which file system holds one.

Endpoint and credentials of S3 come from the usual AWS environment and profiles (`AWS_ENDPOINT_URL`, `AWS_PROFILE`, …).
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any, Final

import fsspec
import pyarrow.fs as pafs
from fsspec import AbstractFileSystem

from msmtfn.errors import UsageError

PROTOCOLS: Final = ("file", "s3")

_CREDENTIALS: Final = re.compile("://[^@]*@")
"""User and password in a URI; the password may hold a slash."""

S3_TIMEOUTS: Final = {"connect_timeout": 10, "read_timeout": 60}

S3_RETRIES: Final = {"mode": "standard", "max_attempts": 10}
"""Retries of botocore if a server fails, throttles or does not answer, unless the environment sets others: up to nine,
within about a minute. A client stops retrying after about a hundred retries in vain."""

_RETRY_VARIABLES: Final = {"mode": "AWS_RETRY_MODE", "max_attempts": "AWS_MAX_ATTEMPTS"}


def protocol_of(location: str) -> str:
    """Return the protocol of a location, `file` or `s3`.

    Raises:
        UsageError: another scheme, or a user and a password, which no message repeats.
    """
    scheme, separator, rest = location.partition("://")
    protocol = scheme if separator else "file"
    if protocol not in PROTOCOLS:
        shown = _CREDENTIALS.sub("://…@", location)
        raise UsageError(f"{shown} has the scheme {scheme}://; use a path, file:// or s3://")
    bucket = rest.partition("/")[0]
    if protocol == "s3" and ("@" in bucket or (":" in bucket and not bucket.startswith("arn:"))):
        raise UsageError(
            "an S3 location holds a user and a password; leave them out, as in s3://bucket/folder, and set "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile"
        )
    return protocol


def is_absolute(location: str) -> bool:
    """Return True if a location is complete, rather than relative to another one."""
    return "://" in location or location.startswith("/")


def absolute(location: str) -> str:
    """Return a location with its scheme, or as an absolute local path."""
    if protocol_of(location) == "file":
        return str(Path(location.removeprefix("file://")).expanduser().absolute())
    return location.rstrip("/")


def join(location: str, *names: str) -> str:
    """Join names to a location with slashes."""
    return posixpath.join(location, *names)


def resolve(location: str) -> str:
    """Resolve a location, so that it can be compared with others and opened.

    `.` and `..` are removed, and local symbolic links are followed. S3 has no parent folders, so there `..` removes the
    name before it, but never the bucket.

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
    """Return True if a resolved location is a resolved folder or below it, comparing whole names."""
    folder = folder.rstrip("/")
    return location == folder or location.startswith(f"{folder}/")


def filesystem_of(location: str) -> tuple[AbstractFileSystem, str]:
    """Return the fsspec file system of a location, and its path there."""
    protocol = protocol_of(location)
    path = location.removeprefix(f"{protocol}://")
    # A cached listing would hide files that other processes have written since.
    return fsspec.filesystem(protocol, use_listings_cache=False, **_client_options(protocol)), path


def _client_options(protocol: str) -> dict[str, Any]:
    if protocol != "s3":
        return {}
    # Options given here would override the environment's.
    retries = {name: value for name, value in S3_RETRIES.items() if _RETRY_VARIABLES[name] not in os.environ}
    return {"config_kwargs": S3_TIMEOUTS | {"retries": retries}}


def arrow_filesystem_of(location: str) -> tuple[pafs.FileSystem, str]:
    """Return the Arrow file system of a location, and its path there, for Arrow and Ray Data."""
    filesystem, path = filesystem_of(location)
    if protocol_of(location) == "file":
        return pafs.LocalFileSystem(), path
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def object_store_options(location: str) -> dict[str, str]:
    """Return the options with which Rust's `object_store` reaches a location, as libraries that build on it take them.

    Endpoint and region are those of the client here. The credentials are not passed on, since temporary ones expire:
    the library finds them itself, in the same environment and profiles.
    """
    if protocol_of(location) != "s3":
        return {}
    filesystem, _ = filesystem_of(location)
    filesystem.connect()
    meta = filesystem.s3.meta
    options = {"aws_conditional_put": "etag", "aws_region": meta.region_name or "us-east-1"}
    if not meta.endpoint_url.endswith((".amazonaws.com", ".amazonaws.com.cn")):
        options["aws_endpoint"] = meta.endpoint_url
    if meta.endpoint_url.startswith("http://"):
        options["aws_allow_http"] = "true"
    return options
