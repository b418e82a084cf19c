from __future__ import annotations

import numpy as np

from msmtfn.speech.recogniser import Word
from msmtfn.speech.turns import SpokenTurn, assign_words, join_turns

FIRST, SECOND = np.array([[0.0, 2.0], [5.0, 7.0]]), np.array([[2.0, 4.0]])


def word(text: str, start_sec: float, end_sec: float, confidence: float | None = None) -> Word:
    return Word(text, start_sec, end_sec, confidence)


def test_a_word_belongs_to_whoever_speaks_for_most_of_it() -> None:
    words = [word(" a", 1.0, 1.5), word(" b", 1.8, 2.5), word(" c", 5.5, 6.0)]
    assert assign_words(words, [FIRST, SECOND]) == [0, 1, 0]


def test_a_word_beside_all_speech_belongs_to_the_nearest() -> None:
    assert assign_words([word(" a", 4.1, 4.2), word(" b", 4.8, 4.9), word(" c", 9.0, 9.5)], [FIRST, SECOND]) == [
        1,
        0,
        0,
    ]


def test_the_only_speaker_has_all_words() -> None:
    assert assign_words([word(" a", 20, 21)], [FIRST]) == [0]


def test_a_turn_ends_at_a_pause_and_at_another_speaker() -> None:
    words = [word(" Hello", 0, 1, 0.5), word(" there.", 1.2, 2, 1.0), word(" Hi.", 2, 2.5), word(" So", 4, 4.2)]
    assert join_turns(words, [0, 0, 1, 1], 0.8) == [
        SpokenTurn(0, 0, 2, "Hello there.", 0.75),
        SpokenTurn(1, 2, 2.5, "Hi.", None),
        SpokenTurn(1, 4, 4.2, "So", None),
    ]


def test_no_words_are_no_turns() -> None:
    assert join_turns([], [], 0.8) == []
