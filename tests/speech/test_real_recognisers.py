"""Real recognisers on real recordings: Whisper base hears a service call in English, and a sentence in Mandarin.

The models are made by `python ../shared/real_models/make.py OUT`; the variable MSMTFN_REAL_MODELS names OUT.
Without it, or without the extra asr, the tests are skipped.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msmtfn.calls.audio import AudioConfig, Recording, decode_recording
from msmtfn.speech.hearing import HearingConfig, find_language, listen, recognise_clips, understand
from msmtfn.speech.models import RecogniserConfig, load_recogniser
from msmtfn.speech.recogniser import SAMPLE_RATE, Recogniser
from msmtfn.speech.roles import RoleConfig, assign_roles
from msmtfn.speech.transcript import Transcript
from msmtfn.speech.voice import Segments
from tests.speech.measures import diarisation_error, error_rate, share_of_words_of_right_speaker, words_of

logger = logging.getLogger(__name__)
pytestmark = [pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Recogniser:
    pytest.importorskip("faster_whisper", reason="needs the extra asr")
    converters = pytest.importorskip("ctranslate2.converters", reason="needs the extra asr")
    made = os.environ.get("MSMTFN_REAL_MODELS")
    if made is None or not (Path(made) / "whisper-base").is_dir():
        pytest.skip("there is no Whisper base; make it with shared/real_models/make.py and set MSMTFN_REAL_MODELS")
    folder = tmp_path_factory.mktemp("whisper") / "base"
    source = str(Path(made) / "whisper-base")
    converters.TransformersConverter(source, copy_files=["tokenizer.json"]).convert(str(folder), quantization="int8")
    return load_recogniser(folder, RecogniserConfig(), device="cpu", threads=os.cpu_count() or 1)


def decode(path: Path) -> Recording:
    return decode_recording(path.read_bytes(), sample_rate=SAMPLE_RATE, config=AudioConfig(), name=path.name)


def transcribe(
    channels: np.ndarray, recogniser: Recogniser, agent_channel: int | None = None
) -> tuple[Transcript, list[Segments], list[Segments] | None]:
    config = HearingConfig()
    call = listen(channels, channels.shape[1] / SAMPLE_RATE, config)
    language = find_language(call, recogniser, None, config)
    recognised = recognise_clips(call.waveforms, [language] * len(call.clips), recogniser, 240.0)
    heard = understand(call, recognised, language, config)
    return assign_roles(heard, agent_channel, RoleConfig()), call.speech, call.speakers


def text_of(turns: list[dict[str, Any]], *speakers: str) -> list[str]:
    chosen = sorted((turn for turn in turns if turn["speaker"] in speakers), key=lambda turn: float(turn["start_sec"]))
    return words_of(" ".join(turn["text"] for turn in chosen))


def test_the_real_call_is_heard_alike_in_two_channels_and_mixed_to_one(recordings: Path, whisper: Recogniser) -> None:
    truth = json.loads((recordings / "auto_repairs_40.turns.json").read_text())
    recording = decode(recordings / "auto_repairs_40.flac")
    both, speech, _ = transcribe(recording.channels, whisper, agent_channel=0)
    mixed, _, speakers = transcribe(recording.channels.mean(axis=0, keepdims=True), whisper)
    figures: dict[str, float] = {}
    for name, transcript in (("two channels", both), ("mixed", mixed)):
        rows = transcript.rows_of_turns()
        reference, heard = (text_of(turns, "agent", "customer") for turns in (truth, rows))
        figures[f"{name}: WER"] = error_rate(reference, heard)
        figures[f"{name}: CER"] = error_rate(list("".join(reference)), list("".join(heard)))
        figures[f"{name}: words of the right speaker"] = share_of_words_of_right_speaker(truth, rows)
    assert speakers is not None
    figures["mixed: DER"] = diarisation_error(speech, speakers, recording.duration_sec)
    figures["mixed: DER, collar 0.25 s"] = diarisation_error(speech, speakers, recording.duration_sec, 0.25)
    logger.info("%s", {name: round(100 * value, 1) for name, value in figures.items()})
    assert both.heard.language == mixed.heard.language == "en"
    assert set(mixed.speakers) == {"agent", "customer"}
    assert figures["mixed: DER, collar 0.25 s"] < 0.15
    assert figures["mixed: words of the right speaker"] > 0.9
    # The reference was itself written by a small recogniser, so it has errors of its own.
    assert figures["two channels: WER"] < 0.3
    assert figures["mixed: WER"] < 0.4


def test_mandarin_is_found_and_written_in_simplified_characters(recordings: Path, whisper: Recogniser) -> None:
    transcript, _, _ = transcribe(decode(recordings / "mandarin_short.wav").channels, whisper)
    assert transcript.heard.language == "zh"
    assert "今天天气怎么样" in "".join(turn.text for turn in transcript.heard.turns).replace(" ", "")


@pytest.mark.parametrize("sound", ["silence", "noise", "ringing", "melody"])
def test_what_is_no_speech_has_no_turn_and_a_reason(sound: str, whisper: Recogniser) -> None:
    times = np.arange(60 * SAMPLE_RATE) / SAMPLE_RATE
    notes = np.array([262, 294, 330, 349, 392, 440, 494])[np.random.default_rng(0).integers(0, 7, 240)]
    phase = 2 * np.pi * np.cumsum(np.repeat(notes, SAMPLE_RATE // 4)) / SAMPLE_RATE
    waveform = {
        "silence": np.zeros(len(times)),
        "noise": 0.05 * np.random.default_rng(0).standard_normal(len(times)),
        "ringing": 0.2 * np.sin(2 * np.pi * 450 * times) * (times % 5 < 1),
        "melody": 0.2 * np.sin(phase) * np.exp(-3 * (times % 0.25)),
    }[sound]
    transcript, _, _ = transcribe(waveform.astype(np.float32)[None], whisper)
    assert transcript.rows_of_turns() == []
    assert transcript.heard.reason in ("no_speech", "nothing_recognised", "invented")
