"""The transcription graph on a real Ray cluster, with a recogniser that hangs and one that kills its process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

from msmtfn.daily.publish import read_leads
from msmtfn.daily.success import Success
from msmtfn.errors import UsageError
from msmtfn.speech.diarisation import DiarisationConfig
from msmtfn.speech.hearing import HearingConfig
from msmtfn.speech.models import RecogniserConfig
from msmtfn.speech.recogniser import Recogniser, Segment, Waveform
from msmtfn.speech.voice import VoiceConfig
from msmtfn.transcription.day import transcribe_day
from msmtfn.transcription.graph import TranscriptionConfig
from msmtfn.transcription.listening import ListenConfig
from msmtfn.transcription.pipeline import SpreadConfig
from msmtfn.transcription.recognising import BatchRecogniser
from tests.integration.job import DATE, write_manifest
from tests.speech.listening import ToneRecogniser, call_of
from tests.speech.tiny import write_tiny_ctc

NUM_CALLS = 4
HEARING = HearingConfig(
    voice=VoiceConfig(detector="energy"),
    diarisation=DiarisationConfig(num_speakers=1),
    characters="as-heard",
    clip_padding_sec=0.0,
)
LONG_SAMPLES = 48_000
"""Length from which on a clip is the one that makes a recogniser misbehave."""


class HangingRecogniser(ToneRecogniser):
    """Recogniser that never returns where a clip is long, and holds the interpreter's lock meanwhile."""

    def recognise(self, clips: Sequence[Waveform], languages: Sequence[str | None]) -> list[list[Segment]]:
        if max(map(len, clips)) > LONG_SAMPLES:
            ctypes.PyDLL(None).sleep(600)
        return super().recognise(clips, languages)


class DyingRecogniser(ToneRecogniser):
    """Recogniser that ends its process where a clip is long."""

    def recognise(self, clips: Sequence[Waveform], languages: Sequence[str | None]) -> list[list[Segment]]:
        if max(map(len, clips)) > LONG_SAMPLES:
            os._exit(1)
        return super().recognise(clips, languages)


def make_hearing(_loaded: Recogniser, **options: Any) -> BatchRecogniser:
    return BatchRecogniser(ToneRecogniser(), **options)


def make_hanging(_loaded: Recogniser, **options: Any) -> BatchRecogniser:
    return BatchRecogniser(HangingRecogniser(), **options)


def make_dying(_loaded: Recogniser, **options: Any) -> BatchRecogniser:
    return BatchRecogniser(DyingRecogniser(), **options)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_ctc(tmp_path_factory.mktemp("asr") / "tiny")


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """A day of calls; the second has a stretch of speech that is long."""
    root = tmp_path / "manifests"
    root.mkdir()
    for number in range(NUM_CALLS):
        seconds = 4.0 if number == 1 else 1.0
        sf.write(root / f"c{number}.wav", call_of(8 + number, (0, 1.0, seconds, 200), (1, 6.0, 1.0, 400)).T, 16_000)
    rows = [{"call_id": f"c{number}", "uri": f"c{number}.wav", "agent_channel": 0} for number in range(NUM_CALLS)]
    return write_manifest(root, rows)


def transcribe(manifests: Path, model: Path, *, timeout_sec: float = 600.0, **options: Any) -> Success:
    config = TranscriptionConfig(
        listen=ListenConfig(hearing=HEARING),
        recogniser=RecogniserConfig(recogniser_device="cpu"),
        spread=SpreadConfig(asr_timeout_sec=timeout_sec, max_retries=1, progress_sec=0.1, num_recognisers=1),
    )
    transcripts = manifests.parent / "transcripts"
    return transcribe_day(
        DATE, manifests=manifests, transcripts=transcripts, recogniser=model, config=config, **options
    )


def rows_of(manifests: Path) -> dict[str, dict[str, Any]]:
    table = read_leads(str(manifests.parent / "transcripts"), DATE).to_table()
    rows: list[dict[str, Any]] = table.to_pylist()
    assert [row["call_id"] for row in rows] == [f"c{number}" for number in range(NUM_CALLS)]
    return {row["call_id"]: row for row in rows}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_a_day_is_transcribed_once_and_no_recording_twice(
    manifests: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msmtfn.transcription.graph.make_batch_recogniser", make_hearing)
    success = transcribe(manifests, model)
    assert (success.calls, success.scored, success.rejected) == (NUM_CALLS, NUM_CALLS, 0)
    assert set(success.stage_seconds or ()) == {"listen", "recognise"}
    rows = rows_of(manifests)
    assert [turn["speaker"] for turn in rows["c0"]["turns"]] == ["agent", "customer"]
    assert all(row["run_id"] == success.run_id for row in rows.values())
    assert transcribe(manifests, model) == success
    # Whatever is recognised now would hang, so nothing is: the cache has heard every recording.
    monkeypatch.setattr("msmtfn.transcription.graph.make_batch_recogniser", make_dying)
    again = transcribe(manifests, model, force=True)
    assert (again.scored, again.publication != success.publication) == (NUM_CALLS, True)
    assert rows_of(manifests)["c1"]["turns"] == rows["c1"]["turns"]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_only_a_call_on_which_the_recogniser_never_returns_is_rejected(
    manifests: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msmtfn.transcription.graph.make_batch_recogniser", make_hanging)
    success = transcribe(manifests, model, timeout_sec=5.0)
    assert success.rejected_by_reason == {"asr_timeout": 1}
    rows = rows_of(manifests)
    assert (rows["c1"]["error_code"], rows["c0"]["status"]) == ("asr_timeout", "transcribed")
    monkeypatch.setattr("msmtfn.transcription.graph.make_batch_recogniser", make_hearing)
    retried = transcribe(manifests, model, timeout_sec=5.0, retry_rejected=True)
    assert (retried.retried, retried.scored) == (1, NUM_CALLS)
    assert rows_of(manifests)["c1"]["status"] == "transcribed"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("ray_address")
def test_only_a_call_that_kills_the_recogniser_is_rejected(
    manifests: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("msmtfn.transcription.graph.make_batch_recogniser", make_dying)
    assert transcribe(manifests, model).rejected_by_reason == {"worker_crashed": 1}
    crashed = rows_of(manifests)["c1"]
    assert (crashed["turns"], crashed["uri"]) == (None, "c1.wav")
    assert crashed["transcribed_at"] is not None


def test_transcripts_that_overlap_the_manifests_are_refused(manifests: Path, model: Path) -> None:
    with pytest.raises(UsageError, match=r"--transcripts .* overlaps --manifests"):
        transcribe_day(DATE, manifests=manifests, transcripts=manifests / "transcripts", recogniser=model)


def test_a_number_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="asr_timeout_sec is 0"):
        SpreadConfig(asr_timeout_sec=0)
