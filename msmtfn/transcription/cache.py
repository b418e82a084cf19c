"""What was heard in recordings, by their content, so that no recording is recognised twice.

    <transcripts>/_cache/<recogniser and options>/<first two digits>/<content>.json

A file is written when a call was heard, before its day is published, so that another run of the day, another day or a
renamed recording finds it. It holds a transcript: it is as personal as the published ones.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Final

from msmtfn import storage
from msmtfn.errors import CallError, RejectCode, StorageError
from msmtfn.speech.transcript import HeardCall
from msmtfn.storage.untrusted import read_text

logger = logging.getLogger(__name__)

CACHE_FOLDER: Final = "_cache"
VERSION: Final = 1
"""Goes up when the same recording, recogniser and options give another result."""


def content_key(data: bytes, language: str | None) -> str:
    """Return what a recording is known by: a hash of its content and of the language that the manifest gives."""
    digest = hashlib.sha256(data)
    digest.update(f"\0{language or ''}".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class TranscriptCache:
    """Cache of what was heard.

    Attributes:
        folder: location of its files, for one recogniser with one set of options.
    """

    folder: str

    @classmethod
    def below(cls, transcripts: str, fingerprint: str) -> TranscriptCache:
        """Return the cache of a recogniser and its options below the root of all transcripts.

        Args:
            transcripts: root of all transcripts.
            fingerprint: everything that decides what is heard.
        """
        name = hashlib.sha256(f"{VERSION}\0{fingerprint}".encode()).hexdigest()[:16]
        return cls(storage.join(storage.absolute(transcripts), CACHE_FOLDER, name))

    def read(self, key: str) -> HeardCall | None:
        """Return what was heard in a recording; None if it was never heard, or its file cannot be understood.

        Raises:
            CallError: the storage does not answer, so that another attempt may succeed.
        """
        location = self._location_of(key)
        try:
            text = read_text(location)
        except storage.StorageOutageError as exc:
            raise CallError(RejectCode.STORAGE_UNAVAILABLE, exc.reason) from exc
        except StorageError as exc:
            if isinstance(exc.__cause__, storage.StorageOutageError):
                raise CallError(RejectCode.STORAGE_UNAVAILABLE, exc.__cause__.reason) from exc
            logger.warning("%s; the call is recognised again", exc)
            return None
        if text is None:
            return None
        try:
            return HeardCall.from_json(text)
        except ValueError as exc:
            logger.warning("%s is left out, and the call recognised again: %s", location, exc)
            return None

    def write(self, key: str, heard: HeardCall) -> None:
        """Keep what was heard in a recording; a failure is logged only, since the day does not need the cache."""
        try:
            storage.write_text(self._location_of(key), heard.to_json())
        except StorageError as exc:
            logger.warning("%s; what was heard is not kept for another run", exc)

    def _location_of(self, key: str) -> str:
        return storage.join(self.folder, key[:2], f"{key}.json")
