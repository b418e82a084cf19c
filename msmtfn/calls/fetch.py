"""Fetch the bytes of a recording, but only from the folders that recordings may come from.

The author of a manifest chooses the files; the operator of the job decides which folders they may lie in. `..` and
symbolic links are resolved before anything is opened, and exactly the path that was checked is opened.
"""

from __future__ import annotations

from collections.abc import Sequence

from msmtfn import storage
from msmtfn.errors import CallError, RejectCode, UsageError


def check_prefixes(prefixes: Sequence[str]) -> None:
    """Check the form of folders that recordings may come from.

    Raises:
        ValueError: one is neither a folder nor an s3:// address with a bucket.
    """
    for prefix in prefixes:
        scheme, _, path = prefix.rpartition("://")
        if scheme not in ("", *storage.PROTOCOLS) or not (path.strip("/") or (path and scheme != "s3")):
            raise ValueError(f"allowed_prefixes has {prefix!r}; give folders, or s3:// addresses with a bucket")


def fetch_recording(uri: str, root: str, allowed_prefixes: Sequence[str], max_file_bytes: int) -> bytes:
    """Return a recording's bytes if it lies in an allowed folder and is not too large.

    Args:
        uri: a path, `file://` or `s3://` URI; a relative path is resolved against `root`.
        root: root folder of the manifests; recordings below it are allowed.
        allowed_prefixes: further allowed folders, as `storage.absolute` returns them.
        max_file_bytes: maximum size of the file; a larger one is not read.

    Raises:
        CallError: the recording is not allowed, missing, too large or unreadable; the detail contains no path.
    """
    try:
        location = storage.resolve(uri if storage.is_absolute(uri) else storage.join(root, uri))
        if not any(storage.is_within(location, storage.resolve(prefix)) for prefix in (root, *allowed_prefixes)):
            raise CallError(
                RejectCode.FILE_OUTSIDE_ALLOWED_PREFIXES,
                "the uri leads outside the manifests' root and the folders of --allowed-prefixes",
            )
        return storage.read_at_most(location, max_file_bytes)
    except UsageError as exc:
        raise CallError(
            RejectCode.FILE_OUTSIDE_ALLOWED_PREFIXES, "the uri has a scheme other than file:// and s3://, or a password"
        ) from exc
    except storage.FileTooLargeError as exc:
        raise CallError(RejectCode.AUDIO_TOO_LARGE, f"{exc} (--max-file-bytes)") from exc
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise CallError(RejectCode.AUDIO_NOT_FOUND, "there is no file at the uri") from exc
    except storage.StorageOutageError as exc:
        raise CallError(RejectCode.STORAGE_UNAVAILABLE, exc.reason) from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the path, or an invalid name of a bucket
        raise CallError(RejectCode.AUDIO_UNREADABLE, f"the file cannot be read: {type(exc).__name__}") from exc
