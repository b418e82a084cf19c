"""First stage of transcription: rows are checked, fetched, decoded and listened to, up to the clips of their speech.

Plain Python without Ray. A batch of manifest rows goes in; the same rows come out, in the same order, with clips to
recognise, with what is in the cache, or with the reason why there is neither.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from msmtfn import storage
from msmtfn.calls.audio import AudioConfig, decode_recording
from msmtfn.calls.checks import check_call
from msmtfn.calls.fetch import check_prefixes, fetch_recording
from msmtfn.errors import CallError, RejectCode, format_trace
from msmtfn.features.sandbox import UNSETTLED, SandboxConfig
from msmtfn.leads.schema import REJECTED
from msmtfn.speech.clips import Clip, Piece
from msmtfn.speech.hearing import HearingConfig, Listened, listen
from msmtfn.speech.recogniser import SAMPLE_RATE
from msmtfn.speech.transcript import TRANSCRIBED, Reason
from msmtfn.transcription.cache import TranscriptCache, content_key

logger = logging.getLogger(__name__)

FULL_SCALE: Final = 32767.0
SAMPLES: Final = pa.large_list(pa.int16())
LISTENED: Final = pa.schema(
    [
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("reason", pa.string()),
        ("key", pa.string()),
        ("heard", pa.string()),
        ("given_language", pa.string()),
        ("agent_channel", pa.int64()),
        ("layout", pa.string()),
        ("samples", SAMPLES),
    ]
)
"""Columns that this stage adds to a row. `status` is null where there is something to recognise (`layout`, `samples`)
or something in the cache (`heard`); it is `UNSETTLED` where another attempt may succeed."""

NO_MEMORY: Final = ("can't allocate memory", "bad_alloc")


@dataclass(frozen=True, kw_only=True, slots=True)
class ListenConfig:
    """Options of reading recordings and of listening to them."""

    allowed_prefixes: tuple[str, ...] = ()
    """Folders and s3:// addresses that may contain recordings, in addition to the root of the manifests."""
    audio: AudioConfig = field(default_factory=AudioConfig)
    """Limits on recordings."""
    hearing: HearingConfig = field(default_factory=HearingConfig)
    """Options of hearing a call."""
    guard: SandboxConfig = field(default_factory=SandboxConfig)
    """Limits on listening to one call."""
    calls_with_turns: bool = False
    """Transcribe the calls whose manifest has turns, too; the manifest's turns win over them."""

    def __post_init__(self) -> None:
        """Check the prefixes.

        Raises:
            ValueError: a prefix is neither a folder nor an s3:// address with a bucket.
        """
        check_prefixes(self.allowed_prefixes)


class Listener:
    """Listener to batches of calls, within limits.

    Args:
        config: the options.
        manifest_root: root folder of the manifests.
        cache: what was heard in earlier recordings.
    """

    def __init__(self, config: ListenConfig, manifest_root: str, cache: TranscriptCache) -> None:
        self.config = config
        self.manifest_root = manifest_root
        self.allowed_prefixes = [storage.absolute(prefix) for prefix in config.allowed_prefixes]
        self.cache = cache

    def prepare_batch(self, batch: pa.Table, passthrough: Sequence[str]) -> pa.Table:
        """Listen to calls.

        Args:
            batch: rows of the manifest, as yielded by `manifest.iter_calls`.
            passthrough: names of the columns that pass through.

        Returns:
            The columns `passthrough` and `LISTENED`, one row per row of the batch.
        """
        names = ["uri", "agent_channel", "row_id", "row_error"]
        num_turns = pc.fill_null(pc.list_value_length(batch["turns"]), 0).to_pylist()
        languages = _languages_of(batch)
        rows = [
            {**row, "num_turns": turns, "language": language}
            for row, turns, language in zip(batch.select(names).to_pylist(), num_turns, languages, strict=True)
        ]
        results = [self._listen_or_reject(row) for row in rows]
        kept = batch.select(passthrough)
        columns = [
            _samples_column([result.get("samples") for result in results])
            if column.name == "samples"
            else pa.array([result.get(column.name) for result in results], column.type)
            for column in LISTENED
        ]
        return pa.table([*kept.columns, *columns], schema=pa.schema([*kept.schema, *LISTENED]))

    def listen_to(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Listen to one call, and return the values of `LISTENED` that it has.

        Raises:
            CallError: the recording cannot be read.
        """
        uri = check_call(row["uri"], None, row["agent_channel"], row["row_error"])
        if row["num_turns"] and not self.config.calls_with_turns:
            return {"status": TRANSCRIBED, "reason": str(Reason.HAS_TURNS)}
        limits = self.config.audio
        data = fetch_recording(uri, self.manifest_root, self.allowed_prefixes, max_file_bytes=limits.max_file_bytes)
        found = {
            "key": content_key(data, row["language"]),
            "given_language": row["language"],
            "agent_channel": row["agent_channel"],
        }
        heard = self.cache.read(found["key"])
        if heard is not None:
            return {**found, "heard": heard.to_json()}
        recording = decode_recording(data, sample_rate=SAMPLE_RATE, config=limits, name=uri)
        call = listen(recording.channels, recording.duration_sec, self.config.hearing)
        samples = np.concatenate([np.zeros(0, np.float32), *call.waveforms])
        as_int16 = np.rint(np.clip(samples, -1.0, 1.0) * FULL_SCALE).astype(np.int16)
        return {**found, "layout": write_layout(call), "samples": as_int16}

    def _listen_or_reject(self, row: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return self.listen_to(row)
        except CallError as error:
            return _reject(error.code, error.detail)
        # The one place that catches everything: an unexpected error in one call must not affect the others.
        except Exception as exc:
            if isinstance(exc, MemoryError) or any(message in str(exc) for message in NO_MEMORY):
                limit = self.config.guard.max_prepare_bytes
                return _reject(
                    RejectCode.AUDIO_OUT_OF_MEMORY, f"no memory; at most {limit} bytes are taken (--max-prepare-bytes)"
                )
            logger.error("row %d: could not be listened to: %s", row["row_id"], format_trace(exc))
            return _reject(RejectCode.INTERNAL_ERROR, f"{type(exc).__name__} while the call was heard; see the log")


def write_layout(call: Listened) -> str:
    """Return a call that was listened to as JSON, without its samples."""
    content = {
        "clips": [[astuple(piece) for piece in clip.pieces] for clip in call.clips],
        "speech": [segments.tolist() for segments in call.speech],
        "speakers": None if call.speakers is None else [segments.tolist() for segments in call.speakers],
        "duration_sec": call.duration_sec,
    }
    return json.dumps(content)


def read_layout(text: str, samples: np.ndarray[Any, np.dtype[np.int16]]) -> Listened:
    """Return the call that `write_layout` has written, with its samples."""
    content = json.loads(text)
    clips = [Clip(tuple(Piece(*piece) for piece in pieces)) for pieces in content["clips"]]
    edges = np.cumsum([clip.num_samples for clip in clips])
    waveforms = np.split(samples.astype(np.float32) / np.float32(FULL_SCALE), edges[:-1]) if clips else []
    speakers = content["speakers"]
    return Listened(
        clips=clips,
        waveforms=waveforms,
        speech=[np.array(segments, np.float64).reshape(-1, 2) for segments in content["speech"]],
        speakers=None if speakers is None else [np.array(segments, np.float64).reshape(-1, 2) for segments in speakers],
        duration_sec=content["duration_sec"],
    )


def _languages_of(batch: pa.Table) -> list[str | None]:
    """Return the manifest's languages, which may be missing or of another type."""
    name = next((name for name in batch.schema.names if name.lower() == "language"), None)
    values = [None] * len(batch) if name is None else batch[name].to_pylist()
    return [value.strip() or None if isinstance(value, str) else None for value in values]


def _reject(code: RejectCode, detail: str) -> dict[str, Any]:
    status = UNSETTLED if code == RejectCode.STORAGE_UNAVAILABLE else REJECTED
    return {"status": status, "error_code": str(code), "error_detail": detail}


def _samples_column(samples: Sequence[np.ndarray[Any, np.dtype[np.int16]] | None]) -> pa.Array:
    """Build the column of samples without Python objects; a row without samples has an empty list."""
    arrays = [np.zeros(0, np.int16) if each is None else each for each in samples]
    offsets = np.cumsum([0, *map(len, arrays)])
    return pa.LargeListArray.from_arrays(
        pa.array(offsets, pa.int64()), pa.array(np.concatenate([np.zeros(0, np.int16), *arrays]))
    )
