from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypinyin.constants import PINYIN_DICT
from transformers import BertTokenizer

from msmtfn.errors import UsageError
from msmtfn.homophones import load_homophones
from msmtfn.inference.scorer import CallRounds
from msmtfn.model.small import character_vocabulary
from msmtfn.training.augmentation import AugmentationConfig, Augmenter, add_noise, change_speed, mask_stretch

RATE = 8_000
WINDOW = 256  # 32 ms
LONGEST = 40 * RATE
SENTENCES = ("您好，请问您需要做牙齿矫正吗？", "不需要，谢谢，再见。")
Samples = npt.NDArray[np.int16]


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    """A tokenizer with one token per character."""
    return BertTokenizer(vocab=character_vocabulary(), do_lower_case=True)


@pytest.fixture(scope="session")
def call(tokenizer: BertTokenizer) -> CallRounds:
    """A call of twenty rounds of one second with the same two sentences each; its arrays are read-only."""
    rng = np.random.default_rng(0)
    samples = [rng.integers(-3_000, 3_000, RATE, np.int16) for _ in range(20)]
    tokens = [np.array(tokenizer("".join(SENTENCES))["input_ids"], np.int32) for _ in range(20)]
    for array in (*samples, *tokens):
        array.flags.writeable = False
    return CallRounds(samples=samples, tokens=tokens)


def augmenter(tokenizer: BertTokenizer, *, seed: int = 0, longest: int = LONGEST, **options: Any) -> Augmenter:
    return Augmenter(AugmentationConfig(**options), tokenizer, RATE, longest, seed)


def equal(left: list[npt.NDArray[Any]], right: list[npt.NDArray[Any]]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(left, right, strict=True))


def sine(frequency_hz: float, duration_sec: float) -> Samples:
    times = np.arange(round(duration_sec * RATE)) / RATE
    return (10_000 * np.sin(2 * np.pi * frequency_hz * times)).astype(np.int16)


def loudest_frequency(samples: Samples) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax()) * RATE / len(samples)


def without_text(samples: list[Samples]) -> CallRounds:
    return CallRounds(samples=samples, tokens=[np.zeros(0, np.int32) for _ in samples])


def first_reading(character: str) -> str:
    return PINYIN_DICT[ord(character)].split(",")[0]


def without_tone(reading: str) -> str:
    return reading.translate(str.maketrans("āáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜ", "aaaaeeeeiiiioooouuuuüüüü"))


def test_the_dictionary_has_8000_characters_like_the_paper_s() -> None:
    assert len(load_homophones()) >= 8_000


def test_a_call_is_augmented_the_same_way_whatever_came_before(tokenizer: BertTokenizer, call: CallRounds) -> None:
    busy = augmenter(tokenizer)
    busy.augment("other", 3, call)
    left, right = busy.augment("call", 3, call), augmenter(tokenizer).augment("call", 3, call)
    assert equal(left.samples, right.samples)
    assert equal(left.tokens, right.tokens)


@pytest.mark.parametrize(("seed", "epoch", "call_id"), [(1, 3, "call"), (0, 4, "call"), (0, 3, "another")])
def test_another_seed_epoch_or_call_is_augmented_differently(
    tokenizer: BertTokenizer, call: CallRounds, seed: int, epoch: int, call_id: str
) -> None:
    left = augmenter(tokenizer).augment("call", 3, call)
    right = augmenter(tokenizer, seed=seed).augment(call_id, epoch, call)
    assert not equal(left.samples, right.samples)
    assert not equal(left.tokens, right.tokens)


@pytest.mark.parametrize(
    ("augment", "audio_stays", "text_stays"),
    [("none", True, True), ("audio", False, True), ("text", True, False), ("both", False, False)],
)
def test_only_the_chosen_modality_is_changed(
    tokenizer: BertTokenizer, call: CallRounds, augment: str, audio_stays: bool, text_stays: bool
) -> None:
    augmented = augmenter(tokenizer, augment=augment).augment("call", 0, call)
    assert equal(augmented.samples, call.samples) == audio_stays
    assert equal(augmented.tokens, call.tokens) == text_stays


def test_each_modality_is_augmented_alone_as_it_is_with_the_other(tokenizer: BertTokenizer, call: CallRounds) -> None:
    both = augmenter(tokenizer, augment="both").augment("call", 0, call)
    assert equal(augmenter(tokenizer, augment="audio").augment("call", 0, call).samples, both.samples)
    assert equal(augmenter(tokenizer, augment="text").augment("call", 0, call).tokens, both.tokens)


def test_the_given_call_is_not_changed(tokenizer: BertTokenizer, call: CallRounds) -> None:
    writeable = CallRounds([each.copy() for each in call.samples], [each.copy() for each in call.tokens])
    augmenter(tokenizer, homophone_probability=1.0).augment("call", 0, writeable)
    assert equal(writeable.samples, call.samples)
    assert equal(writeable.tokens, call.tokens)


def test_special_tokens_word_pieces_and_characters_without_homophones_never_change(tokenizer: BertTokenizer) -> None:
    vocabulary = tokenizer.get_vocab()
    alone = np.array([number for token, number in vocabulary.items() if token not in load_homophones()], np.int32)
    assert {vocabulary[token] for token in ("[CLS]", "[SEP]", "[UNK]", "##a", "7", "，", "给")} <= set(alone.tolist())
    silent = CallRounds(samples=[np.zeros(0, np.int16)], tokens=[alone])
    augmented = augmenter(tokenizer, homophone_probability=1.0).augment("call", 0, silent)
    np.testing.assert_array_equal(augmented.tokens[0], alone)


@pytest.mark.parametrize("tones_respected", [True, False])
def test_every_other_character_becomes_one_of_its_homophones(tokenizer: BertTokenizer, tones_respected: bool) -> None:
    text = [character for character in "您好请问您需要做牙齿矫正吗" if character in load_homophones()]
    tokens = np.tile(np.array(tokenizer.convert_tokens_to_ids(text), np.int32), 20)
    options: dict[str, Any] = {"homophone_probability": 1.0, "tones_respected": tones_respected}
    augmented = augmenter(tokenizer, **options).augment("call", 0, CallRounds([np.zeros(0, np.int16)], [tokens]))
    replaced = tokenizer.convert_ids_to_tokens(augmented.tokens[0].tolist())
    same_tone = [first_reading(new) == first_reading(old) for new, old in zip(replaced, text * 20, strict=True)]
    assert all(new != old for new, old in zip(replaced, text * 20, strict=True))
    assert [without_tone(first_reading(new)) for new in replaced] == [without_tone(first_reading(c)) for c in text] * 20
    assert all(same_tone) == tones_respected


def test_one_character_in_ten_is_replaced_and_every_homophone_is_used(tokenizer: BertTokenizer) -> None:
    character = tokenizer.convert_tokens_to_ids("马")
    tokens = [np.full(10_000, character, np.int32), np.zeros(0, np.int32), np.full(10_000, character, np.int32)]
    rounds = CallRounds([np.zeros(0, np.int16)] * 3, tokens)
    augmented = augmenter(tokenizer).augment("call", 0, rounds).tokens
    assert [len(each) for each in augmented] == [10_000, 0, 10_000]
    assert {each.dtype.name for each in augmented} == {"int32"}
    replaced = [number for number in np.concatenate(augmented).tolist() if number != character]
    assert len(replaced) == pytest.approx(2_000, abs=5 * 42)  # standard deviation: sqrt(20,000 * 0.1 * 0.9) = 42
    used, times = np.unique(replaced, return_counts=True)
    assert set(tokenizer.convert_ids_to_tokens(used.tolist())) == set(load_homophones()["马"])
    np.testing.assert_allclose(times, 2_000 / len(used), rtol=0.3)


@pytest.mark.parametrize("together", [1, 4])
def test_three_tokens_in_ten_are_masked_and_special_ones_never(tokenizer: BertTokenizer, together: int) -> None:
    call = CallRounds(
        samples=[np.zeros(9, np.int16)] * 2,
        tokens=[np.array(tokenizer(SENTENCES[0] * 1_000)["input_ids"], np.int32), np.zeros(0, np.int32)],
    )
    masking = augmenter(tokenizer, augment="text", homophone_probability=0, masked_tokens=0.3, masked_together=together)
    hidden, empty = masking.augment("call", 0, call).tokens
    is_masked = hidden == tokenizer.mask_token_id
    assert len(empty) == 0
    assert is_masked.mean() == pytest.approx(0.3, abs=0.03)
    assert hidden[~is_masked].tolist() == call.tokens[0][~is_masked].tolist()
    assert hidden[[0, -1]].tolist() == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    edges = np.flatnonzero(np.diff(is_masked.astype(int)))
    stretches = (edges[1::2] - edges[::2])[1:-1]  # special tokens, never masked, may cut the outermost short
    assert stretches.min() == together


def test_a_tokenizer_without_chinese_characters_cannot_augment_text(tiny_tokenizer: BertTokenizer) -> None:
    with pytest.raises(UsageError, match='choose augment="audio"'):
        augmenter(tiny_tokenizer, augment="both")
    assert augmenter(tiny_tokenizer, augment="audio").augment("call", 0, without_text([])).samples == []


@pytest.mark.parametrize("snr_db", [0.0, 10.0, 30.0])
def test_the_noise_has_the_requested_signal_to_noise_ratio(snr_db: float) -> None:
    clean = sine(440.0, 10.0)
    noise = add_noise(clean, snr_db, np.random.default_rng(0)) - clean.astype(float)
    power = 10_000**2 / 2  # of a sine of this amplitude
    assert 10 * np.log10(power / np.mean(noise**2)) == pytest.approx(snr_db, abs=0.1)


def test_noise_is_clipped_to_the_range_of_int16() -> None:
    square = np.tile(np.array([32_767, -32_768], np.int16), 1_000)
    noisy = add_noise(square, 20.0, np.random.default_rng(0))
    assert (np.sign(noisy) == np.sign(square)).all()


@pytest.mark.parametrize(("speed", "num_samples"), [(0.8, 40_000), (0.9, 35_556), (1.0, 32_000), (1.25, 25_600)])
def test_a_change_of_speed_changes_the_length_and_keeps_the_pitch(speed: float, num_samples: int) -> None:
    changed = change_speed(sine(440.0, 4.0), speed, WINDOW)
    assert len(changed) == num_samples
    assert loudest_frequency(changed) == pytest.approx(440.0, abs=2.0)


@pytest.mark.parametrize("speed", [0.9, 1.1])
def test_a_change_of_speed_keeps_the_power(speed: float) -> None:
    noise = np.random.default_rng(0).normal(0, 1_000, 4 * RATE).astype(np.int16)
    changed = change_speed(noise, speed, WINDOW)
    assert np.std(changed) == pytest.approx(1_000, rel=0.01)


def test_a_round_at_double_speed_has_each_of_its_parts_in_half_the_time() -> None:
    halves = np.concatenate([sine(300.0, 2.0), sine(1_000.0, 2.0)])
    changed = change_speed(halves, 2.0, WINDOW)
    assert loudest_frequency(changed[: RATE - WINDOW]) == pytest.approx(300.0, abs=2.0)
    assert loudest_frequency(changed[RATE + WINDOW :]) == pytest.approx(1_000.0, abs=2.0)


@given(st.integers(0, 500), st.floats(0.0, 1.0), st.integers(0, 99))
def test_one_stretch_of_the_requested_share_is_silenced(num_samples: int, share: float, seed: int) -> None:
    ones = np.ones(num_samples, np.int16)
    masked = mask_stretch(ones, share, np.random.default_rng(seed))
    silent = np.flatnonzero(masked == 0)
    assert len(silent) == int(share * num_samples)
    assert not len(silent) or silent[-1] - silent[0] + 1 == len(silent)


def test_masks_have_lengths_up_to_the_share_and_any_position(tokenizer: BertTokenizer) -> None:
    quiet: dict[str, Any] = {"augment": "audio", "snr_db": (200.0, 200.0), "speed": (1.0, 1.0), "mask_share": 0.2}
    rounds = without_text([np.ones(WINDOW - 1, np.int16)] * 2_000)
    augmented = np.array(augmenter(tokenizer, **quiet).augment("call", 0, rounds).samples)
    shares = (augmented == 0).mean(axis=1)
    assert 0.19 < shares.max() <= 0.2
    assert shares[shares > 0].mean() == pytest.approx(0.1, abs=0.02)
    assert (augmented == 0).any(axis=0)[5:-5].all()


def test_noise_speed_mask_and_none_are_equally_frequent(tokenizer: BertTokenizer) -> None:
    seen: dict[str, Any] = {"augment": "audio", "snr_db": (0.0, 0.0), "speed": (0.5, 0.5), "mask_share": 1.0}
    rounds = without_text([np.full(2 * WINDOW, 1_000, np.int16)] * 2_000)
    augmented = augmenter(tokenizer, **seen).augment("call", 0, rounds).samples
    lengths = np.array([len(each) for each in augmented])
    kept = sum(bool((each == 1_000).all()) for each in augmented)
    masked = sum(set(each.tolist()) in ({0}, {0, 1_000}) for each in augmented)
    slowed = int((lengths == 4 * WINDOW).sum())
    noisy = 2_000 - kept - masked - slowed
    assert [kept, masked, slowed, noisy] == [pytest.approx(500, abs=5 * 19)] * 4  # sqrt(2,000 * 3 / 16) = 19


def test_a_slowed_round_is_cut_to_the_maximum_length(tokenizer: BertTokenizer) -> None:
    slow: dict[str, Any] = {"augment": "audio", "speed": (0.5, 0.5), "longest": RATE + 100}
    rounds = without_text([sine(440.0, 1.0)] * 40)
    lengths = {len(each) for each in augmenter(tokenizer, **slow).augment("call", 0, rounds).samples}
    assert lengths == {RATE, RATE + 100}


@settings(deadline=None)
@given(st.lists(st.integers(0, 3 * WINDOW), max_size=12), st.sampled_from([0, 1, 32_767, -32_768]), st.integers(0, 99))
def test_empty_short_silent_and_loud_rounds_can_be_augmented(
    tokenizer: BertTokenizer, lengths: list[int], value: int, epoch: int
) -> None:
    rounds = without_text([np.full(length, value, np.int16) for length in lengths])
    augmented = augmenter(tokenizer, augment="audio", mask_share=1.0).augment("call", epoch, rounds).samples
    assert [each.dtype.name for each in augmented] == ["int16"] * len(lengths)
    for each, length in zip(augmented, lengths, strict=True):
        assert len(each) == length if length < WINDOW else round(length / 1.1) <= len(each) <= round(length / 0.9)
        assert value or not each.any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"augment": "video"},
        {"snr_db": (30.0, 10.0)},
        {"snr_db": (float("nan"), 10.0)},
        {"speed": (0.0, 1.0)},
        {"speed": (1.1, 0.9)},
        {"mask_share": 1.5},
        {"masked_together": 0},
        {"homophone_probability": -0.1},
    ],
)
def test_an_invalid_field_is_reported_with_its_value(wrong: dict[str, Any]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=name) as caught:
        AugmentationConfig(**wrong)
    assert str(value) in str(caught.value)


def test_a_negative_seed_is_reported_with_its_value(tokenizer: BertTokenizer) -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        augmenter(tokenizer, seed=-1)
