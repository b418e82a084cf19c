from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from msmtfn.corpora.simulation.latents import (
    DOMAIN_INTENTS,
    NEUTRAL,
    PAIRS,
    SOUNDS,
    WORDS,
    CallLatents,
    RoundLatents,
    draw_calls,
    enumerate_calls,
)

PLAIN = RoundLatents(NEUTRAL, "plain")


def shares_of(*names: str) -> Counter[tuple[object, ...]]:
    """Return the probability of every combination of attributes."""
    shares: Counter[tuple[object, ...]] = Counter()
    for call, share in enumerate_calls():
        shares[tuple(getattr(call, name) for name in names)] += share  # type: ignore[assignment]
    return shares


def test_the_probabilities_sum_to_one_and_calls_are_unique() -> None:
    calls = enumerate_calls()
    assert sum(share for _, share in calls) == pytest.approx(1.0, abs=1e-12)
    assert all(share > 0 for _, share in calls)
    assert len({call for call, _ in calls}) == len(calls)


def test_domains_and_intents_follow_the_counts_of_table_5() -> None:
    shares = shares_of("domain", "intent")
    assert shares["dental", "C"] == pytest.approx(0.97 * 223 / 877)
    assert shares["courses", "D"] == pytest.approx(0.97 * 11 / 877)
    assert shares["beauty", "E"] == pytest.approx(0.03 * 229 / 877)


def test_words_are_the_evidence_in_half_of_the_calls_and_sound_in_a_third() -> None:
    shares = shares_of("evidence")
    assert shares["words",] == pytest.approx(0.5, abs=0.03)
    assert shares["sound",] == pytest.approx(1 / 3, abs=0.03)


def test_in_a_third_of_the_calls_the_customer_changes_their_mind() -> None:
    assert 1 - shares_of("early_intent")[None,] == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("domain", DOMAIN_INTENTS)
@pytest.mark.parametrize("pair", PAIRS)
def test_both_sides_of_a_pair_are_equally_likely(domain: str, pair: str) -> None:
    shares = shares_of("domain", "pair", "intent")
    assert shares[domain, pair, pair[0]] == pytest.approx(shares[domain, pair, pair[1]])


def test_a_call_has_three_to_four_rounds_on_average() -> None:
    assert 3 < sum(share * len(call.rounds) for call, share in enumerate_calls()) < 4


def test_rounds_reveal_the_intent_before_and_after_the_change() -> None:
    call = CallLatents("dental", "A", "words", None, "D", 2, (True, False, True, True))
    assert call.rounds == (RoundLatents("D", "plain"), PLAIN, *[RoundLatents("A", "plain")] * 2)


def test_a_change_of_mind_in_a_sound_call_changes_the_sound_and_not_the_words() -> None:
    call = CallLatents("dental", "C", "sound", "BC", "B", 1, (True, True, False))
    assert call.rounds == (RoundLatents("BC", "warm"), RoundLatents("BC", "cold"), PLAIN)


def test_the_last_telling_round_reveals_the_intent() -> None:
    for call, _ in enumerate_calls():
        telling = [latents for latents in call.rounds if latents != PLAIN]
        assert bool(telling) == (call.evidence != "neither")
        if call.evidence == "words":
            assert telling[-1].words == call.intent
        elif call.evidence == "sound":
            assert telling[-1].words[telling[-1].sound == "cold"] == call.intent


def test_rounds_use_all_words_and_sounds_and_no_others() -> None:
    possible = {latents for call, _ in enumerate_calls() for latents in call.rounds}
    assert {latents.words for latents in possible} == set(WORDS)
    assert {latents.sound for latents in possible} == set(SOUNDS)


def test_every_domain_and_intent_gets_its_share_of_calls_give_or_take_one() -> None:
    calls = draw_calls(877, np.random.default_rng(0))
    assert len(calls) == 877
    for (domain, intent), share in shares_of("domain", "intent").items():
        drawn = sum((call.domain, call.intent) == (domain, intent) for call in calls)
        assert abs(drawn - 877 * share) < 1


def test_draws_follow_the_enumerated_probabilities() -> None:
    counts: Counter[str] = Counter()
    for seed in range(300):
        counts.update(call.evidence for call in draw_calls(1, np.random.default_rng(seed)))
    for (evidence,), share in shares_of("evidence").items():
        assert counts[str(evidence)] / 300 == pytest.approx(share, abs=0.1)
