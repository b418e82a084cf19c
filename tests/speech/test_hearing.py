from __future__ import annotations

import numpy as np
import pytest

from msmtfn.speech.diarisation import DiarisationConfig
from msmtfn.speech.hearing import HearingConfig, find_language, listen, recognise_clips, understand
from msmtfn.speech.recogniser import Segment, Word
from msmtfn.speech.transcript import HeardCall
from msmtfn.speech.voice import VoiceConfig
from tests.speech.listening import ToneRecogniser, call_of

CONFIG = HearingConfig(
    voice=VoiceConfig(detector="energy"),
    diarisation=DiarisationConfig(num_speakers=1),
    characters="as-heard",
    clip_padding_sec=0.0,
)


def hear(channels: np.ndarray, config: HearingConfig = CONFIG) -> HeardCall:
    recogniser = ToneRecogniser()
    call = listen(channels, channels.shape[1] / 16_000, config)
    language = find_language(call, recogniser, None, config)
    recognised = recognise_clips(call.waveforms, [language] * len(call.clips), recogniser, 240.0)
    return understand(call, recognised, language, config)


def test_each_channel_is_a_speaker_and_the_times_are_those_of_the_call() -> None:
    heard = hear(call_of(20, (0, 2.0, 1.0, 200), (1, 5.0, 1.0, 400), (0, 12.0, 1.5, 200)))
    assert [(turn.speaker, turn.text) for turn in heard.turns] == [
        (0, "hello hello"),
        (1, "goodbye goodbye"),
        (0, "hello hello hello"),
    ]
    assert [turn.start_sec for turn in heard.turns] == pytest.approx([2.0, 5.0, 12.0], abs=0.1)
    assert [turn.end_sec for turn in heard.turns] == pytest.approx([3.0, 6.0, 13.5], abs=0.1)
    assert (heard.by_channel, heard.language, heard.reason) == (True, "en", None)
    assert heard.speech_sec == pytest.approx(3.5, abs=0.2)


def test_speech_of_both_at_once_is_counted_once() -> None:
    heard = hear(call_of(10, (0, 2.0, 2.0, 200), (1, 3.0, 2.0, 400)))
    assert heard.speech_sec == pytest.approx(3.0, abs=0.2)


def test_two_voices_in_a_live_channel_beside_a_dead_one_are_told_apart_by_voice() -> None:
    channels = call_of(10, (0, 2.0, 2.0, 200))
    channels[1] = 0
    heard = hear(channels)
    assert not heard.by_channel
    assert {turn.speaker for turn in heard.turns} == {0}


def test_silence_has_no_turn_and_says_why() -> None:
    heard = hear(call_of(10))
    assert (heard.turns, heard.reason, heard.speech_sec, heard.language) == ((), "no_speech", 0.0, None)


def test_speech_without_words_says_so() -> None:
    call = listen(call_of(10, (0, 2.0, 1.0, 200)), 10.0, CONFIG)
    assert understand(call, [[]], "en", CONFIG).reason == "nothing_recognised"


def test_text_that_is_all_invented_is_none_and_says_so() -> None:
    call = listen(call_of(10, (0, 2.0, 1.0, 200)), 10.0, CONFIG)
    invented = Segment((Word(" Thanks for watching", 0.0, 0.9, 0.2),), confidence=0.2, no_speech_prob=0.9)
    heard = understand(call, [[invented]], "en", CONFIG)
    assert (heard.turns, heard.reason, heard.num_invented) == ((), "invented", 1)


def test_clips_of_several_calls_share_a_batch_and_keep_their_order() -> None:
    recogniser = ToneRecogniser()
    clips = [call_of(sec, (0, 0.0, sec, hertz), num_channels=1)[0] for sec, hertz in ((2, 200), (1, 400), (2.5, 400))]
    seen: list[list[int]] = []
    found = recognise_clips(clips, ["en"] * 3, recogniser, 4.0, lambda numbers: seen.append(list(numbers)))
    assert [segments[0].words[0].text for segments in found] == [" hello", " goodbye", " goodbye"]
    assert recogniser.batches == [[1.0, 2.0], [2.5]]
    assert seen == [[1, 0], [2]]


@pytest.mark.parametrize(
    ("given", "language"), [("zh-CN", "zh"), ("cmn", "zh"), ("Mandarin", "zh"), ("en_US", "en"), (None, "en")]
)
def test_the_language_is_the_manifests_or_else_found(given: str | None, language: str) -> None:
    call = listen(call_of(10, (0, 2.0, 1.0, 200)), 10.0, CONFIG)
    assert find_language(call, ToneRecogniser(), given, CONFIG) == language


def test_mandarin_is_written_in_simplified_characters() -> None:
    pytest.importorskip("opencc", reason="needs the extra asr")
    config = HearingConfig(voice=VoiceConfig(detector="energy"))
    call = listen(call_of(10, (0, 2.0, 1.0, 200)), 10.0, config)
    words = Segment((Word("請問", 0.1, 0.3, 0.9), Word("價錢", 0.3, 0.5, 0.9)))
    assert understand(call, [[words]], "zh", config).turns[0].text == "请问价钱"
    assert understand(call, [[words]], "ja", config).turns[0].text == "請問價錢"


def test_a_clip_longer_than_a_recognisers_window_is_refused() -> None:
    with pytest.raises(ValueError, match="max_clip_sec is 60"):
        HearingConfig(max_clip_sec=60)
