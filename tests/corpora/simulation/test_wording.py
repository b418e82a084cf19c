from __future__ import annotations

import itertools
import re
from collections import defaultdict
from functools import cache

import numpy as np
import pytest

from msmtfn.corpora.simulation.agent_phrases import AGENT_PHRASES, DOMAIN_SLOTS, SLOTS
from msmtfn.corpora.simulation.ceilings import compute_ceilings, joint_probabilities
from msmtfn.corpora.simulation.customer_phrases import OPENERS, TAILS
from msmtfn.corpora.simulation.latents import DOMAIN_INTENTS, NEUTRAL, WORDS, draw_calls
from msmtfn.corpora.simulation.wording import phrases_of, share_of_fresh_turns, split_sentences, write_rounds
from msmtfn.homophones import substitute_homophones
from msmtfn.labels import INTENTS

TELLING = [words for words in WORDS if words != NEUTRAL]


@cache
def pattern_of(domain: str, words: str) -> re.Pattern[str]:
    """Matches the whole sentences of a kind of words, and those only."""
    slots = SLOTS | DOMAIN_SLOTS[domain]
    choices = {name: f"(?:{'|'.join(values)})" for name, values in slots.items()}
    phrases = "|".join(phrase.format(**choices) for phrase in phrases_of(domain, words))
    return re.compile(f"(?:{'|'.join(OPENERS)})(?:{phrases})(?:{'|'.join(TAILS)})")


def read_words(domain: str, text: str) -> str:
    """What a customer's turn says, looked up in the phrases."""
    found = {
        words for words in WORDS for sentence in split_sentences(text) if pattern_of(domain, words).fullmatch(sentence)
    }
    assert found, text
    return next(iter(found - {NEUTRAL}), NEUTRAL)


@pytest.mark.parametrize("domain", DOMAIN_INTENTS)
@pytest.mark.parametrize("words", TELLING)
def test_there_are_dozens_of_phrases_of_each_kind_in_each_domain(domain: str, words: str) -> None:
    phrases = phrases_of(domain, words)
    assert len(set(phrases)) == len(phrases) >= 24


@pytest.mark.parametrize("domain", DOMAIN_INTENTS)
def test_no_sentence_is_of_two_kinds(domain: str) -> None:
    slots = SLOTS | DOMAIN_SLOTS[domain]
    first_values = {name: values[0] for name, values in slots.items()}
    for words, other in itertools.permutations(WORDS, 2):
        for phrase in phrases_of(domain, words):
            assert not pattern_of(domain, other).fullmatch(phrase.format(**first_values)), (phrase, other)


def test_a_call_says_what_its_rounds_should_and_leaves_no_slot_open() -> None:
    rng = np.random.default_rng(0)
    for call in draw_calls(100, rng):
        for is_brief in (False, True):
            rounds = write_rounds(call, rng, is_brief=is_brief)
            assert [read_words(call.domain, each.customer) for each in rounds] == [each.words for each in call.rounds]
            assert not any(bracket in each.agent + each.customer for each in rounds for bracket in "{}")


def test_a_reader_who_looks_phrases_up_reaches_the_ceiling_of_the_text() -> None:
    rng = np.random.default_rng(1)
    best = {seen: INTENTS[int(shares.argmax())] for seen, shares in joint_probabilities("text", "five").items()}
    hits = []
    for call in draw_calls(1_500, rng):
        said = tuple(read_words(call.domain, each.customer) for each in write_rounds(call, rng))
        hits.append(best[call.domain, said] == call.intent)
    assert np.mean(hits) == pytest.approx(compute_ceilings()["five"]["text"], abs=3 * 0.5 / np.sqrt(1_500))


def test_the_length_of_a_turn_tells_nothing_of_what_it_says() -> None:
    rng = np.random.default_rng(2)
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    for call in draw_calls(877, rng):
        for shown, said in zip(call.rounds, write_rounds(call, rng), strict=True):
            lengths[shown.words].append(len(said.customer))
    means = {words: np.mean(values) for words, values in lengths.items()}
    overall = np.mean([length for values in lengths.values() for length in values])
    assert max(abs(mean - overall) for mean in means.values()) < 0.05 * overall


def test_most_turns_of_other_calls_share_no_sentence() -> None:
    rng = np.random.default_rng(3)
    calls = draw_calls(789, rng)
    turns = [[each.customer for each in write_rounds(calls[index], rng)] for index in rng.permutation(789)]
    test, training = (list(itertools.chain.from_iterable(part)) for part in (turns[:88], turns[88:]))
    assert share_of_fresh_turns(test, training) > 0.5


def test_a_turn_is_fresh_where_none_of_its_sentences_is_known() -> None:
    known = ["你好。再见。"]
    assert share_of_fresh_turns(["你好吗？", "不要。再见！", "谢谢。"], known) == pytest.approx(2 / 3)


def test_no_phrase_is_said_twice_in_a_call() -> None:
    rng = np.random.default_rng(4)
    for call in draw_calls(30, rng):
        sentences = [sentence for each in write_rounds(call, rng) for sentence in split_sentences(each.agent)]
        assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("phrase", [*AGENT_PHRASES, *OPENERS, *TAILS])
def test_nothing_that_is_said_in_every_call_greets_or_takes_leave(phrase: str) -> None:
    assert not any(word in phrase for word in ("您好", "你好", "喂", "再见", "拜拜", "挂了", "打扰"))


def test_a_small_reader_learns_the_words_from_the_recognisers_text() -> None:
    """Naive Bayes on characters and pairs of them, from as many calls as the paper trains on."""
    rng = np.random.default_rng(5)
    calls = draw_calls(877, rng)
    turns = [
        (shown.words, substitute_homophones(said.customer, 0.1, rng, tones_respected=False))
        for index in rng.permutation(877)
        for shown, said in zip(calls[index].rounds, write_rounds(calls[index], rng), strict=True)
    ]
    features = [{*text, *map("".join, itertools.pairwise(text))} for _, text in turns]
    index_of = {feature: index for index, feature in enumerate(sorted(set().union(*features)))}
    present = np.zeros((len(turns), len(index_of)))
    for row, found in enumerate(features):
        present[row, [index_of[feature] for feature in found]] = 1
    labels = np.array([WORDS.index(words) for words, _ in turns])
    num_training = len(turns) * 9 // 10
    is_kind = labels[:num_training] == np.arange(len(WORDS))[:, None]
    rates = (is_kind @ present[:num_training] + 0.1) / (is_kind.sum(axis=1, keepdims=True) + 0.2)
    scores = present @ np.log(rates / (1 - rates)).T + np.log(1 - rates).sum(axis=1) + np.log(is_kind.mean(axis=1))
    is_right = scores.argmax(axis=1) == labels
    assert is_right[num_training:].mean() > 0.9
