from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest

from msmtfn.corpora.simulation import ceilings, latents
from msmtfn.corpora.simulation.ceilings import READERS, compute_ceilings, joint_probabilities, score_best_readers
from msmtfn.corpora.simulation.latents import CallLatents, RoundLatents
from msmtfn.labels import TASKS

TABLE_5 = {"dental": (82, 128, 223, 57), "beauty": (42, 89, 76, 22), "courses": (13, 54, 80, 11)}
DOMAIN_SHARES = {"dental": 490 / 877, "beauty": 229 / 877, "courses": 158 / 877}
PAIR_SHARES = {"AB": 0.25, "BC": 0.36, "CD": 0.27, "DE": 0.30}

Choose = Callable[[Sequence[tuple[Any, float]]], Any]


@dataclass(frozen=True)
class Story:
    """A call from this module's independent model: its intent, and the (words, sound) of every round."""

    domain: str
    intent: str
    rounds: tuple[tuple[str, str], ...]

    def seen_by(self, reader: str) -> Hashable:
        words, sounds = zip(*self.rounds, strict=True)
        return {
            "text": (self.domain, words),
            "audio": sounds,
            "both": (self.domain, self.rounds),
            "both_without_order": (self.domain, tuple(sorted(self.rounds))),
        }[reader]


def shares_in(domain: str) -> dict[str, float]:
    counts = TABLE_5[domain]
    return {intent: 0.97 * count / sum(counts) for intent, count in zip("ABCD", counts, strict=True)} | {"E": 0.03}


def generate_call(choose: Choose, choose_telling: Callable[[Choose, int, int], tuple[bool, ...]]) -> Story:
    """Generate a call step by step: an independent implementation of the documented distribution."""
    domain = choose(list(DOMAIN_SHARES.items()))
    shares = shares_in(domain)
    intent = choose(list(shares.items()))
    sounds = [
        (pair, share * min(shares[pair[0]], shares[pair[1]]) / shares[intent])
        for pair, share in PAIR_SHARES.items()
        if intent in pair
    ]
    remaining = 1 - sum(share for _, share in sounds)
    evidence = choose([*sounds, ("words", 0.75 * remaining), ("neither", 0.25 * remaining)])
    num_rounds = choose([(2, 0.15), (3, 0.4), (4, 0.3), (5, 0.15)])
    if evidence == "neither":
        return Story(domain, intent, (("neutral", "plain"),) * num_rounds)
    early, change_after = intent, 0
    if choose([(True, 0.4), (False, 0.6)]):
        change_after = choose([(after, 1 / (num_rounds - 1)) for after in range(1, num_rounds)])
        others = [(other, share / (1 - shares[intent])) for other, share in shares.items() if other != intent]
        early = choose(others) if evidence == "words" else evidence.replace(intent, "")
    telling = choose_telling(choose, num_rounds, change_after)
    rounds = []
    for index in range(num_rounds):
        current = early if index < change_after else intent
        if not telling[index]:
            rounds.append(("neutral", "plain"))
        elif evidence == "words":
            rounds.append((current, "plain"))
        else:
            rounds.append((evidence, "warm" if evidence.startswith(current) else "cold"))
    return Story(domain, intent, tuple(rounds))


def redraw_telling(choose: Choose, num_rounds: int, change_after: int) -> tuple[bool, ...]:
    while True:
        telling = tuple(choose([(True, 0.8), (False, 0.2)]) for _ in range(num_rounds))
        if any(telling[change_after:]):
            return telling


def choose_last_telling(choose: Choose, num_rounds: int, change_after: int) -> tuple[bool, ...]:
    """Give the same distribution without redrawing: choose the last telling round, then those before it.

    With q = 0.2 and k rounds after the change, the last `after` rounds are silent and the one before them is telling
    with probability 0.8 q^after, which is divided by 1 - q^k, the probability of any telling round among the k.
    """
    num_late = num_rounds - change_after
    after = choose([(count, 0.8 * 0.2**count / (1 - 0.2**num_late)) for count in range(num_late)])
    before = tuple(choose([(True, 0.8), (False, 0.2)]) for _ in range(num_rounds - after - 1))
    return (*before, True, *(False,) * after)


class Path:
    """One path through the tree of choices: the choices taken, and the branches that remain to be explored."""

    def __init__(self, taken: list[int]) -> None:
        self.taken = taken
        self.step = 0
        self.share = 1.0
        self.untaken: list[list[int]] = []

    def choose(self, options: Sequence[tuple[Any, float]]) -> Any:
        if self.step == len(self.taken):
            self.untaken += [[*self.taken, index] for index in range(1, len(options))]
            self.taken.append(0)
        value, probability = options[self.taken[self.step]]
        self.step += 1
        self.share *= probability
        return value


def explore(generate: Callable[[Choose], Story]) -> Iterator[tuple[Story, float]]:
    """Enumerate all outcomes with their probabilities: generate again for every branch that was not taken."""
    waiting: list[list[int]] = [[]]
    while waiting:
        path = Path(waiting.pop())
        story = generate(path.choose)
        waiting += path.untaken
        yield story, path.share


@cache
def all_stories() -> dict[Story, float]:
    stories: defaultdict[Story, float] = defaultdict(float)
    for story, share in explore(lambda choose: generate_call(choose, choose_last_telling)):
        stories[story] += share
    return dict(stories)


def draw_stories(num_stories: int, seed: int) -> list[Story]:
    rng = np.random.default_rng(seed)

    def choose(options: Sequence[tuple[Any, float]]) -> Any:
        point = rng.random() * sum(share for _, share in options)
        for value, share in options:
            point -= share
            if point < 0:
                return value
        return options[-1][0]

    return [generate_call(choose, redraw_telling) for _ in range(num_stories)]


def class_of(intent: str, task: str) -> str:
    return next(letters for letters in TASKS[task] if intent in letters)


def tabulate(reader: str, task: str) -> dict[Hashable, Counter[str]]:
    table: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
    for story, share in all_stories().items():
        table[story.seen_by(reader)][class_of(story.intent, task)] += share  # type: ignore[assignment]
    return table


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("task", TASKS)
def test_the_ceiling_equals_that_of_an_independent_enumeration(reader: str, task: str) -> None:
    expected = sum(max(classes.values()) for classes in tabulate(reader, task).values())
    assert compute_ceilings()[task][reader] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("reader", READERS)
def test_the_accuracy_of_a_bayes_classifier_on_drawn_calls_is_the_ceiling(reader: str) -> None:
    drawn = draw_stories(20_000, seed=1)
    for task in TASKS:
        best = {seen: classes.most_common(1)[0][0] for seen, classes in tabulate(reader, task).items()}
        accuracy = np.mean([best[story.seen_by(reader)] == class_of(story.intent, task) for story in drawn])
        assert accuracy == pytest.approx(compute_ceilings()[task][reader], abs=4 * 0.5 / np.sqrt(20_000))


def neither_part() -> tuple[float, float]:
    """Return P(neither), and the part of it that guessing the domain's most frequent intent gets right."""
    total = hit = 0.0
    for domain, domain_share in DOMAIN_SHARES.items():
        shares = shares_in(domain)
        mass = {pair: share * min(shares[pair[0]], shares[pair[1]]) for pair, share in PAIR_SHARES.items()}
        remaining = {y: 0.25 * (shares[y] - sum(m for pair, m in mass.items() if y in pair)) for y in "ABCDE"}
        total += domain_share * sum(remaining.values())
        hit += domain_share * max(remaining.values())
    return total, hit


def test_the_reader_of_both_errs_in_neither_calls_only() -> None:
    neither, hit = neither_part()
    assert compute_ceilings()["five"]["both"] == pytest.approx(1 - neither + hit)


def test_the_reader_of_the_text_is_right_in_half_of_the_sound_calls() -> None:
    neither, hit = neither_part()
    words = 3 * neither
    sound = 1 - words - neither
    assert compute_ceilings()["five"]["text"] == pytest.approx(words + sound / 2 + hit)


def test_the_reader_of_the_audio_knows_the_side_but_not_the_pair() -> None:
    mass = {
        pair: sum(
            DOMAIN_SHARES[domain] * share * min(shares_in(domain)[pair[0]], shares_in(domain)[pair[1]])
            for domain in DOMAIN_SHARES
        )
        for pair, share in PAIR_SHARES.items()
    }
    all_c = sum(DOMAIN_SHARES[domain] * shares_in(domain)["C"] for domain in DOMAIN_SHARES)
    plain_c = all_c - mass["BC"] - mass["CD"]
    assert compute_ceilings()["five"]["audio"] == pytest.approx(plain_c + 2 * mass["BC"])


def test_the_reader_of_both_is_far_above_the_others() -> None:
    five = compute_ceilings()["five"]
    assert five["both"] > max(five["text"], five["audio"]) + 0.15
    assert five["both"] > five["both_without_order"] + 0.05


def test_more_observations_or_fewer_classes_never_lower_the_ceiling() -> None:
    all_ceilings = compute_ceilings()
    for by_reader in all_ceilings.values():
        assert by_reader["both"] == max(by_reader.values())
    for reader in READERS:
        in_order = [all_ceilings[task][reader] for task in ("five", "four", "three", "two")]
        assert in_order == sorted(in_order)


@pytest.fixture
def fresh_caches() -> Iterator[None]:
    """Clear the caches of the enumeration before and after a test that changes its constants."""

    def clear() -> None:
        latents.enumerate_calls.cache_clear()
        ceilings._joint_with_intents.cache_clear()

    clear()
    yield
    clear()


def test_without_changes_of_mind_the_order_carries_no_information(
    fresh_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "CHANGE_SHARE", 1e-12)
    five = compute_ceilings()["five"]
    assert five["both_without_order"] == pytest.approx(five["both"], abs=1e-9)


def test_without_neither_calls_the_reader_of_both_is_always_right(
    fresh_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "WORDS_SHARE", 1.0)
    assert compute_ceilings()["five"]["both"] == pytest.approx(1.0)


def test_without_sound_calls_the_text_is_as_good_as_both(fresh_caches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "PAIR_SHARES", dict.fromkeys(PAIR_SHARES, 0.0))
    five = compute_ceilings()["five"]
    assert five["text"] == pytest.approx(five["both"])
    assert five["audio"] == pytest.approx(0.97 * 379 / 877)  # always C


def test_the_joint_probabilities_of_a_reader_sum_to_one() -> None:
    for reader in READERS:
        assert sum(shares.sum() for shares in joint_probabilities(reader, "three").values()) == pytest.approx(1.0)


def test_a_tie_between_two_classes_counts_as_half_a_hit() -> None:
    call = CallLatents("dental", "B", "sound", "BC", None, 0, (True, True))
    assert call.rounds == (RoundLatents("BC", "warm"),) * 2
    five = score_best_readers([call])["five"]
    assert five == {"text": 0.5, "audio": 1.0, "both": 1.0, "both_without_order": 1.0}


def test_the_best_readers_of_a_large_corpus_are_close_to_their_ceilings() -> None:
    calls = latents.draw_calls(4_000, np.random.default_rng(0))
    for task, accuracy in score_best_readers(calls).items():
        assert accuracy == pytest.approx(compute_ceilings()[task], abs=0.01)
