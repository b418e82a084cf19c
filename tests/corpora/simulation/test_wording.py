from __future__ import annotations

import itertools
import re
from collections import defaultdict
from functools import cache

import numpy as np
import pytest

from msmtfn.corpora.simulation.agent_phrases import AGENT_PHRASES, DOMAIN_SLOTS, SLOTS
from msmtfn.corpora.simulation.ceilings import compute_ceilings, joint_probabilities
from msmtfn.corpora.simulation.latents import DOMAIN_INTENTS, NEUTRAL, WORDS, draw_calls
from msmtfn.corpora.simulation.wording import (
    OPENERS,
    TAILS,
    phrases_of,
    share_of_fresh_turns,
    split_sentences,
    write_rounds,
)
from msmtfn.homophones import substitute_homophones
from msmtfn.labels import INTENTS

TELLING = [words for words in WORDS if words != NEUTRAL]


@cache
def pattern_of(domain: str, words: str) -> re.Pattern[str]:
    """Compile a pattern that matches the complete sentences of a kind of words and nothing else."""
    slots = SLOTS | DOMAIN_SLOTS[domain]
    choices = {name: f"(?:{'|'.join(values)})" for name, values in slots.items()}
    phrases = "|".join(phrase.format(**choices) for phrase in phrases_of(domain, words))
    return re.compile(f"(?:{'|'.join(OPENERS)})(?:{phrases})(?:{'|'.join(TAILS)})")


def read_words(domain: str, text: str) -> str:
    """Look up the kind of words of a customer's turn in the phrases."""
    kinds = {
        words for words in WORDS for sentence in split_sentences(text) if pattern_of(domain, words).fullmatch(sentence)
    }
    assert kinds, text
    return next(iter(kinds - {NEUTRAL}), NEUTRAL)


@pytest.mark.parametrize("domain", DOMAIN_INTENTS)
@pytest.mark.parametrize("words", TELLING)
def test_every_kind_of_words_has_at_least_24_phrases_in_every_domain(domain: str, words: str) -> None:
    phrases = phrases_of(domain, words)
    assert len(set(phrases)) == len(phrases) >= 24


@pytest.mark.parametrize("domain", DOMAIN_INTENTS)
def test_no_sentence_belongs_to_two_kinds_of_words(domain: str) -> None:
    slots = SLOTS | DOMAIN_SLOTS[domain]
    first_values = {name: values[0] for name, values in slots.items()}
    for words, other in itertools.permutations(WORDS, 2):
        for phrase in phrases_of(domain, words):
            assert not pattern_of(domain, other).fullmatch(phrase.format(**first_values)), (phrase, other)


def test_texts_express_the_latents_and_leave_no_slot_open() -> None:
    rng = np.random.default_rng(0)
    for call in draw_calls(100, rng):
        for is_brief in (False, True):
            rounds = write_rounds(call, rng, is_brief=is_brief)
            kinds = [read_words(call.domain, texts.customer) for texts in rounds]
            assert kinds == [latents.words for latents in call.rounds]
            assert not any(bracket in texts.agent + texts.customer for texts in rounds for bracket in "{}")


def test_looking_up_the_phrases_reaches_the_ceiling_of_the_text() -> None:
    rng = np.random.default_rng(1)
    best = {seen: INTENTS[int(shares.argmax())] for seen, shares in joint_probabilities("text", "five").items()}
    hits = []
    for call in draw_calls(1_500, rng):
        words = tuple(read_words(call.domain, texts.customer) for texts in write_rounds(call, rng))
        hits.append(best[call.domain, words] == call.intent)
    assert np.mean(hits) == pytest.approx(compute_ceilings()["five"]["text"], abs=3 * 0.5 / np.sqrt(1_500))


def test_the_length_of_a_turn_does_not_depend_on_its_words() -> None:
    rng = np.random.default_rng(2)
    lengths: defaultdict[str, list[int]] = defaultdict(list)
    for call in draw_calls(877, rng):
        for latents, texts in zip(call.rounds, write_rounds(call, rng), strict=True):
            lengths[latents.words].append(len(texts.customer))
    means = {words: np.mean(values) for words, values in lengths.items()}
    overall = np.mean([length for values in lengths.values() for length in values])
    assert max(abs(mean - overall) for mean in means.values()) < 0.05 * overall


def test_most_test_turns_share_no_sentence_with_training_turns() -> None:
    rng = np.random.default_rng(3)
    calls = draw_calls(789, rng)
    turns = [[texts.customer for texts in write_rounds(calls[index], rng)] for index in rng.permutation(789)]
    test, training = (list(itertools.chain.from_iterable(part)) for part in (turns[:88], turns[88:]))
    assert share_of_fresh_turns(test, training) > 0.5


def test_a_turn_is_fresh_if_none_of_its_sentences_is_known() -> None:
    known = ["你好。再见。"]
    assert share_of_fresh_turns(["你好吗？", "不要。再见！", "谢谢。"], known) == pytest.approx(2 / 3)


def test_no_agent_sentence_occurs_twice_in_a_call() -> None:
    rng = np.random.default_rng(4)
    for call in draw_calls(30, rng):
        sentences = [sentence for texts in write_rounds(call, rng) for sentence in split_sentences(texts.agent)]
        assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("phrase", [*AGENT_PHRASES, *OPENERS, *TAILS])
def test_phrases_of_all_calls_contain_no_greeting_or_farewell(phrase: str) -> None:
    assert not any(word in phrase for word in ("您好", "你好", "喂", "再见", "拜拜", "挂了", "打扰"))


def test_naive_bayes_learns_the_words_from_the_recognised_text() -> None:
    """Bernoulli naive Bayes on characters and character pairs, with as many calls as the paper."""
    rng = np.random.default_rng(5)
    calls = draw_calls(877, rng)
    turns = [
        (latents.words, substitute_homophones(texts.customer, 0.1, rng, tones_respected=False))
        for index in rng.permutation(877)
        for latents, texts in zip(calls[index].rounds, write_rounds(calls[index], rng), strict=True)
    ]
    features = [{*text, *map("".join, itertools.pairwise(text))} for _, text in turns]
    index_of = {feature: index for index, feature in enumerate(sorted(set().union(*features)))}
    present = np.zeros((len(turns), len(index_of)))
    for row, features_of_turn in enumerate(features):
        present[row, [index_of[feature] for feature in features_of_turn]] = 1
    labels = np.array([WORDS.index(words) for words, _ in turns])
    num_training = len(turns) * 9 // 10
    is_kind = labels[:num_training] == np.arange(len(WORDS))[:, None]
    rates = (is_kind @ present[:num_training] + 0.1) / (is_kind.sum(axis=1, keepdims=True) + 0.2)
    scores = present @ np.log(rates / (1 - rates)).T + np.log(1 - rates).sum(axis=1) + np.log(is_kind.mean(axis=1))
    is_right = scores.argmax(axis=1) == labels
    assert is_right[num_training:].mean() > 0.9
