"""Both stages of transcription, called with batches and no cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf

from msmtfn.calls.columns import TURN
from msmtfn.speech.diarisation import DiarisationConfig
from msmtfn.speech.hearing import HearingConfig, listen
from msmtfn.speech.recogniser import Segment, Waveform
from msmtfn.speech.transcript import PARTS
from msmtfn.speech.voice import VoiceConfig
from msmtfn.transcription.cache import TranscriptCache
from msmtfn.transcription.listening import LISTENED, ListenConfig, Listener, read_layout, write_layout
from msmtfn.transcription.recognising import BatchRecogniser, Lineage, RecognisingConfig
from tests.speech.listening import ToneRecogniser, call_of

HEARING = HearingConfig(
    voice=VoiceConfig(detector="energy"),
    diarisation=DiarisationConfig(num_speakers=1),
    characters="as-heard",
    clip_padding_sec=0.0,
)
PASSED = ("row_id", "call_id", "uri")
ROWS = pa.schema(
    [
        ("row_id", pa.int64()),
        ("row_error", pa.string()),
        ("call_id", pa.string()),
        ("uri", pa.string()),
        ("agent_channel", pa.int64()),
        ("turns", pa.list_(TURN)),
        ("language", pa.string()),
    ]
)
HELLO = call_of(10, (0, 1.0, 1.0, 200), (1, 4.0, 1.0, 400))
GOODBYE = call_of(10, (1, 1.0, 1.0, 400), (0, 4.0, 1.0, 200))
Row = dict[str, Any]


SAID = "the text was hello"
"""Message of an engine, which quotes what was said; the source of the line that raises it is in the log."""


class FailingRecogniser(ToneRecogniser):
    """Recogniser that fails on batches with a clip longer than a limit."""

    def recognise(self, clips: Sequence[Waveform], languages: Sequence[str | None]) -> list[list[Segment]]:
        if max(map(len, clips)) > 48_000:
            raise RuntimeError(SAID)
        return super().recognise(clips, languages)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, channels in (("hello", HELLO), ("goodbye", GOODBYE)):
        sf.write(tmp_path / f"{name}.wav", channels.T, 16_000)
    return tmp_path


def batch_of(*rows: Row) -> pa.Table:
    numbered = [{"row_id": number, "call_id": f"c{number}", **row} for number, row in enumerate(rows)]
    return pa.Table.from_pylist(numbered, ROWS)


def transcribe(root: Path, *rows: Row, recogniser: ToneRecogniser | None = None, **options: Any) -> list[Row]:
    cache = TranscriptCache.below(str(root / "transcripts"), "tones")
    listener = Listener(ListenConfig(hearing=HEARING, **options), str(root), cache)
    listened = listener.prepare_batch(batch_of(*rows), PASSED)
    assert listened.schema.names == [*PASSED, *LISTENED.names]
    stage = BatchRecogniser(
        recogniser or ToneRecogniser(), HEARING, RecognisingConfig(), cache, Lineage("tones", "v1", "run-1")
    )
    done = stage.recognise_batch(listened, PARTS)
    assert done.schema == PARTS
    transcripts: list[Row] = done.to_pylist()
    return transcripts


def texts(row: Row) -> list[tuple[str, str]]:
    return [(turn["speaker"], turn["text"]) for turn in row["turns"]]


def test_calls_become_transcripts_with_their_lineage(root: Path) -> None:
    first, second = transcribe(root, {"uri": "hello.wav", "agent_channel": 0}, {"uri": "goodbye.wav"})
    assert texts(first) == [("agent", "hello hello"), ("customer", "goodbye goodbye")]
    assert texts(second) == [("speaker_1", "goodbye goodbye"), ("speaker_2", "hello hello")]
    assert (first["status"], first["agent_confidence"], second["agent_confidence"]) == ("transcribed", 1.0, None)
    assert (first["recogniser"], first["model_version"], first["run_id"]) == ("tones", "v1", "run-1")
    assert (first["duration_sec"], first["language"], first["uri"]) == (10.0, "en", "hello.wav")


def test_clips_of_all_calls_are_recognised_in_one_batch(root: Path) -> None:
    recogniser = ToneRecogniser()
    transcribe(root, {"uri": "hello.wav"}, {"uri": "goodbye.wav"}, recogniser=recogniser)
    assert [len(batch) for batch in recogniser.batches] == [2]  # the channels of a short call share a clip


def test_a_recording_is_recognised_once_whatever_it_is_called(root: Path) -> None:
    transcribe(root, {"uri": "hello.wav", "agent_channel": 0})
    (root / "hello.wav").rename(root / "renamed.wav")
    recogniser = ToneRecogniser()
    (row,) = transcribe(root, {"uri": "renamed.wav", "agent_channel": 1}, recogniser=recogniser)
    assert recogniser.batches == []
    assert texts(row) == [("customer", "hello hello"), ("agent", "goodbye goodbye")]  # roles are not in the cache


def test_a_broken_row_or_recording_costs_that_call_only(root: Path) -> None:
    (root / "broken.wav").write_bytes(b"RIFFxxxxWAVE")
    rows = transcribe(
        root,
        {"uri": "missing.wav"},
        {"uri": "broken.wav"},
        {"uri": "hello.wav", "row_error": "call_id is empty"},
        {"uri": "/etc/hostname"},
        {"uri": "hello.wav"},
    )
    assert [row["error_code"] for row in rows] == [
        *("audio_not_found", "audio_unreadable", "bad_row", "file_outside_allowed_prefixes", None)
    ]
    assert [row["status"] for row in rows] == ["rejected"] * 4 + ["transcribed"]
    assert [row["turns"] is None for row in rows] == [True] * 4 + [False]


def test_a_call_with_turns_of_its_own_is_left_alone_unless_asked_for(root: Path) -> None:
    own = [{"speaker": "agent", "start_sec": 0.0, "end_sec": 1.0, "text": "Hi."}]
    (left,) = transcribe(root, {"uri": "hello.wav", "turns": own})
    assert (left["status"], left["reason"], left["turns"]) == ("transcribed", "has_turns", None)
    (heard,) = transcribe(root, {"uri": "hello.wav", "turns": own}, calls_with_turns=True)
    assert (heard["reason"], len(heard["turns"])) == (None, 2)


def test_a_recogniser_that_fails_on_one_call_costs_that_call_only(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    sf.write(root / "long.wav", call_of(10, (0, 1.0, 5.0, 200)).T, 16_000)
    rows = transcribe(root, {"uri": "hello.wav"}, {"uri": "long.wav"}, recogniser=FailingRecogniser())
    assert [row["error_code"] for row in rows] == [None, "asr_failed"]
    assert "hello" not in caplog.text  # an engine's message may quote what was said


def test_silence_is_transcribed_with_its_reason(root: Path) -> None:
    sf.write(root / "silence.wav", np.zeros(16_000), 16_000)
    (row,) = transcribe(root, {"uri": "silence.wav"})
    assert (row["status"], row["reason"], row["turns"], row["speech_sec"]) == ("transcribed", "no_speech", [], 0.0)


def test_the_calls_are_named_before_their_clips_are_recognised(root: Path) -> None:
    cache = TranscriptCache.below(str(root / "transcripts"), "tones")
    listener = Listener(ListenConfig(hearing=HEARING), str(root), cache)
    listened = listener.prepare_batch(batch_of({"uri": "hello.wav"}, {"uri": "goodbye.wav"}), PASSED)
    stage = BatchRecogniser(ToneRecogniser(), HEARING, RecognisingConfig(), cache, Lineage("tones", "v1", "run-1"))
    named: list[list[int]] = []
    stage.recognise_batch(listened, PARTS, lambda row_ids: named.append(list(row_ids)))
    assert named == [[0], [1], [0, 1]]  # the language of each, then the clips of both


def test_a_call_that_was_listened_to_is_read_as_it_was_written() -> None:
    call = listen(HELLO, 10.0, HEARING)
    samples = np.rint(np.concatenate(call.waveforms) * 32767).astype(np.int16)
    read = read_layout(write_layout(call), samples)
    assert (read.clips, read.speakers, read.duration_sec) == (call.clips, None, 10.0)
    assert [segments.tolist() for segments in read.speech] == [segments.tolist() for segments in call.speech]
    for one, other in zip(read.waveforms, call.waveforms, strict=True):
        np.testing.assert_allclose(one, other, atol=1 / 32767)
