from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from msmtfn.speech.tokens import TimedToken, group_words, mean_probability

HALF = math.log(0.5)


def words_of(*texts: str) -> list[tuple[str, float, float]]:
    """Group tokens of these texts, each a second long."""
    tokens = [TimedToken(number, number, number + 1, HALF) for number in range(len(texts))]

    def decode(ids: Sequence[int]) -> str:
        return "".join(texts[number] for number in ids)

    return [(word.text, word.start_sec, word.end_sec) for word in group_words(tokens, decode)]


def test_tokens_are_joined_until_the_next_space() -> None:
    assert words_of(" plat", "inum", " mo", "tors", ".") == [(" platinum", 0, 2), (" motors.", 2, 5)]


def test_each_character_of_mandarin_is_a_word_and_marks_stay_with_it() -> None:
    assert words_of("你好", "吗", "？") == [("你好", 0, 1), ("吗？", 1, 3)]


def test_the_bytes_of_a_character_are_waited_for() -> None:
    parts = {(0,): "\ufffd", (0, 1): "您", (2,): "好"}
    tokens = [TimedToken(number, number, number + 1, HALF) for number in range(3)]
    words = group_words(tokens, lambda ids: parts[tuple(ids)])
    assert [(word.text, word.end_sec) for word in words] == [("您", 2), ("好", 3)]


def test_a_delimiter_becomes_the_space_before_the_next_word() -> None:
    tokens = [TimedToken(number, number, number + 1, HALF) for number in range(3)]
    texts = {(0,): "a", (1,): "", (1, 2): " b"}
    words = group_words(tokens, lambda ids: texts[tuple(ids)])
    assert [word.text for word in words] == ["a", " b"]


def test_no_token_is_no_word() -> None:
    assert words_of() == []
    assert mean_probability([]) is None
    assert mean_probability([TimedToken(0, 0, 1, HALF), TimedToken(1, 1, 2, math.log(0.125))]) == pytest.approx(0.25)
