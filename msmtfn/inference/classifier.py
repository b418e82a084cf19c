"""Score recordings from Python, for example in a notebook, without a manifest, a cluster or the command line."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import soundfile as sf

from msmtfn import storage
from msmtfn.calls.audio import decode_recording
from msmtfn.calls.checks import check_call, parse_turns
from msmtfn.calls.fetch import fetch_recording
from msmtfn.calls.rounds import Turn
from msmtfn.corpora import demo_model
from msmtfn.errors import CallError
from msmtfn.features.prepare import PrepareConfig, PreparedCall, Preparer
from msmtfn.inference.scorer import BATCH_CALLS, CallRounds, Device, Scorer, ScorerConfig
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.ranking import lead_scores
from msmtfn.model.checkpoint import Model, fetch_model
from msmtfn.model.checkpoint import load_model as load_folder
from msmtfn.model.runtime.precision import ScoringPrecision

DEMO: Final = "demo"

TurnLike = Turn | Mapping[str, Any]
"""A turn of a transcript: a `Turn`, or a mapping with `speaker`, `start_sec`, `end_sec` and `text`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CallScore:
    """The score of one call, or the reason why it has none.

    Attributes:
        intent: the most likely of the five intents, A to E; None where the call cannot be scored.
        lead_score: 0 to 100, the mean value of the intents under their probabilities; None as above.
        probabilities: for each task the probability of each class, as in `probabilities["five"]["A"]`; each task sums
            to 1. Empty where the call cannot be scored.
        rounds: start and end of each round in seconds, as the network was given them.
        duration_sec: length of the recording; None where it cannot be read.
        error_code: why the call cannot be scored, such as `audio_unreadable`; None where it is scored.
        error_detail: the same in a sentence.
    """

    intent: str | None = None
    lead_score: float | None = None
    probabilities: Mapping[str, Mapping[str, float]]
    rounds: Sequence[tuple[float, float]] = ()
    duration_sec: float | None = None
    error_code: str | None = None
    error_detail: str | None = None


def load_model(name_or_folder: str | os.PathLike[str]) -> Model:
    """Load a model: the network in evaluation mode, with its tokenizer.

    Args:
        name_or_folder: `"demo"`, a folder, an `s3://` URI, a name on the Hugging Face hub, or `<root>/current` of a
            registry.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
    """
    name = os.fspath(name_or_folder)
    if name == DEMO:
        return load_folder(demo_model())
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        return load_folder(fetch_model(name, Path(scratch)))


class CallClassifier:
    """Classifier that scores recordings of calls in this process.

    The scores are those of the nightly job for the same recording, transcript and model.

    Example:
        >>> from msmtfn import CallClassifier
        >>> classifier = CallClassifier.from_pretrained("demo")
        >>> score = classifier.score_file("call.wav", agent_channel=0)
        >>> score.intent, score.lead_score
        ('B', 58.3)
    """

    def __init__(
        self, model: Model, *, config: ScorerConfig | None = None, prepare: PrepareConfig | None = None
    ) -> None:
        """Wrap a loaded model, which stays as it is.

        Args:
            model: as `load_model` returns it.
            config: how the network is run; by default on a GPU where there is one.
            prepare: limits of a recording.
        """
        self._config = config or ScorerConfig()
        self._prepare = prepare or PrepareConfig()
        self._preparer = Preparer(self._prepare, model.network.config, model.tokenizer, "/")
        self._scorer = Scorer(model.network, self._config)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], *, device: Device = "auto", precision: ScoringPrecision = "auto"
    ) -> CallClassifier:
        """Load a model and wrap it.

        Args:
            name_or_folder: `"demo"`, a folder, an `s3://` URI, a name on the Hugging Face hub, or `<root>/current`.
            device: `cpu`, `cuda`, or `auto` for a GPU where there is one.
            precision: `fp32`, `bf16`, `int8` (with `device="cpu"`), or `auto` for bf16 on a GPU that has it.

        Raises:
            ModelError: there is no such model, or it cannot be loaded.

        Example:
            >>> classifier = CallClassifier.from_pretrained("s3://company-models/msmtfn/current", device="cuda")
        """
        return cls(load_model(name_or_folder), config=ScorerConfig(device=device, precision=precision))

    def score_file(
        self,
        path: str | os.PathLike[str],
        turns: Sequence[TurnLike] | None = None,
        agent_channel: int | None = None,
    ) -> CallScore:
        """Score one recording.

        Args:
            path: a file, or an `s3://` URI.
            turns: the transcript; without it the network uses the audio only.
            agent_channel: 0 or 1, the agent's channel of a two-channel recording; None where it is unknown.

        Returns:
            The score; of a recording that cannot be read, the reason.

        Example:
            >>> turns = [{"speaker": "agent", "start_sec": 0.4, "end_sec": 3.1, "text": "您好"}]
            >>> classifier.score_file("call.wav", turns=turns).intent
            'B'
        """
        return self._score([self._prepared(_location(path), turns, agent_channel)])[0]

    def score_files(self, paths: Iterable[str | os.PathLike[str]]) -> list[CallScore]:
        """Score recordings without transcripts, in batches, in the order of the paths.

        Example:
            >>> scores = classifier.score_files(["a.wav", "b.mp3"])
        """
        scores: list[CallScore] = []
        locations = [_location(path) for path in paths]
        for start in range(0, len(locations), BATCH_CALLS):
            batch = locations[start : start + BATCH_CALLS]
            scores += self._score([self._prepared(location, None, None) for location in batch])
        return scores

    def score_waveform(
        self,
        waveform: npt.ArrayLike,
        sample_rate: int,
        turns: Sequence[TurnLike] | None = None,
        agent_channel: int | None = None,
    ) -> CallScore:
        """Score samples in memory.

        Args:
            waveform: (S,) or (C, S) samples, C being 1 or 2: floats in [-1, 1], or int16.
            sample_rate: samples per second; it is converted to the encoder's.
            turns: the transcript, as for `score_file`.
            agent_channel: as for `score_file`.

        Raises:
            ValueError: the array has another shape or type.

        Example:
            >>> waveform, sample_rate = soundfile.read("call.wav")
            >>> classifier.score_waveform(waveform.T, sample_rate).lead_score
            58.3
        """
        return self._score([self._prepared(_as_wav(np.asarray(waveform), sample_rate), turns, agent_channel)])[0]

    def _prepared(
        self, recording: str | bytes, turns: Sequence[TurnLike] | None, agent_channel: int | None
    ) -> PreparedCall | CallError:
        """Prepare a recording, given by its location or its content; return what is wrong with it otherwise."""
        name = recording if isinstance(recording, str) else "waveform.wav"
        audio = self._prepare.audio
        try:
            check_call(name, None, agent_channel, None)
            checked = parse_turns(None if turns is None else [_as_row(turn) for turn in turns])
            if isinstance(recording, str):
                # The caller names the file, so the folder that it stands in is allowed.
                recording = fetch_recording(recording, recording.rpartition("/")[0], (), audio.max_file_bytes)
            rate = self._preparer.network.encoder_sample_rate
            decoded = decode_recording(recording, sample_rate=rate, config=audio, name=name)
            return self._preparer.prepare_recording(decoded, checked, agent_channel)
        except CallError as error:
            return error

    def _score(self, calls: Sequence[PreparedCall | CallError]) -> list[CallScore]:
        ready = [call for call in calls if isinstance(call, PreparedCall)]
        outcomes = iter(self._scorer.score_calls([_as_rounds(call) for call in ready]))
        return [
            _failed(call) if isinstance(call, CallError) else self._as_score(call, next(outcomes)) for call in calls
        ]

    def _as_score(self, call: PreparedCall, outcome: dict[str, npt.NDArray[np.float32]] | CallError) -> CallScore:
        if isinstance(outcome, CallError):
            return _failed(outcome)
        five = outcome["five"]
        return CallScore(
            intent=INTENTS[int(five.argmax())],
            lead_score=float(lead_scores(five[None], self._config.lead_weights)[0]),
            probabilities={
                task: dict(zip(classes, outcome[task].tolist(), strict=True)) for task, classes in TASKS.items()
            },
            rounds=tuple((round_.start_sec, round_.end_sec) for round_ in call.rounds),
            duration_sec=call.duration_sec,
        )


def _location(path: str | os.PathLike[str]) -> str:
    """Resolve a path; symbolic links are followed, since the caller chose the path."""
    return storage.resolve(storage.absolute(os.fspath(path)))


def _as_row(turn: TurnLike) -> Mapping[str, Any]:
    """Return a turn in the form of a manifest row."""
    if isinstance(turn, Turn):
        return {name: getattr(turn, name) for name in ("speaker", "start_sec", "end_sec", "text")}
    return {name: turn.get(name) for name in ("speaker", "start_sec", "end_sec", "text")}


def _as_wav(waveform: npt.NDArray[Any], sample_rate: int) -> bytes:
    """Encode samples as a WAV file, so that they are checked and resampled like those of a file."""
    channels = waveform[None] if waveform.ndim == 1 else waveform
    if channels.ndim != 2 or len(channels) not in (1, 2):  # noqa: PLR2004
        raise ValueError(f"waveform has the shape {waveform.shape}; give (S,), or (C, S) with one or two channels")
    if channels.dtype != np.int16 and not np.issubdtype(channels.dtype, np.floating):
        raise ValueError(f"waveform has the type {channels.dtype}; give floats in [-1, 1], or int16")
    subtype = "PCM_16" if channels.dtype == np.int16 else "FLOAT"
    file = io.BytesIO()
    sf.write(file, channels.T, sample_rate, format="WAV", subtype=subtype)
    return file.getvalue()


def _as_rounds(call: PreparedCall) -> CallRounds:
    ends = np.cumsum(call.round_samples)[:-1]
    return CallRounds(
        samples=np.split(call.samples, ends) if call.round_samples else [],
        tokens=[np.asarray(ids, np.int32) for ids in call.input_ids],
    )


def _failed(error: CallError) -> CallScore:
    return CallScore(probabilities={}, error_code=str(error.code), error_detail=error.detail)
