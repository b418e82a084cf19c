from __future__ import annotations

import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from msmtfn.corpora.speech import SpeechError, Synthesizer, trim_silence
from msmtfn.errors import UsageError

SENTENCE = "您好，请问您需要做牙齿矫正吗？"  # 13 syllables

pytest.importorskip("espeakng_loader")


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer()


def mean_spectrum(waveform: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the share of the energy in each of 20 frequency bands."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    bands = np.array([band.sum() for band in np.array_split(power, 20)], dtype=np.float64)
    return bands / np.float64(bands.sum())


def test_a_sentence_is_audible_and_as_long_as_its_syllables_need(synthesizer: Synthesizer) -> None:
    waveform = synthesizer.speak(SENTENCE)

    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert 0.1 < np.abs(waveform).max() <= 1.0
    assert np.sqrt(np.mean(waveform**2)) > 0.02
    syllables_per_sec = 13 / (len(waveform) / Synthesizer.sample_rate)
    assert 2.0 < syllables_per_sec < 8.0


def test_a_faster_rate_gives_shorter_speech(synthesizer: Synthesizer) -> None:
    durations = [len(synthesizer.speak(SENTENCE, rate_wpm=rate)) for rate in (120, 175, 260)]

    assert durations == sorted(durations, reverse=True)
    assert durations[2] < 0.6 * durations[0]


def test_a_longer_sentence_gives_longer_speech(synthesizer: Synthesizer) -> None:
    assert len(synthesizer.speak(SENTENCE * 2)) > 1.8 * len(synthesizer.speak(SENTENCE))


def test_two_voices_differ(synthesizer: Synthesizer) -> None:
    plain, woman, man = (
        mean_spectrum(synthesizer.speak(SENTENCE, voice=voice)) for voice in ("cmn", "cmn+f3", "cmn+m2")
    )

    assert np.abs(plain - woman).sum() > 0.05
    assert np.abs(plain - man).sum() > 0.05
    assert np.abs(woman - man).sum() > 0.05


def test_half_the_volume_is_quieter(synthesizer: Synthesizer) -> None:
    loud, quiet = (np.abs(synthesizer.speak(SENTENCE, volume=volume)).mean() for volume in (100, 50))

    assert quiet < 0.7 * loud


def test_a_pitch_range_of_zero_gives_a_monotone(synthesizer: Synthesizer) -> None:
    lags = {}
    for pitch_range in (0, 99):
        waveform = synthesizer.speak(SENTENCE, voice="cmn+f3", pitch_range=pitch_range)
        frames = [waveform[start : start + 882] for start in range(0, len(waveform) - 882, 441)]
        voiced = [frame for frame in frames if np.sqrt(np.mean(frame**2)) > 0.05]
        powers = [np.abs(np.fft.rfft(frame, 4096)) ** 2 for frame in voiced]
        lags[pitch_range] = [55 + int(np.fft.irfft(power)[55:360].argmax()) for power in powers]
    spread = {name: np.subtract(*np.percentile(lag, [80, 20])) / np.median(lag) for name, lag in lags.items()}
    assert spread[0] < 0.05
    assert spread[99] > 0.2


@pytest.mark.parametrize("voice", ["cmn", "cmn+f3", "cmn+whisper"])
def test_the_same_arguments_give_the_same_samples_whatever_was_spoken_before(
    synthesizer: Synthesizer, voice: str
) -> None:
    first = synthesizer.speak(SENTENCE, voice=voice)
    for other_voice, rate_wpm in (("cmn+m2", 250), ("cmn+croak", 120), ("en", 300)):
        synthesizer.speak("不要。", voice=other_voice, rate_wpm=rate_wpm, pitch=80, volume=30)
        np.testing.assert_array_equal(synthesizer.speak(SENTENCE, voice=voice), first)


def test_another_synthesizer_gives_the_same_samples(synthesizer: Synthesizer) -> None:
    np.testing.assert_array_equal(Synthesizer().speak(SENTENCE), synthesizer.speak(SENTENCE))


def test_concurrent_threads_do_not_mix_their_samples(synthesizer: Synthesizer) -> None:
    rates = (150, 180, 210, 240)
    expected = {rate: synthesizer.speak(SENTENCE, rate_wpm=rate) for rate in rates}
    spoken: dict[int, NDArray[np.float32]] = {}

    def speak(rate: int) -> None:
        spoken[rate] = Synthesizer().speak(SENTENCE, rate_wpm=rate)

    threads = [threading.Thread(target=speak, args=(rate,)) for rate in rates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(np.array_equal(spoken[rate], expected[rate]) for rate in rates)


def test_text_without_words_gives_a_short_silence(synthesizer: Synthesizer) -> None:
    waveform = synthesizer.speak("")

    assert len(waveform) < 0.1 * Synthesizer.sample_rate
    assert not waveform.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rate_wpm": 79}, "rate_wpm is 79"),
        ({"rate_wpm": 451}, "rate_wpm is 451"),
        ({"pitch": 100}, "pitch is 100"),
        ({"pitch_range": 100}, "pitch_range is 100"),
        ({"volume": 101}, "volume is 101"),
        ({"voice": "nowhere"}, "no such voice"),
        ({"voice": "cmn+nobody"}, "no variant 'nobody'"),
    ],
)
def test_the_error_names_the_argument_that_is_out_of_range(
    synthesizer: Synthesizer, arguments: dict[str, int | str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        synthesizer.speak(SENTENCE, **arguments)  # type: ignore[arg-type]


def test_a_failed_utterance_does_not_affect_the_next(synthesizer: Synthesizer) -> None:
    before = synthesizer.speak(SENTENCE)
    with pytest.raises(ValueError, match="no such voice"):
        synthesizer.speak(SENTENCE, voice="nowhere")

    np.testing.assert_array_equal(synthesizer.speak(SENTENCE), before)


def test_the_error_for_missing_voice_data_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("espeakng_loader.get_data_path", lambda: str(tmp_path / "gone"))

    with pytest.raises(SpeechError, match="gone"):
        Synthesizer().speak(SENTENCE)


def test_the_data_may_lie_in_a_folder_with_a_longer_path_than_espeak_takes(
    synthesizer: Synthesizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data = tmp_path / ("environment" * 20) / "espeak-ng-data"
    shutil.copytree(synthesizer._data_path, data)
    monkeypatch.setattr("espeakng_loader.get_data_path", lambda: str(data))
    np.testing.assert_array_equal(Synthesizer().speak("您好"), synthesizer.speak("您好"))


def test_the_error_for_a_library_that_cannot_be_loaded_names_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("espeakng_loader.get_library_path", lambda: str(tmp_path / "libgone.so"))

    with pytest.raises(SpeechError, match="libgone"):
        Synthesizer().speak(SENTENCE)


def test_the_error_without_espeakng_loader_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)

    with pytest.raises(UsageError, match=r"pip install -e '\.\[demo\]'"):
        Synthesizer()


def test_trimming_removes_silence_at_the_ends_only() -> None:
    waveform = np.array([0, 0.001, 0.5, 0, 0, -0.4, 0.001, 0], dtype=np.float32)

    np.testing.assert_array_equal(trim_silence(waveform), waveform[2:6])


def test_trimming_silence_leaves_nothing() -> None:
    assert len(trim_silence(np.zeros(10, dtype=np.float32))) == 0
