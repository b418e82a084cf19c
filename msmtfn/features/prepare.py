"""Preparation of calls: rows of the manifest are checked, fetched, and put through a model's processor.

Plain Python without Ray. A batch of manifest rows goes in; the same rows come out, in the same order, with the samples
and tokens of their rounds or with the reason why there are none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from typing import Any, Final

import numpy as np
import pyarrow as pa

from msmtfn import storage
from msmtfn.calls.activity import ActivityConfig
from msmtfn.calls.audio import AudioConfig
from msmtfn.calls.checks import TranscriptConfig, check_call, check_transcript, parse_turns
from msmtfn.calls.conversation import ConversationConfig, judge_conversation
from msmtfn.calls.fetch import check_prefixes, fetch_recording
from msmtfn.calls.suppression import find_suppression, suppression_columns
from msmtfn.errors import CallError, RejectCode, format_trace
from msmtfn.features.processor import CallProcessor, PreparedCall
from msmtfn.features.processor_config import ActivityOptions
from msmtfn.features.sandbox import UNSETTLED, SandboxConfig
from msmtfn.leads.schema import FACTS, REJECTED, ROUND

logger = logging.getLogger(__name__)

NO_MEMORY: Final = ("can't allocate memory", "bad_alloc")
"""Parts of the messages of the RuntimeError that PyTorch raises instead of a MemoryError."""

INPUTS: Final = pa.schema(
    [
        ("samples", pa.large_list(pa.int16())),
        ("round_samples", pa.list_(pa.int32())),
        ("tokens", pa.list_(pa.int32())),
        ("round_tokens", pa.list_(pa.int32())),
    ]
)
"""Inputs of the network for a call: its rounds' samples, concatenated, with their lengths, and the same for tokens."""

PREPARED: Final = pa.schema(
    [
        ("status", pa.string()),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("duration_sec", pa.float64()),
        ("num_rounds", pa.int32()),
        ("num_tokens", pa.int32()),
        ("loudness_dbfs", pa.float32()),
        ("rounds", pa.list_(ROUND)),
        ("facts", FACTS),
        ("unranked_reason", pa.string()),
        *INPUTS,
    ]
)
"""Columns that this stage adds to a row; `status` is null if the call is ready to be scored, and `UNSETTLED` if storage
failed and another attempt may succeed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Options of reading recordings and of cutting them into rounds."""

    allowed_prefixes: tuple[str, ...] = ()
    """Folders and s3:// addresses that may contain recordings, in addition to the root of the manifests."""
    audio: AudioConfig = field(default_factory=AudioConfig)
    """Limits on recordings."""
    transcript: TranscriptConfig = field(default_factory=TranscriptConfig)
    """Limits on transcripts."""
    activity: ActivityOptions = field(default_factory=ActivityOptions)
    """Detection of speech: in calls without turns, and for networks that remove silence."""
    guard: SandboxConfig = field(default_factory=SandboxConfig)  # the name is part of run ids: do not rename it
    """Limits on preparing one call."""

    def __post_init__(self) -> None:
        """Check the prefixes.

        Raises:
            ValueError: a prefix is neither a folder nor an s3:// address with a bucket.
        """
        check_prefixes(self.allowed_prefixes)

    def identity(self) -> dict[str, Any]:
        """Return the content for the fingerprint of a run.

        An option that is not given stands there with its default, as if it had been given, so that the same command
        keeps its run; given options that repeat a default are named, since a model may have other thresholds.
        """
        given, defaults = self.activity.given(), asdict(ActivityConfig())
        content = asdict(self) | {"activity": defaults | given}
        repeated = sorted(name for name, value in given.items() if value == defaults[name])
        return content | ({"given": repeated} if repeated else {})


class Preparer:
    """Preparer of batches of calls: rows of a manifest go through a model's processor, within limits."""

    def __init__(
        self,
        config: PrepareConfig,
        processor: CallProcessor,
        manifest_root: str,
        conversation: ConversationConfig | None = None,
    ) -> None:
        """Apply the options of the activity detector to the processor.

        Args:
            config: limits, and options of the activity detector, which replace those of the processor.
            processor: of the model that is to score the calls; it is not changed.
            manifest_root: root folder of the manifests.
            conversation: thresholds below which a call gets no rank.

        Raises:
            UsageError: the options of the activity detector do not go with the processor's.
        """
        self.config = config
        self.conversation = conversation or ConversationConfig()
        self.processor = processor.with_options(config.activity)
        self.manifest_root = manifest_root
        self.allowed_prefixes = [storage.absolute(prefix) for prefix in config.allowed_prefixes]

    def prepare_batch(self, batch: pa.Table, passthrough: Sequence[str]) -> pa.Table:
        """Prepare calls.

        Args:
            batch: rows of the manifest, as yielded by `manifest.iter_calls`.
            passthrough: names of the columns that pass through.

        Returns:
            The columns `passthrough` and `PREPARED`, one row per row of the batch.
        """
        flags = suppression_columns(batch.schema.names)
        rows = batch.select(["uri", "intent", "agent_channel", "row_id", "row_error", *flags]).to_pylist()
        turns = batch["turns"].combine_chunks()
        outcomes = [self._prepare_or_reject(row, turns.slice(index, 1)) for index, row in enumerate(rows)]
        return pa.table(
            [*batch.select(passthrough).columns, *_columns(outcomes)],
            schema=_with_prepared(batch.select(passthrough).schema),
        )

    def prepare_call(self, row: Mapping[str, Any]) -> PreparedCall:
        """Prepare one call.

        Raises:
            CallError: the call cannot be scored.
        """
        uri = check_call(row["uri"], row["intent"], row["agent_channel"], row["row_error"])
        suppressed = find_suppression({name: row[name] for name in suppression_columns(row)})
        turns = parse_turns(row["turns"])
        data = fetch_recording(
            uri, self.manifest_root, self.allowed_prefixes, max_file_bytes=self.config.audio.max_file_bytes
        )
        recording = self.processor.decode(data, self.config.audio, uri)
        call = self.processor.process_decoded(recording, turns, row["agent_channel"], self.config.transcript)
        judged = None if call.timeline is None else judge_conversation(call.timeline, self.conversation)
        return replace(call, unranked_reason=suppressed or judged)

    def _prepare_or_reject(self, row: Mapping[str, Any], turns: pa.Array) -> PreparedCall | CallError:
        try:
            check_transcript(turns, self.config.transcript)
            return self.prepare_call({**row, "turns": turns[0].as_py()})
        except CallError as error:
            return error
        # The one place that catches everything: an unexpected error in one call must not affect the others.
        except Exception as exc:
            if isinstance(exc, MemoryError) or any(message in str(exc) for message in NO_MEMORY):
                limit = self.config.guard.max_prepare_bytes
                return CallError(
                    RejectCode.AUDIO_OUT_OF_MEMORY, f"no memory; at most {limit} bytes are taken (--max-prepare-bytes)"
                )
            logger.error("row %d: could not be prepared: %s", row["row_id"], format_trace(exc))
            return CallError(
                RejectCode.INTERNAL_ERROR, f"{type(exc).__name__} while the call was prepared; see the log"
            )


def _with_prepared(passthrough: pa.Schema) -> pa.Schema:
    return pa.schema([*passthrough, *PREPARED])


def _status_of(error: CallError) -> str:
    return UNSETTLED if error.code == RejectCode.STORAGE_UNAVAILABLE else REJECTED


def _columns(outcomes: Sequence[PreparedCall | CallError]) -> list[pa.Array]:
    """Build the columns of `PREPARED`, one row per outcome."""
    errors = [outcome if isinstance(outcome, CallError) else None for outcome in outcomes]
    calls = [outcome if isinstance(outcome, PreparedCall) else None for outcome in outcomes]
    rounds = [
        None if call is None else [{"start_sec": spoken.start_sec, "end_sec": spoken.end_sec} for spoken in call.rounds]
        for call in calls
    ]
    facts = [None if call is None or (found := call.facts) is None else asdict(found) for call in calls]
    no_samples = np.zeros(0, np.int16)
    samples = [call.samples if call else no_samples for call in calls]
    offsets = np.cumsum([0, *(len(call_samples) for call_samples in samples)])
    return [
        pa.array([None if error is None else _status_of(error) for error in errors], pa.string()),
        pa.array([None if error is None else str(error.code) for error in errors], pa.string()),
        pa.array([None if error is None else error.detail for error in errors], pa.string()),
        pa.array([None if call is None else call.duration_sec for call in calls], pa.float64()),
        pa.array([None if call is None else len(call.rounds) for call in calls], pa.int32()),
        pa.array([None if call is None else call.num_tokens for call in calls], pa.int32()),
        pa.array([None if call is None else call.loudness_dbfs for call in calls], pa.float32()),
        pa.array(rounds, PREPARED.field("rounds").type),
        pa.array(facts, FACTS),
        pa.array([None if call is None else call.unranked_reason for call in calls], pa.string()),
        pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(np.concatenate([no_samples, *samples]))),
        pa.array([call.round_samples if call else [] for call in calls], INPUTS.field("round_samples").type),
        pa.array(
            [list(chain.from_iterable(call.input_ids)) if call else [] for call in calls], INPUTS.field("tokens").type
        ),
        pa.array(
            [[len(ids) for ids in call.input_ids] if call else [] for call in calls], INPUTS.field("round_tokens").type
        ),
    ]
