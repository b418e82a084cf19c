from __future__ import annotations

import numpy as np
import pytest

from msmtfn.speech.invented import Invention, InventionConfig, count_repeats, find_invention
from msmtfn.speech.recogniser import Segment, Word

SPEECH = np.array([[0.0, 10.0]])
CONFIG = InventionConfig()


def said(text: str, *, start_sec: float = 0.0, **figures: float) -> Segment:
    words = tuple(
        Word(f" {word}", start_sec + place / 10, start_sec + (place + 1) / 10)
        for place, word in enumerate(text.split())
    )
    return Segment(words, **figures)


def test_ordinary_text_is_kept() -> None:
    text = "thank you for calling platinum motors how can I help you today"
    assert find_invention(said(text, confidence=0.8, no_speech_prob=0.9), SPEECH, CONFIG) is None
    assert find_invention(said("yes yes yes yes yes yes yes yes"), SPEECH, CONFIG) is None


def test_unsure_text_where_nobody_speaks_is_invented() -> None:
    segment = said("thanks for watching", confidence=0.3, no_speech_prob=0.7)
    assert find_invention(segment, SPEECH, CONFIG) == Invention.NO_SPEECH


def test_text_that_compresses_too_well_is_invented() -> None:
    assert find_invention(said("please subscribe to my channel " * 4), SPEECH, CONFIG) == Invention.COMPRESSION


def test_a_phrase_that_is_repeated_again_and_again_is_invented() -> None:
    config = InventionConfig(max_compression_ratio=100.0)
    assert find_invention(said("so we go now " * 6), SPEECH, config) == Invention.REPETITION
    assert find_invention(said("so we go now " * 5), SPEECH, config) is None


def test_text_where_no_speech_was_detected_is_invented() -> None:
    segment = said("thank you", start_sec=20.0, confidence=0.9)
    assert find_invention(segment, SPEECH, CONFIG) == Invention.SILENCE
    assert find_invention(segment, np.empty((0, 2)), CONFIG) == Invention.SILENCE


def test_characters_without_spaces_are_counted_one_by_one() -> None:
    words = tuple(Word(char, place, place + 1) for place, char in enumerate("请点赞订阅" * 6))
    config = InventionConfig(max_compression_ratio=100.0)
    assert find_invention(Segment(words), np.array([[0.0, 60.0]]), config) == Invention.REPETITION


@pytest.mark.parametrize(
    ("text", "repeats"), [("", 0), ("a b c", 1), ("a b c a b c a b c", 3), ("no no no no", 2), ("a b a b a b a b", 2)]
)
def test_repeats_are_counted(text: str, repeats: int) -> None:
    assert count_repeats(text.split()) == repeats


def test_a_limit_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="max_no_speech_prob is 2"):
        InventionConfig(max_no_speech_prob=2)
