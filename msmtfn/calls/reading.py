"""Read the files of a day in order, small ones ahead by threads, so that many small files on S3 cost little time."""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Final

import pyarrow as pa

from msmtfn import storage

SMALL_BYTES: Final = 2**22
"""Files up to this size are read at once; larger ones when it is their turn, in pieces."""
FILES_AHEAD: Final = 32
CHUNK_BYTES: Final = 2**23
ROWS_TOGETHER: Final = 4096
BYTES_TOGETHER: Final = 2**25


def read_ahead(files: Sequence[str]) -> Iterator[bytes | None]:
    """Yield the content of each file in order; None for a large one, which has not been read.

    Raises:
        StorageError: a file cannot be read.
    """
    with ThreadPoolExecutor(FILES_AHEAD) as pool:
        waiting: deque[Future[bytes | None]] = deque()
        try:
            for file in files:
                waiting.append(pool.submit(_read_small, file))
                if len(waiting) > FILES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _read_small(file: str) -> bytes | None:
    with storage.open_for_reading(file) as handle:
        data = handle.read(SMALL_BYTES + 1)
    return data if len(data) <= SMALL_BYTES else None


def open_read(file: str, data: bytes | None) -> contextlib.AbstractContextManager[IO[bytes]]:
    """Open a file, or what `read_ahead` has read of it."""
    return storage.open_for_reading(file) if data is None else contextlib.nullcontext(io.BytesIO(data))


def digest_content(digest: Any, name: str, handle: IO[bytes]) -> None:
    """Add the name of a file and its content from the beginning to a hash of `hashlib`."""
    digest.update(f"{name}\0".encode())
    handle.seek(0)
    while chunk := handle.read(CHUNK_BYTES):
        digest.update(chunk)


def join_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in fewer batches, of at most `ROWS_TOGETHER` rows and `BYTES_TOGETHER` bytes if joined."""
    waiting: list[pa.RecordBatch] = []
    num_rows = num_bytes = 0
    for batch in batches:
        if waiting and (num_rows + len(batch) > ROWS_TOGETHER or num_bytes + batch.nbytes > BYTES_TOGETHER):
            yield pa.concat_batches(waiting)
            waiting, num_rows, num_bytes = [], 0, 0
        waiting.append(batch)
        num_rows += len(batch)
        num_bytes += batch.nbytes
    if waiting:
        yield pa.concat_batches(waiting)
