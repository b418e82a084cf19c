"""Fetch the bytes of a recording, from the places that recordings may come from and no other.

Who writes the manifest names files; who runs the job says where they may stand. Before anything is opened, `..` and
symbolic links are resolved, and what is opened is the place that was checked.
"""

from __future__ import annotations

from collections.abc import Sequence

from msmtfn import storage
from msmtfn.errors import CallError, RejectCode, UsageError


def fetch_recording(uri: str, root: str, allowed_prefixes: Sequence[str], max_file_bytes: int) -> bytes:
    """Read a recording's bytes, if it stands where recordings may and they are not too many.

    Args:
        uri: a path, `file://` or `s3://`; a relative path counts from `root`.
        root: of the manifests; recordings below it may be read.
        allowed_prefixes: further folders, as `storage.absolute` has them.
        max_file_bytes: more are not read.

    Raises:
        CallError: it cannot be had; the detail names no path.
    """
    try:
        location = storage.resolve(uri if storage.is_absolute(uri) else storage.join(root, uri))
        if not any(storage.is_within(location, storage.resolve(prefix)) for prefix in (root, *allowed_prefixes)):
            raise CallError(
                RejectCode.FILE_OUTSIDE_ALLOWED_PREFIXES,
                "the uri leads outside the manifests' root and what --allowed-prefixes names",
            )
        return storage.read_at_most(location, max_file_bytes)
    except UsageError as exc:
        raise CallError(
            RejectCode.FILE_OUTSIDE_ALLOWED_PREFIXES, "the uri has a scheme other than file:// and s3://"
        ) from exc
    except storage.FileTooLargeError as exc:
        raise CallError(RejectCode.AUDIO_TOO_LARGE, f"{exc} (--max-file-bytes)") from exc
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise CallError(RejectCode.AUDIO_NOT_FOUND, "no file at the uri") from exc
    except storage.StorageOutageError as exc:
        raise CallError(RejectCode.STORAGE_UNAVAILABLE, exc.reason) from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name, an S3 bucket that cannot be
        raise CallError(RejectCode.AUDIO_UNREADABLE, f"the file cannot be read: {type(exc).__name__}") from exc
