"""Second stage of transcription: the clips of a batch of calls are recognised together and become transcripts.

Plain Python without Ray, so that a test calls it with a batch and no cluster.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from msmtfn.errors import CallError, RejectCode, format_trace, require
from msmtfn.leads.schema import REJECTED
from msmtfn.rows import ROW_ID
from msmtfn.speech.hearing import HearingConfig, Listened, find_language, recognise_clips, understand
from msmtfn.speech.recogniser import Recogniser, Segment
from msmtfn.speech.roles import RoleConfig, assign_roles
from msmtfn.speech.transcript import TRANSCRIBED, HeardCall, Transcript
from msmtfn.transcription.cache import TranscriptCache
from msmtfn.transcription.listening import read_layout

logger = logging.getLogger(__name__)

CACHE_WRITERS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class RecognisingConfig:
    """Options of recognising."""

    batch_sec: float = 240.0
    """Seconds of sound, padding included, that a recogniser gets at once."""
    roles: RoleConfig = field(default_factory=RoleConfig)
    """Telling which speaker is the agent."""

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: an option is out of range.
        """
        is_possible = 1 <= self.batch_sec <= 100_000  # noqa: PLR2004
        require(is_possible, "batch_sec", self.batch_sec, "between 1 and 100000 seconds")


@dataclass(frozen=True, slots=True)
class Lineage:
    """Origin of a transcript.

    Attributes:
        recogniser: name of the recogniser as the caller gave it.
        version: fingerprint of its files.
        run_id: id of the run.
    """

    recogniser: str
    version: str
    run_id: str


class BatchRecogniser:
    """Recogniser of batches of calls.

    Args:
        recogniser: the model.
        hearing: options of hearing, as the calls were listened to with.
        config: options of recognising.
        cache: keeps what was heard.
        lineage: what is written beside each transcript.
    """

    def __init__(
        self,
        recogniser: Recogniser,
        hearing: HearingConfig,
        config: RecognisingConfig,
        cache: TranscriptCache,
        lineage: Lineage,
    ) -> None:
        self.recogniser = recogniser
        self.hearing = hearing
        self.config = config
        self.cache = cache
        self.lineage = lineage

    def recognise_batch(
        self, batch: pa.Table, schema: pa.Schema, before: Callable[[Sequence[int]], None] = lambda _row_ids: None
    ) -> pa.Table:
        """Recognise calls.

        Args:
            batch: rows that were listened to, without those that are unsettled.
            schema: schema of the parts.
            before: called with the row ids of the calls whose clips are recognised next.

        Returns:
            One row per row of the batch, in order.
        """
        rows = batch.drop_columns(["samples"]).to_pylist()
        calls = {
            number: read_layout(row["layout"], batch["samples"][number].values.to_numpy())
            for number, row in enumerate(rows)
            if row["status"] is None and row["heard"] is None
        }
        heard = self._hear(rows, calls, before)
        outcomes = [self._outcome_of(number, row, heard) for number, row in enumerate(rows)]
        return pa.Table.from_pylist([{**rows[number], **outcome} for number, outcome in enumerate(outcomes)], schema)

    def _hear(
        self, rows: Sequence[Mapping[str, Any]], calls: Mapping[int, Listened], before: Callable[[Sequence[int]], None]
    ) -> dict[int, HeardCall | CallError]:
        """Recognise the calls of a batch together; if that fails, one by one, so that one call costs no other."""
        try:
            heard: dict[int, HeardCall | CallError] = dict(self._hear_together(rows, calls, before))
        # Engines raise whatever their libraries do; a call that fails alone is rejected.
        except Exception as exc:
            if len(calls) <= 1:
                return {number: self._failed(rows[number], exc) for number in calls}
            heard = {}
            for number, call in calls.items():
                heard |= self._hear(rows, {number: call}, before)
            return heard
        with ThreadPoolExecutor(CACHE_WRITERS) as writers:
            for number, call_heard in heard.items():
                if isinstance(call_heard, HeardCall):
                    writers.submit(self.cache.write, rows[number]["key"], call_heard)
        return heard

    def _hear_together(
        self, rows: Sequence[Mapping[str, Any]], calls: Mapping[int, Listened], before: Callable[[Sequence[int]], None]
    ) -> dict[int, HeardCall]:
        languages = {}
        for number, call in calls.items():
            before([rows[number][ROW_ID]])
            languages[number] = find_language(call, self.recogniser, rows[number]["given_language"], self.hearing)
        owners = [number for number, call in calls.items() for _ in call.clips]
        clips = [waveform for call in calls.values() for waveform in call.waveforms]

        def begin(batch: Sequence[int]) -> None:
            before(sorted({rows[owners[clip]][ROW_ID] for clip in batch}))

        recognised = recognise_clips(
            clips, [languages[owner] for owner in owners], self.recogniser, self.config.batch_sec, begin
        )
        segments: dict[int, list[list[Segment]]] = {number: [] for number in calls}
        for owner, found in zip(owners, recognised, strict=True):
            segments[owner].append(found)
        return {
            number: understand(call, segments[number], languages[number], self.hearing)
            for number, call in calls.items()
        }

    def _failed(self, row: Mapping[str, Any], exc: Exception) -> CallError:
        logger.error("row %d: could not be recognised: %s", row[ROW_ID], format_trace(exc))
        return CallError(RejectCode.ASR_FAILED, f"{type(exc).__name__} while the call was recognised; see the log")

    def _outcome_of(
        self, number: int, row: Mapping[str, Any], heard: Mapping[int, HeardCall | CallError]
    ) -> dict[str, Any]:
        """Return the columns of a call that this stage decides."""
        outcome: dict[str, Any] = {
            "recogniser": self.lineage.recogniser,
            "model_version": self.lineage.version,
            "run_id": self.lineage.run_id,
            "transcribed_at": dt.datetime.now(dt.UTC),
        }
        if row["status"] is not None:
            return outcome
        found = heard.get(number) or HeardCall.from_json(row["heard"])
        if isinstance(found, CallError):
            return {**outcome, "status": REJECTED, "error_code": str(found.code), "error_detail": found.detail}
        return {**outcome, **columns_of(assign_roles(found, row["agent_channel"], self.config.roles))}


def columns_of(transcript: Transcript) -> dict[str, Any]:
    """Return the columns of a transcript."""
    heard = transcript.heard
    return {
        "status": TRANSCRIBED,
        "reason": heard.reason,
        "language": heard.language,
        "turns": transcript.rows_of_turns(),
        "agent_confidence": transcript.agent_confidence,
        "speech_sec": heard.speech_sec,
        "duration_sec": heard.duration_sec,
        "num_invented": heard.num_invented,
    }
