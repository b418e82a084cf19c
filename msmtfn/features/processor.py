"""Processor: the part of a model that turns a recorded call into the network's inputs.

It is stored beside the network as `processor_config.json`, so that a model's folder is complete by itself. Limits on
recordings (bytes, seconds, allowed folders) are not the model's; they belong to `prepare.PrepareConfig`.

Shapes: R rounds, S samples, T tokens.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypedDict

import numpy as np
import numpy.typing as npt
import soundfile as sf
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME

from msmtfn import storage
from msmtfn.calls.activity import detect_activity, detect_channel_activity
from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.calls.checks import TranscriptConfig, check_call, check_density, check_rounds, parse_turns
from msmtfn.calls.conversation import find_timeline
from msmtfn.calls.facts import CallFacts, Timeline, compute_facts
from msmtfn.calls.fetch import fetch_recording
from msmtfn.calls.rounds import Round, Turn, find_rounds
from msmtfn.errors import ModelError
from msmtfn.features.processor_config import ActivityOptions, ProcessorConfig, read_json, read_processor_config
from msmtfn.labels import UnrankedReason

FULL_SCALE: Final = 32767.0
MAX_CHARS_PER_TOKEN: Final = 100
"""Far more than a token of any text has; a round's text is cut to this before it is tokenised."""

TurnLike = Turn | Mapping[str, Any]
"""A turn of a transcript: a `Turn`, or a mapping with `speaker`, `start_sec`, `end_sec` and `text`."""

RecordingLike = str | os.PathLike[str] | bytes | npt.NDArray[Any]
"""A recording: its path or `s3://` URI, the content of its file, or its samples, (S,) or (C, S)."""


class NetworkInputs(TypedDict):
    """Arguments of `MsmtFn.forward` for one call.

    Attributes:
        waveforms: (R, S) float32 in [-1, 1], padded with zeros.
        num_samples: (R,) int64, number of samples of each round.
        input_ids: (R, T) int64, padded with the tokenizer's `pad_token_id`.
        num_tokens: (R,) int64, number of tokens of each round; 0 for a round without text.
        rounds_per_call: the number of rounds, as a list of one.
    """

    waveforms: Tensor
    num_samples: Tensor
    input_ids: Tensor
    num_tokens: Tensor
    rounds_per_call: list[int]


@dataclass(frozen=True, slots=True)
class PreparedCall:
    """Inputs of the network for one call.

    Attributes:
        duration_sec: length of the whole recording in seconds.
        rounds: the rounds, in order.
        samples: (S,) int16, the concatenated samples of the rounds.
        round_samples: number of samples of each round.
        input_ids: token ids of each round.
        timeline: who speaks when; None if that has not been looked at.
        unranked_reason: why the call gets no rank, whatever its score.
    """

    duration_sec: float
    rounds: list[Round]
    samples: npt.NDArray[np.int16]
    round_samples: list[int]
    input_ids: list[list[int]]
    timeline: Timeline | None = None
    unranked_reason: UnrankedReason | None = None

    @property
    def facts(self) -> CallFacts | None:
        """Facts of the call; None where its voices are not known."""
        return None if self.timeline is None else compute_facts(self.timeline)

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

    def split_samples(self) -> list[npt.NDArray[np.int16]]:
        """Return the samples of each round, as views."""
        return np.split(self.samples, np.cumsum(self.round_samples)[:-1]) if self.round_samples else []


class CallProcessor:
    """Processor of recorded calls: the tokenizer, and the settings that decide what the network reads.

    Example:
        >>> from msmtfn import CallProcessor, MsmtFn
        >>> processor, network = CallProcessor.from_pretrained("model"), MsmtFn.from_pretrained("model")
        >>> network(**processor("call.wav", agent_channel=0)).logits["five"].shape
        torch.Size([1, 5])
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: ProcessorConfig | None = None) -> None:
        self.tokenizer = tokenizer
        self.config = config or ProcessorConfig()

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, text_config: PreTrainedConfig | None = None, **_options: Any
    ) -> CallProcessor:
        """Load the processor of a model.

        The folders of older versions have no `processor_config.json`; their settings come from `config.json`, and the
        activity detector has its defaults.

        Args:
            name_or_folder: a model's folder, or a name on the Hugging Face hub.
            text_config: configuration of the text encoder, whose kind decides the tokenizer's where its own files do
                not; by default the one in `config.json`.
            _options: ignored; transformers' `AutoProcessor` passes its own.

        Raises:
            ModelError: there is no such processor, or its settings cannot be read.
        """
        config = read_processor_config(name_or_folder)
        try:
            if text_config is None:
                network = read_json(name_or_folder, CONFIG_NAME) or {}
                text_config = AutoConfig.for_model(**{"model_type": "bert", **network.get("text_config", {})})
            tokenizer = AutoTokenizer.from_pretrained(
                name_or_folder,
                config=text_config,
                trust_remote_code=False,
                local_files_only=Path(name_or_folder).is_dir(),
            )
        except Exception as exc:  # several libraries, each with its own exceptions for a broken file
            raise ModelError(f"the tokenizer of {name_or_folder} cannot be loaded: {exc}") from exc
        return cls(tokenizer, config)

    def with_options(self, activity: ActivityOptions) -> CallProcessor:
        """Return the same processor with the options of the activity detector that were given.

        Raises:
            UsageError: an option is out of range, or does not go with a threshold of the model.
        """
        return CallProcessor(self.tokenizer, self.config.with_options(activity))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the processor's settings and the tokenizer's files to a folder, which is made if it is missing."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(folder)
        text = json.dumps(self.config.to_dict(), indent=2) + "\n"
        (Path(folder) / PROCESSOR_NAME).write_text(text, encoding="utf-8")

    def __call__(
        self,
        recording: RecordingLike,
        turns: Sequence[TurnLike] | None = None,
        agent_channel: int | None = None,
        *,
        sample_rate: int | None = None,
    ) -> NetworkInputs:
        """Turn one call into the arguments of `MsmtFn.forward`; the arguments and errors are those of `process`."""
        call = self.process(recording, turns, agent_channel, sample_rate=sample_rate)
        waveforms = [torch.from_numpy(samples).float() / FULL_SCALE for samples in call.split_samples()]
        tokens = [torch.tensor(ids, dtype=torch.int64) for ids in call.input_ids]
        return {
            "waveforms": _pad(waveforms, 0),
            "num_samples": torch.tensor(call.round_samples),
            "input_ids": _pad(tokens, self.tokenizer.pad_token_id or 0),
            "num_tokens": torch.tensor([len(ids) for ids in tokens]),
            "rounds_per_call": [len(call.rounds)],
        }

    def process(
        self,
        recording: RecordingLike,
        turns: Sequence[TurnLike] | None = None,
        agent_channel: int | None = None,
        *,
        sample_rate: int | None = None,
        limits: AudioConfig | None = None,
        transcript_limits: TranscriptConfig | None = None,
    ) -> PreparedCall:
        """Read and decode a recording, cut it into rounds, and tokenise their texts.

        Args:
            recording: a path or `s3://` URI, the content of a file, or samples: (S,) or (C, S) with one or two
                channels, floats in [-1, 1] or int16.
            turns: the transcript; None or empty where there is none.
            agent_channel: 0 or 1, the agent's channel of a two-channel recording; None where it is unknown.
            sample_rate: samples per second; given with samples only, which are converted to the encoder's rate.
            limits: limits on the recording.
            transcript_limits: limits on the turns and rounds.

        Raises:
            CallError: the recording cannot be read, or the turns break the contract or do not fit the recording.
            ValueError: the samples have another shape or type, or their sample rate is missing.
        """
        limits = limits or AudioConfig()
        name = os.fspath(recording) if isinstance(recording, str | os.PathLike) else "recording"
        if isinstance(recording, np.ndarray):
            recording = encode_wav(recording, sample_rate)
        check_call(name, None, agent_channel, None)
        checked = parse_turns(None if turns is None else [_as_row(turn) for turn in turns])
        if not isinstance(recording, bytes):
            # Symbolic links are followed, since the caller names the file; so the folder that it stands in is allowed.
            location = storage.resolve(storage.absolute(name))
            recording = fetch_recording(location, location.rpartition("/")[0], (), limits.max_file_bytes)
        return self.process_decoded(self.decode(recording, limits, name), checked, agent_channel, transcript_limits)

    def decode(self, data: bytes, limits: AudioConfig, name: str) -> Recording:
        """Decode the content of a recording's file to the encoder's sample rate.

        Raises:
            CallError: the recording is broken, or exceeds the limits.
        """
        return decode_recording(data, sample_rate=self.config.encoder_sample_rate, config=limits, name=name)

    def process_decoded(
        self,
        recording: Recording,
        turns: Sequence[Turn] | None,
        agent_channel: int | None,
        limits: TranscriptConfig | None = None,
    ) -> PreparedCall:
        """Cut a decoded recording into rounds, and tokenise their texts.

        Args:
            recording: at the encoder's sample rate.
            turns: the transcript; None or empty where there is none.
            agent_channel: the agent's channel of a two-channel recording; None where it is unknown.
            limits: limits on the turns and rounds.

        Raises:
            CallError: the turns do not fit the recording, or there are too many rounds.
        """
        limits = limits or TranscriptConfig()
        check_density(len(turns or ()), recording.duration_sec, limits)
        channels, rate = recording.channels, recording.sample_rate
        activity = [] if turns else detect_channel_activity(channels, rate, self.config.activity)
        rounds = find_rounds(channels, rate, turns, agent_channel, self.config.rounds, activity)
        check_rounds(len(rounds), limits)
        timeline = find_timeline(channels, rate, turns, agent_channel, activity)
        samples, round_samples = self.cut_rounds(recording, rounds)
        input_ids = self.tokenize_rounds(rounds)
        return PreparedCall(recording.duration_sec, rounds, samples, round_samples, input_ids, timeline)

    def cut_rounds(self, recording: Recording, rounds: Sequence[Round]) -> tuple[npt.NDArray[np.int16], list[int]]:
        """Return the concatenated samples of the rounds as int16, and the number of samples of each round."""
        waveform = recording.mono()
        rate, max_samples = recording.sample_rate, self.config.max_round_samples
        starts = [round(spoken.start_sec * rate) for spoken in rounds]
        ends = [
            min(round(spoken.end_sec * rate), start + max_samples, len(waveform))
            for spoken, start in zip(rounds, starts, strict=True)
        ]
        cuts = [waveform[start:end] for start, end in zip(starts, ends, strict=True)]
        if self.config.silence == "remove":
            speech = self._find_speech(waveform, rate)
            cuts = [cut[speech[start : start + len(cut)]] for cut, start in zip(cuts, starts, strict=True)]
        kept = np.concatenate(cuts) if cuts else waveform[:0]
        samples = np.rint(np.clip(kept, -1.0, 1.0) * FULL_SCALE).astype(np.int16)
        return samples, [len(cut) for cut in cuts]

    def tokenize_rounds(self, rounds: Sequence[Round]) -> list[list[int]]:
        """Return the token ids of each round; an empty list for a round without text."""
        if self.config.speakers == "mark":
            return self._tokenize_stretches(rounds)
        max_chars = self.config.max_text_tokens * MAX_CHARS_PER_TOKEN
        texts = [spoken.text[:max_chars] for spoken in rounds if spoken.text.strip()]
        if not texts:
            return [[] for _ in rounds]
        encoded = iter(
            self.tokenizer(
                texts,
                truncation=True,
                max_length=self.config.max_text_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        )
        return [next(encoded) if spoken.text.strip() else [] for spoken in rounds]

    def _tokenize_stretches(self, rounds: Sequence[Round]) -> list[list[int]]:
        """Return the token ids of each round as BERT takes texts of two sides: [CLS] agent [SEP] customer [SEP].

        Somebody else's tokens follow a [SEP] even where the agent says nothing, so its position tells who speaks. A
        further [SEP] gives the word back.
        """
        max_tokens = self.config.max_text_tokens
        texts = [text for spoken in rounds for text in _cut_texts(spoken.stretches, max_tokens * MAX_CHARS_PER_TOKEN)]
        if not any(texts):
            return [[] for _ in rounds]
        encoded = iter(
            self.tokenizer(
                texts,
                add_special_tokens=False,
                truncation=True,
                max_length=max_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        )
        first, separator = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        input_ids: list[list[int]] = []
        for spoken in rounds:
            ids = [first]
            for _ in spoken.stretches:
                ids += [*next(encoded), separator]
            input_ids.append([*ids[:-1][: max_tokens - 1], separator] if any(spoken.stretches) else [])
        return input_ids

    def _find_speech(self, waveform: npt.NDArray[np.float32], sample_rate: int) -> npt.NDArray[np.bool_]:
        """Return a mask (S,) that is True for the samples of a call in which somebody speaks."""
        speech = np.zeros(len(waveform), np.bool_)
        for start_sec, end_sec in detect_activity(waveform, sample_rate, self.config.activity):
            speech[round(start_sec * sample_rate) : round(end_sec * sample_rate)] = True
        return speech


def _cut_texts(texts: Sequence[str], max_chars: int) -> Iterator[str]:
    """Yield the texts up to `max_chars` characters of all of them together, and nothing of the others."""
    for text in texts:
        yield text[:max_chars]
        max_chars = max(0, max_chars - len(text))


def encode_wav(waveform: npt.NDArray[Any], sample_rate: int | None) -> bytes:
    """Encode samples as a WAV file, so that they are checked and resampled like those of a file.

    Raises:
        ValueError: the samples have another shape or type, or the sample rate is missing.
    """
    channels = waveform[None] if waveform.ndim == 1 else waveform
    if channels.ndim != 2 or len(channels) not in (1, 2):  # noqa: PLR2004
        raise ValueError(f"waveform has the shape {waveform.shape}; give (S,), or (C, S) with one or two channels")
    if channels.dtype != np.int16 and not np.issubdtype(channels.dtype, np.floating):
        raise ValueError(f"waveform has the type {channels.dtype}; give floats in [-1, 1], or int16")
    if sample_rate is None:
        raise ValueError("sample_rate is missing; give the samples per second of the waveform")
    subtype = "PCM_16" if channels.dtype == np.int16 else "FLOAT"
    file = io.BytesIO()
    sf.write(file, channels.T, sample_rate, format="WAV", subtype=subtype)
    return file.getvalue()


def _as_row(turn: TurnLike) -> Mapping[str, Any]:
    """Return a turn in the form of a manifest row."""
    if isinstance(turn, Turn):
        return {name: getattr(turn, name) for name in ("speaker", "start_sec", "end_sec", "text")}
    return {name: turn.get(name) for name in ("speaker", "start_sec", "end_sec", "text")}


def _pad(rows: list[Tensor], value: int) -> Tensor:
    """Pad rows of different lengths to one tensor at least one wide."""
    padded = pad_sequence(rows, batch_first=True, padding_value=value)
    return padded if padded.shape[1] else padded.new_full((len(rows), 1), value)
