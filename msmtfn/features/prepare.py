"""Preparation of calls: from a row of the manifest to the network's inputs (fetch, decode, cut rounds, tokenise).

Plain Python without Ray. A batch of manifest rows goes in; the same rows come out, in the same order, with the samples
and tokens of their rounds or with the reason why there are none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from msmtfn import storage
from msmtfn.calls.activity import ActivityConfig, detect_activity
from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.checks import TranscriptConfig, check_call, check_density, check_rounds, check_transcript, parse_turns
from msmtfn.calls.fetch import fetch_recording
from msmtfn.calls.rounds import Round, RoundsConfig, Turn, find_rounds
from msmtfn.errors import CallError, RejectCode, format_trace
from msmtfn.features.sandbox import UNSETTLED, SandboxConfig
from msmtfn.leads.schema import REJECTED, ROUND
from msmtfn.model.config import MsmtFnConfig

logger = logging.getLogger(__name__)

FULL_SCALE: Final = 32767.0
NO_MEMORY: Final = ("can't allocate memory", "bad_alloc")
"""Parts of the messages of the RuntimeError that PyTorch raises instead of a MemoryError."""
MAX_CHARS_PER_TOKEN: Final = 100
"""Far more than a token of any text has; a round's text is cut to this before it is tokenised."""

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
        *INPUTS,
    ]
)
"""Columns that this stage adds to a row; `status` is null if the call is ready to be scored, and `UNSETTLED` if storage
failed and another attempt may succeed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Reading recordings and cutting them into rounds."""

    allowed_prefixes: tuple[str, ...] = ()
    """Folders and s3:// addresses that may contain recordings, in addition to the root of the manifests."""
    audio: AudioConfig = field(default_factory=AudioConfig)
    """Limits on recordings."""
    transcript: TranscriptConfig = field(default_factory=TranscriptConfig)
    """Limits on transcripts."""
    activity: ActivityConfig = field(default_factory=ActivityConfig)
    """Detection of speech: in calls without turns, and for networks that remove silence."""
    guard: SandboxConfig = field(default_factory=SandboxConfig)  # the name is part of run ids: do not rename it
    """Limits on preparing one call."""

    def __post_init__(self) -> None:
        """Check the prefixes.

        Raises:
            ValueError: a prefix is neither a folder nor an s3:// address with a bucket.
        """
        for prefix in self.allowed_prefixes:
            scheme, _, path = prefix.rpartition("://")
            if scheme not in ("", *storage.PROTOCOLS) or not (path.strip("/") or (path and scheme != "s3")):
                raise ValueError(f"allowed_prefixes has {prefix!r}; give folders, or s3:// addresses with a bucket")


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """Inputs of the network for one call.

    Attributes:
        duration_sec: length of the whole recording in seconds.
        rounds: the rounds, in order.
        samples: (S,) int16, the concatenated samples of the rounds.
        round_samples: number of samples of each round.
        input_ids: token ids of each round.
    """

    duration_sec: float
    rounds: list[Round]
    samples: npt.NDArray[np.int16]
    round_samples: list[int]
    input_ids: list[list[int]]

    @property
    def num_tokens(self) -> int:
        """Number of text tokens in all rounds; 0 for a call without a transcript."""
        return sum(map(len, self.input_ids))

    @property
    def loudness_dbfs(self) -> float:
        """Root mean square of the samples in dB relative to full scale; at least -90.3 dB, one step of 16 bits."""
        samples = self.samples.astype(np.float32)
        power = float(samples @ samples) / max(len(samples), 1)
        return float(10 * np.log10(max(power, 1.0)) - 20 * np.log10(FULL_SCALE))


class Preparer:
    """Preparer of batches of calls for one network."""

    def __init__(
        self, config: PrepareConfig, network: MsmtFnConfig, tokenizer: PreTrainedTokenizerBase, manifest_root: str
    ) -> None:
        self.config = config
        self.network = network
        self.tokenizer = tokenizer
        self.manifest_root = manifest_root
        self.allowed_prefixes = [storage.absolute(prefix) for prefix in config.allowed_prefixes]
        self.rounds_config = RoundsConfig(
            max_round_sec=float(network.max_round_sec),
            overlong_rounds=network.overlong_rounds,
            activity=config.activity,
        )

    def prepare_batch(self, batch: pa.Table, passthrough: Sequence[str]) -> pa.Table:
        """Prepare calls.

        Args:
            batch: rows of the manifest, as yielded by `manifest.iter_calls`.
            passthrough: names of the columns that pass through.

        Returns:
            The columns `passthrough` and `PREPARED`, one row per row of the batch.
        """
        rows = batch.select(["uri", "intent", "agent_channel", "row_id", "row_error"]).to_pylist()
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
        turns = parse_turns(row["turns"])
        data = fetch_recording(
            uri, self.manifest_root, self.allowed_prefixes, max_file_bytes=self.config.audio.max_file_bytes
        )
        recording = decode_recording(
            data, sample_rate=self.network.encoder_sample_rate, config=self.config.audio, name=uri
        )
        return self.prepare_recording(recording, turns, row["agent_channel"])

    def prepare_recording(
        self, recording: Recording, turns: Sequence[Turn] | None, agent_channel: int | None
    ) -> PreparedCall:
        """Prepare a decoded recording.

        Args:
            recording: at the encoder's sample rate.
            turns: the transcript; None or empty where there is none.
            agent_channel: the agent's channel of a two-channel recording; None where it is unknown.

        Raises:
            CallError: the turns do not fit the recording, or there are too many rounds.
        """
        limits = self.config.transcript
        check_density(len(turns or ()), recording.duration_sec, limits)
        rounds = find_rounds(recording.channels, recording.sample_rate, turns, agent_channel, self.rounds_config)
        check_rounds(len(rounds), limits)
        samples, round_samples = self.cut_rounds(recording, rounds)
        return PreparedCall(recording.duration_sec, rounds, samples, round_samples, self.tokenize_rounds(rounds))

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

    def cut_rounds(self, recording: Recording, rounds: Sequence[Round]) -> tuple[npt.NDArray[np.int16], list[int]]:
        """Return the concatenated samples of the rounds as int16, and the number of samples of each round."""
        waveform = recording.mono()
        rate, max_samples = recording.sample_rate, self.network.max_round_samples
        starts = [round(spoken.start_sec * rate) for spoken in rounds]
        ends = [
            min(round(spoken.end_sec * rate), start + max_samples, len(waveform))
            for spoken, start in zip(rounds, starts, strict=True)
        ]
        cuts = [waveform[start:end] for start, end in zip(starts, ends, strict=True)]
        if self.network.silence == "remove":
            speech = self._find_speech(waveform, rate)
            cuts = [cut[speech[start : start + len(cut)]] for cut, start in zip(cuts, starts, strict=True)]
        kept = np.concatenate(cuts) if cuts else waveform[:0]
        samples = np.rint(np.clip(kept, -1.0, 1.0) * FULL_SCALE).astype(np.int16)
        return samples, [len(cut) for cut in cuts]

    def _find_speech(self, waveform: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.bool_]:
        """Return a mask (S,) that is True for the samples of a call in which somebody speaks."""
        speech = np.zeros(len(waveform), np.bool_)
        for start_sec, end_sec in detect_activity(waveform, sample_rate, self.config.activity):
            speech[round(start_sec * sample_rate) : round(end_sec * sample_rate)] = True
        return speech

    def tokenize_rounds(self, rounds: Sequence[Round]) -> list[list[int]]:
        """Return the token ids of each round; an empty list for a round without text."""
        max_chars = self.network.max_text_tokens * MAX_CHARS_PER_TOKEN
        texts = [spoken.text[:max_chars] for spoken in rounds if spoken.text.strip()]
        if not texts:
            return [[] for _ in rounds]
        encoded = iter(
            self.tokenizer(
                texts,
                truncation=True,
                max_length=self.network.max_text_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        )
        return [next(encoded) if spoken.text.strip() else [] for spoken in rounds]


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
        pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(np.concatenate([no_samples, *samples]))),
        pa.array([call.round_samples if call else [] for call in calls], INPUTS.field("round_samples").type),
        pa.array(
            [list(chain.from_iterable(call.input_ids)) if call else [] for call in calls], INPUTS.field("tokens").type
        ),
        pa.array(
            [[len(ids) for ids in call.input_ids] if call else [] for call in calls], INPUTS.field("round_tokens").type
        ),
    ]
