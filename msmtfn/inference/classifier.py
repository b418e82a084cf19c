"""Score recordings from Python, for example in a notebook, without a manifest, a cluster or the command line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from msmtfn.calls.conversation import ConversationConfig, judge_conversation
from msmtfn.calls.facts import CallFacts
from msmtfn.corpora import replace_demo
from msmtfn.errors import CallError
from msmtfn.features.prepare import PrepareConfig
from msmtfn.features.processor import PreparedCall, RecordingLike, TurnLike
from msmtfn.inference.evidence import Side
from msmtfn.inference.scorer import BATCH_CALLS, CallRounds, Device, ScoredCall, Scorer, ScorerConfig
from msmtfn.labels import TASKS, UnrankedReason
from msmtfn.model.checkpoint import Model, fetch_model
from msmtfn.model.checkpoint import load_model as load_folder
from msmtfn.model.runtime.precision import ScoringPrecision


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundEvidence:
    """A round that moved the score of its call.

    Attributes:
        start_sec: start of the round.
        end_sec: its end; in a call of more than 64 rounds, that of the last of several rounds.
        change: lead score with it minus lead score without it, in points.
        side: whether its words moved the score, or its sound, or both.
    """

    start_sec: float
    end_sec: float
    change: float
    side: Side


@dataclass(frozen=True, kw_only=True, slots=True)
class CallScore:
    """The score of one call, or the reason why it has none.

    Attributes:
        intent: the most likely of the five intents, A to E; None where the call cannot be scored.
        lead_score: 0 to 100, the mean value of the intents under their probabilities; None as above.
        probabilities: for each task the calibrated probability of each class, as in `probabilities["five"]["A"]`; each
            task sums to 1, and the tasks agree. Empty where the call cannot be scored.
        prediction_set: the intents that the call may have, most likely first: for 90 % of all calls the true one is in
            it. Empty where the call cannot be scored.
        evidence: up to three rounds that moved the score most, largest change first; empty for a call of one round.
        facts: talk shares, reply delay, interruptions and the like, null where roles are unknown; None where nothing is
            known of who speaks when.
        unranked_reason: why nobody is to ring because of this call, such as `no_conversation` or `refused`; None where
            it would get a rank.
        rounds: start and end of each round in seconds, as the network was given them.
        duration_sec: length of the recording; None where it cannot be read.
        error_code: why the call cannot be scored, such as `audio_unreadable`; None where it is scored.
        error_detail: the same in a sentence.
    """

    intent: str | None = None
    lead_score: float | None = None
    probabilities: Mapping[str, Mapping[str, float]]
    prediction_set: Sequence[str] = ()
    evidence: Sequence[RoundEvidence] = ()
    facts: CallFacts | None = None
    unranked_reason: UnrankedReason | None = None
    rounds: Sequence[tuple[float, float]] = ()
    duration_sec: float | None = None
    error_code: str | None = None
    error_detail: str | None = None


def load_model(name_or_folder: str | os.PathLike[str]) -> Model:
    """Load a model: the network in evaluation mode, with its processor.

    Args:
        name_or_folder: `"demo"`, a folder, an `s3://` URI, a name on the Hugging Face hub, or `<root>/current` of a
            registry; a model's folder of the name `demo` comes before the one in the package.

    Raises:
        ModelError: there is no such model, or it cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="msmtfn-") as scratch:
        return load_folder(fetch_model(replace_demo(os.fspath(name_or_folder)), Path(scratch)))


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
        self,
        model: Model,
        *,
        config: ScorerConfig | None = None,
        prepare: PrepareConfig | None = None,
        conversation: ConversationConfig | None = None,
    ) -> None:
        """Wrap a loaded model, which stays as it is.

        Args:
            model: as `load_model` returns it.
            config: how the network is run; by default on a GPU where there is one.
            prepare: limits of a recording and its transcript, and options of the activity detector.
            conversation: thresholds below which a call would get no rank.
        """
        config = config or ScorerConfig()
        prepare = prepare or PrepareConfig()
        self._limits = prepare
        self._conversation = conversation or ConversationConfig()
        self.processor = model.processor.with_options(prepare.activity)
        self._scorer = Scorer(model.network, config, calibration=model.calibration)

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
        return self._score([self._process(path, turns, agent_channel)])[0]

    def score_files(self, paths: Iterable[str | os.PathLike[str]]) -> list[CallScore]:
        """Score recordings without transcripts, in batches, in the order of the paths.

        Example:
            >>> scores = classifier.score_files(["a.wav", "b.mp3"])
        """
        scores: list[CallScore] = []
        for batch in _batched(paths, BATCH_CALLS):
            scores += self._score([self._process(path) for path in batch])
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
        return self._score([self._process(np.asarray(waveform), turns, agent_channel, sample_rate)])[0]

    def _process(
        self,
        recording: RecordingLike,
        turns: Sequence[TurnLike] | None = None,
        agent_channel: int | None = None,
        sample_rate: int | None = None,
    ) -> PreparedCall | CallError:
        """Return the network's inputs, or what is wrong with the call."""
        try:
            return self.processor.process(
                recording,
                turns,
                agent_channel,
                sample_rate=sample_rate,
                limits=self._limits.audio,
                transcript_limits=self._limits.transcript,
            )
        except CallError as error:
            return error

    def _score(self, calls: Sequence[PreparedCall | CallError]) -> list[CallScore]:
        ready = [call for call in calls if isinstance(call, PreparedCall)]
        outcomes = iter(self._scorer.score_calls([_as_rounds(call) for call in ready]))
        return [
            _failed(call) if isinstance(call, CallError) else self._as_score(call, next(outcomes)) for call in calls
        ]

    def _as_score(self, call: PreparedCall, outcome: ScoredCall | CallError) -> CallScore:
        if isinstance(outcome, CallError):
            return _failed(outcome)
        judged = None if call.timeline is None else judge_conversation(call.timeline, self._conversation)
        return CallScore(
            intent=outcome.intent,
            lead_score=outcome.lead_score,
            probabilities={
                task: dict(zip(classes, outcome.probabilities[task].tolist(), strict=True))
                for task, classes in TASKS.items()
            },
            prediction_set=tuple(outcome.prediction_set),
            evidence=tuple(
                RoundEvidence(
                    start_sec=call.rounds[each.first_round].start_sec,
                    end_sec=call.rounds[each.last_round].end_sec,
                    change=each.change,
                    side=each.side,
                )
                for each in outcome.evidence or ()
            ),
            facts=call.facts,
            unranked_reason=judged or outcome.refusal(self._scorer.config.max_refusal_probability),
            rounds=tuple((round_.start_sec, round_.end_sec) for round_ in call.rounds),
            duration_sec=call.duration_sec,
        )


def _batched(paths: Iterable[str | os.PathLike[str]], size: int) -> Iterator[list[str | os.PathLike[str]]]:
    """Yield the paths in lists of `size`."""
    remaining = iter(paths)
    while batch := list(islice(remaining, size)):
        yield batch


def _as_rounds(call: PreparedCall) -> CallRounds:
    return CallRounds(call.split_samples(), [np.asarray(ids, np.int32) for ids in call.input_ids])


def _failed(error: CallError) -> CallScore:
    return CallScore(probabilities={}, error_code=str(error.code), error_detail=error.detail)
