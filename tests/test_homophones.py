from __future__ import annotations

import sys
import time

import numpy as np
import pytest
from pypinyin.constants import PINYIN_DICT

from msmtfn.errors import UsageError
from msmtfn.homophones import load_homophones, substitute_homophones

SENTENCE = "您好，请问您需要做牙齿矫正吗？"
WITH_AND_WITHOUT_TONES = pytest.mark.parametrize("tones_respected", [True, False])


def first_reading(character: str) -> str:
    return PINYIN_DICT[ord(character)].split(",")[0]


@WITH_AND_WITHOUT_TONES
def test_at_least_8000_characters_have_a_homophone(tones_respected: bool) -> None:
    assert len(load_homophones(tones_respected=tones_respected)) >= 8_000


def test_a_homophone_has_the_same_first_reading_and_is_another_character() -> None:
    for character, others in load_homophones().items():
        assert others
        assert all(first_reading(other) == first_reading(character) for other in others)
        assert character not in others


def test_tones_matter_only_if_they_are_respected() -> None:
    assert {"码" in load_homophones()[character] for character in "马蚂"} == {True}
    assert "骂" not in load_homophones()["马"]
    assert "骂" in load_homophones(tones_respected=False)["马"]


@WITH_AND_WITHOUT_TONES
def test_u_and_u_with_diaeresis_are_different_sounds(tones_respected: bool) -> None:
    assert not set("律率绿虑") & set(load_homophones(tones_respected=tones_respected)["路"])


def test_a_replacement_is_a_character_of_gb_2312_level_1() -> None:
    rows = {other.encode("gb2312")[0] for others in load_homophones().values() for other in others}
    assert min(rows) == 0xB0
    assert max(rows) == 0xD7


@WITH_AND_WITHOUT_TONES
def test_a_character_without_homophones_is_never_replaced(tones_respected: bool) -> None:
    homophones = load_homophones(tones_respected=tones_respected)
    alone = "".join({chr(code) for code in range(0x4E00, 0xA000)} - homophones.keys()) + "aZ7，。？ \n"
    assert substitute_homophones(alone, 1.0, np.random.default_rng(0), tones_respected=tones_respected) == alone


def test_with_probability_1_every_character_with_homophones_is_replaced() -> None:
    homophones = load_homophones()
    replaced = substitute_homophones(SENTENCE, 1.0, np.random.default_rng(0))
    assert len(replaced) == len(SENTENCE)
    for before, after in zip(SENTENCE, replaced, strict=True):
        assert after in homophones.get(before, before)


def test_with_probability_0_nothing_changes() -> None:
    assert substitute_homophones(SENTENCE, 0.0, np.random.default_rng(0)) == SENTENCE


def test_the_probability_applies_to_single_characters() -> None:
    text = "牙齿矫正" * 5_000
    replaced = substitute_homophones(text, 0.1, np.random.default_rng(0))
    assert np.mean([a != b for a, b in zip(text, replaced, strict=True)]) == pytest.approx(0.1, abs=0.01)


def test_all_homophones_of_a_character_are_used() -> None:
    replaced = substitute_homophones("正" * 2_000, 1.0, np.random.default_rng(0))
    assert set(replaced) == set(load_homophones()["正"])


def test_the_same_seed_gives_the_same_text() -> None:
    first, second, other = (
        substitute_homophones(SENTENCE * 20, 0.3, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_a_round_of_a_call_takes_less_than_a_millisecond() -> None:
    load_homophones()
    started = time.perf_counter()
    for seed in range(200):
        substitute_homophones(SENTENCE * 5, 0.1, np.random.default_rng(seed))
    assert time.perf_counter() - started < 0.2


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="probability is"):
        substitute_homophones(SENTENCE, probability, np.random.default_rng(0))


def test_without_pypinyin_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypinyin.constants", None)
    load_homophones.cache_clear()
    with pytest.raises(UsageError, match=r"pip install -e '\.\[train\]'"):
        load_homophones()
