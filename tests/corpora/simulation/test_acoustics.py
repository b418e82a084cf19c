"""Measure the acoustic cues in written recordings and compare them with the requested ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from msmtfn.corpora.simulation.acoustics import MANNERS, draw_cues, record_call
from msmtfn.corpora.simulation.corpus import make_call
from msmtfn.corpora.simulation.latents import SOUNDS, CallLatents
from msmtfn.corpora.simulation.plan import SimulationConfig, plan_corpus
from msmtfn.corpora.speech import Voice

pytest.importorskip("espeakng_loader")

FRAME = 80  # 10 ms
CHARS_PER_SEC_PER_WPM = 0.0209  # espeak-ng's Mandarin has 4.2 syllables per second at 200 words per minute


@dataclass(frozen=True)
class MeasuredRound:
    """The cues of one round; a pair is (requested, measured)."""

    sound: str
    delay_sec: tuple[float, float]
    loudness_db: tuple[float, float]
    rate: tuple[float, float]
    pitch_movement: float
    closing_sec: float


def frame_powers(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    powers: NDArray[np.float64] = (frames**2).mean(axis=1)
    return powers


def loud_span(samples: NDArray[np.float64], noise: float) -> tuple[int, int]:
    """Return the span of samples louder than the noise, by frames of 10 ms smoothed over three."""
    powers = np.convolve(frame_powers(samples), np.ones(3) / 3, mode="same")
    (loud,) = np.nonzero(powers > 3 * noise)
    return int(loud[0]) * FRAME, (int(loud[-1]) + 1) * FRAME


def pitch_spread(samples: NDArray[np.float64]) -> float:
    """Return the range between the 10th and the 90th percentile of the pitch, in semitones.

    The pitch of a frame is the lag at the peak of its autocorrelation, the inverse transform of its power spectrum.
    """
    pitches = []
    for start in range(0, len(samples) - 400, 160):
        frame = samples[start : start + 400]
        correlation = np.fft.irfft(np.abs(np.fft.rfft(frame - frame.mean(), 1024)) ** 2)[:134]
        lag = 20 + int(correlation[20:].argmax())
        if correlation[lag] > 0.6 * correlation[0]:
            pitches.append(12 * np.log2(8_000 / lag))
    return float(np.subtract(*np.percentile(pitches, [90, 10])))


def measure(folder: Path, seed: int) -> list[MeasuredRound]:
    """Make a call in which the sound is the evidence, and measure the rounds of its recording."""
    plan = plan_corpus(SimulationConfig(calls=10, seed=seed))[0]
    latents = CallLatents("dental", "C", "sound", "BC", "B", 2, (True, True, False, True, True))
    plan = replace(plan, latents=latents, agent_channel=0, call_id=f"call-{seed}", snr_db=20.0)
    call = make_call(plan, folder)
    samples = soundfile.read(folder / plan.split / call.manifest["uri"], always_2d=True)[0].T
    noise = frame_powers(samples[1, :2_000]).mean()
    agents, customers = call.manifest["turns"][::2], call.manifest["turns"][1::2]
    measured = []
    for agent, customer, requested in zip(agents, customers, call.latents["rounds"], strict=True):
        start, end = (round(time * 8_000) for time in (agent["start_sec"], customer["end_sec"]))
        cut = samples[:, start:end]
        agent_span, customer_span = (loud_span(channel, noise) for channel in cut)
        spoken = [channel[slice(*span)] for channel, span in zip(cut, (agent_span, customer_span), strict=True)]
        levels = [10 * np.log10((speech**2).mean() - noise) for speech in spoken]
        chars = sum(character not in "，。" for character in requested["customer_text"])
        speech_sec = (customer_span[1] - customer_span[0]) / 8_000
        measured.append(
            MeasuredRound(
                sound=requested["sound"],
                delay_sec=(requested["delay_sec"], (customer_span[0] - agent_span[1]) / 8_000),
                loudness_db=(requested["loudness_db"], levels[1] - levels[0]),
                rate=(requested["rate_wpm"] * CHARS_PER_SEC_PER_WPM, chars / speech_sec),
                pitch_movement=pitch_spread(spoken[1]),
                closing_sec=(end - start - customer_span[1]) / 8_000,
            )
        )
    return measured


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> list[MeasuredRound]:
    folder = tmp_path_factory.mktemp("cues")
    return list(itertools.chain.from_iterable(measure(folder, seed) for seed in range(5)))


def test_the_customer_answers_after_the_requested_delay(rounds: list[MeasuredRound]) -> None:
    assert all(measured == pytest.approx(asked, abs=0.15) for asked, measured in (r.delay_sec for r in rounds))


def test_the_customer_has_the_requested_level_relative_to_the_agent(rounds: list[MeasuredRound]) -> None:
    assert all(measured == pytest.approx(asked, abs=1.0) for asked, measured in (r.loudness_db for r in rounds))


def test_the_customer_speaks_at_the_requested_rate(rounds: list[MeasuredRound]) -> None:
    assert all(measured == pytest.approx(asked, rel=0.2) for asked, measured in (r.rate for r in rounds))


@pytest.mark.parametrize("cue", ["delay_sec", "loudness_db", "rate"])
def test_the_measured_ranges_of_the_three_sounds_do_not_overlap(rounds: list[MeasuredRound], cue: str) -> None:
    ranges = []
    for sound in SOUNDS:
        measured = [getattr(r, cue)[1] for r in rounds if r.sound == sound]
        ranges.append((min(measured), max(measured)))
    (_, first), (second, third), (fourth, _) = sorted(ranges)
    assert first < second
    assert third < fourth


def test_the_pitch_moves_most_in_warm_rounds_and_least_in_cold_rounds(rounds: list[MeasuredRound]) -> None:
    warm, plain, cold = (np.median([r.pitch_movement for r in rounds if r.sound == sound]) for sound in SOUNDS)
    assert warm > 1.3 * plain
    assert plain > 1.5 * cold


def test_the_silence_after_the_last_round_is_like_that_after_the_others(rounds: list[MeasuredRound]) -> None:
    closings_sec = np.array([r.closing_sec for r in rounds]).reshape(-1, 5)
    assert closings_sec.min() > 0.2
    assert closings_sec.max() < 0.75
    assert closings_sec[:, -1].mean() == pytest.approx(closings_sec[:, :-1].mean(), abs=0.15)


@pytest.mark.parametrize("sound", SOUNDS)
def test_cues_are_within_the_ranges_of_their_sound(sound: str) -> None:
    manner = MANNERS[sound]  # type: ignore[index]
    for seed in range(50):
        cues = draw_cues(sound, Voice(rate_wpm=200), np.random.default_rng(seed))  # type: ignore[arg-type]
        assert manner.delay_sec[0] <= cues.delay_sec <= manner.delay_sec[1]
        assert manner.loudness_db[0] <= cues.loudness_db <= manner.loudness_db[1]
        assert manner.pitch_range[0] <= cues.pitch_range <= manner.pitch_range[1]
        assert cues.rate_wpm == 200 * manner.rate


@pytest.mark.parametrize("agent_channel", [None, 0, 1])
def test_the_noise_has_its_level_after_a_downmix_to_one_channel(agent_channel: int | None) -> None:
    tracks = np.zeros((2, 40_000), dtype=np.float32)
    tracks[0] = 0.1 * np.sin(np.arange(40_000))
    recording = record_call(tracks, agent_channel, -40.0, np.random.default_rng(0))

    silent = record_call(np.zeros_like(tracks), agent_channel, -40.0, np.random.default_rng(0))
    speech_db = 10 * np.log10(np.mean((recording - silent).mean(axis=0) ** 2))
    noise_db = 10 * np.log10(np.mean(silent.mean(axis=0) ** 2))
    assert speech_db - noise_db == pytest.approx(10 * np.log10(0.1**2 / 2) + 40.0, abs=0.2)
