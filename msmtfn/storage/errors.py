"""Translate the errors of storage libraries to Python's errors, to an outage, or to one line that says what to do."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Final

from fsspec import AbstractFileSystem

from msmtfn.errors import StorageError

_OUTAGE_CODES: Final = frozenset(
    {
        *("ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"),
        *("RequestTimeTooSkewed", "TokenRefreshRequired", "RequestTimeout", "SlowDown", "TooManyRequests"),
    }
)

_OUTAGE_STATUSES: Final = (429, 500, 502, 503, 504)

_OUTAGE_ERRNOS: Final = frozenset(
    {errno.ESTALE, errno.ENOTCONN, errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}
)

_CLIENT_LIBRARIES: Final = ("botocore", "aiobotocore", "aiohttp")

LOST_STATUSES: Final = (409, 412)
"""HTTP statuses of a conditional write that lost against another writer."""

_MUTE_CODES: Final = ("400", "403")


class FileTooLargeError(OSError):
    """A file has more bytes than the caller will read; the message says how many."""


class StorageOutageError(OSError):
    """Storage as a whole fails, not this one file: it does not answer, is overloaded, or takes no credentials.

    Attributes:
        reason: the error's name, without the file's.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an error of a storage library into one line that says what to do."""
    try:
        with as_os_errors():
            yield
    except OSError as exc:
        reason = " ".join((exc.strerror or str(exc) or type(exc).__name__).split())
        raise StorageError(
            f"{what}: {reason}; check the location, its permissions, the endpoint and the credentials"
        ) from exc


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """Raise the errors of S3's client (no credentials, no such endpoint), which share no base class, as Python's."""
    try:
        yield
    except Exception as exc:
        reason = _outage_reason(exc)
        if reason is not None:
            raise StorageOutageError(str(exc) or reason, reason) from exc
        if not _is_of_client(exc):
            raise
        raise OSError(str(exc)) from exc


@contextlib.contextmanager
def with_reason(filesystem: AbstractFileSystem, path: str) -> Iterator[None]:
    """Repeat a refused HEAD, whose answer has no body, as a GET, whose error names the reason."""
    try:
        yield
    except OSError as exc:
        if s3_answer(exc)[1] in _MUTE_CODES:
            filesystem.cat_file(path, start=0, end=1)
        raise


def _outage_reason(exc: Exception) -> str | None:
    """Return the name of an error that means an outage of the storage; None for any other."""
    status, code = s3_answer(exc)
    if status:
        is_outage = status in _OUTAGE_STATUSES or code in _OUTAGE_CODES
        return f"HTTP {status} {code}" if is_outage else None
    is_outage = isinstance(exc, TimeoutError | ConnectionError) or getattr(exc, "errno", None) in _OUTAGE_ERRNOS
    is_outage = is_outage or (_is_of_client(exc) and type(exc).__name__ != "ParamValidationError")
    return type(exc).__name__ if is_outage else None


def s3_answer(exc: Exception) -> tuple[int, str]:
    """Return the HTTP status and error code of the answer behind an error; status 0 if there was no answer."""
    response = getattr(exc, "response", None) or getattr(exc.__cause__, "response", None)
    if not isinstance(response, dict):
        return 0, ""
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)), response.get("Error", {}).get("Code", "")


def _is_of_client(exc: Exception) -> bool:
    return type(exc).__module__.partition(".")[0] in _CLIENT_LIBRARIES
