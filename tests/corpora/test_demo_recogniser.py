"""The recogniser that comes with the package, on simulated calls that it has not learned from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchmetrics.functional.text import char_error_rate

from msmtfn.calls.audio import AudioConfig, decode_recording
from msmtfn.corpora import demo_recogniser, replace_demo_recogniser
from msmtfn.corpora.demo import DEMO_HEARING
from msmtfn.corpora.recogniser_training import without_marks
from msmtfn.corpora.simulation.corpus import make_call
from msmtfn.corpora.simulation.plan import SimulationConfig, plan_corpus
from msmtfn.speech.hearing import Listened, listen, recognise_clips, understand
from msmtfn.speech.models import RecogniserConfig, load_recogniser
from msmtfn.speech.recogniser import SAMPLE_RATE, Recogniser
from msmtfn.speech.transcript import HeardCall

pytest.importorskip("espeakng_loader")

MAX_ERROR_RATE = 0.1
NUM_CALLS = 6


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return load_recogniser(demo_recogniser(), RecogniserConfig(), device="cpu", threads=1)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, Any], Listened]]:
    """Return the rows of some calls, with their true words, and what was heard of their sound."""
    folder = tmp_path_factory.mktemp("calls")
    found = []
    for plan in plan_corpus(SimulationConfig(calls=10, seed=77, brief=True))[:NUM_CALLS]:
        call = make_call(plan, folder)
        data = (folder / plan.split / call.manifest["uri"]).read_bytes()
        recording = decode_recording(data, sample_rate=SAMPLE_RATE, config=AudioConfig())
        found.append((call.manifest | call.latents, listen(recording.channels, recording.duration_sec, DEMO_HEARING)))
    return found


def hear(call: Listened, recogniser: Recogniser) -> HeardCall:
    heard = recognise_clips(call.waveforms, ["zh"] * len(call.waveforms), recogniser, 60.0)
    return understand(call, heard, "zh", DEMO_HEARING)


def texts_by_speaker(row: dict[str, Any]) -> dict[str, str]:
    return {
        speaker: without_marks("".join(each[f"{speaker}_text"] for each in row["rounds"]))
        for speaker in ("agent", "customer")
    }


def test_few_characters_of_calls_that_it_has_not_learned_from_are_wrong(
    recogniser: Recogniser, calls: list[tuple[dict[str, Any], Listened]]
) -> None:
    spoken, found = [], []
    for row, call in calls:
        heard, texts = hear(call, recogniser), texts_by_speaker(row)
        if row["agent_channel"] is None:
            continue  # the order of words across speakers is another question
        for speaker, text in texts.items():
            channel = row["agent_channel"] if speaker == "agent" else 1 - row["agent_channel"]
            spoken.append(text)
            found.append(without_marks("".join(turn.text for turn in heard.turns if turn.speaker == channel)))
    assert sum(map(len, spoken)) > 200
    assert char_error_rate(found, spoken) <= MAX_ERROR_RATE


def test_turns_are_in_order_and_within_the_call(
    recogniser: Recogniser, calls: list[tuple[dict[str, Any], Listened]]
) -> None:
    for _, call in calls:
        heard = hear(call, recogniser)
        starts = [turn.start_sec for turn in heard.turns]
        assert starts == sorted(starts)
        assert all(0 <= turn.start_sec < turn.end_sec <= heard.duration_sec for turn in heard.turns)


def test_clips_sound_the_same_alone_and_in_a_batch(
    recogniser: Recogniser, calls: list[tuple[dict[str, Any], Listened]]
) -> None:
    clips = [waveform for _, call in calls[:3] for waveform in call.waveforms]
    together = recogniser.recognise(clips, ["zh"] * len(clips))
    alone = [recogniser.recognise([clip], ["zh"])[0] for clip in clips]
    assert [[each.text for each in segments] for segments in together] == [
        [each.text for each in segments] for segments in alone
    ]


def test_silence_and_noise_have_no_words(recogniser: Recogniser) -> None:
    generator = np.random.default_rng(0)
    noise = 0.01 * generator.standard_normal((1, 10 * SAMPLE_RATE)).astype(np.float32)
    for channels in (np.zeros_like(noise), noise):
        assert hear(listen(channels, 10.0, DEMO_HEARING), recogniser).turns == ()


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in demo_recogniser().iterdir()) < 10_000_000


def test_the_name_demo_means_the_recogniser_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert replace_demo_recogniser("demo") == str(demo_recogniser())
    assert replace_demo_recogniser("models/demo") == "models/demo"
