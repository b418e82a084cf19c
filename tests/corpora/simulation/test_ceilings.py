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
class Told:
    """A call as this file makes it: its intent, and (words, sound) of each round."""

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


def tell_call(choose: Choose, choose_telling: Callable[[Choose, int, int], tuple[bool, ...]]) -> Told:
    """The documented distribution again, as a story told step by step."""
    domain = choose(list(DOMAIN_SHARES.items()))
    shares = shares_in(domain)
    intent = choose(list(shares.items()))
    sounds = [
        (pair, share * min(shares[pair[0]], shares[pair[1]]) / shares[intent])
        for pair, share in PAIR_SHARES.items()
        if intent in pair
    ]
    left = 1 - sum(share for _, share in sounds)
    evidence = choose([*sounds, ("words", 0.75 * left), ("neither", 0.25 * left)])
    num_rounds = choose([(2, 0.15), (3, 0.4), (4, 0.3), (5, 0.15)])
    if evidence == "neither":
        return Told(domain, intent, (("neutral", "plain"),) * num_rounds)
    early, change_after = intent, 0
    if choose([(True, 0.4), (False, 0.6)]):
        change_after = choose([(after, 1 / (num_rounds - 1)) for after in range(1, num_rounds)])
        others = [(other, share / (1 - shares[intent])) for other, share in shares.items() if other != intent]
        early = choose(others) if evidence == "words" else evidence.replace(intent, "")
    telling = choose_telling(choose, num_rounds, change_after)
    rounds = []
    for index in range(num_rounds):
        now = early if index < change_after else intent
        if not telling[index]:
            rounds.append(("neutral", "plain"))
        elif evidence == "words":
            rounds.append((now, "plain"))
        else:
            rounds.append((evidence, "warm" if evidence.startswith(now) else "cold"))
    return Told(domain, intent, tuple(rounds))


def redraw_telling(choose: Choose, num_rounds: int, change_after: int) -> tuple[bool, ...]:
    while True:
        telling = tuple(choose([(True, 0.8), (False, 0.2)]) for _ in range(num_rounds))
        if any(telling[change_after:]):
            return telling


def place_last_telling(choose: Choose, num_rounds: int, change_after: int) -> tuple[bool, ...]:
    """The same without redrawing: first where the last telling round is, then the rounds before it."""
    num_late = num_rounds - change_after
    after = choose([(count, 0.8 * 0.2**count / (1 - 0.2**num_late)) for count in range(num_late)])
    before = tuple(choose([(True, 0.8), (False, 0.2)]) for _ in range(num_rounds - after - 1))
    return (*before, True, *(False,) * after)


class Path:
    """One way through a story: the choices made so far, and those that were left out."""

    def __init__(self, taken: list[int]) -> None:
        self.taken = taken
        self.step = 0
        self.share = 1.0
        self.left_out: list[list[int]] = []

    def choose(self, options: Sequence[tuple[Any, float]]) -> Any:
        if self.step == len(self.taken):
            self.left_out += [[*self.taken, index] for index in range(1, len(options))]
            self.taken.append(0)
        value, probability = options[self.taken[self.step]]
        self.step += 1
        self.share *= probability
        return value


def explore(tell: Callable[[Choose], Told]) -> Iterator[tuple[Told, float]]:
    """Every way in which a story can go, with its probability: it is told again for each choice that was left out."""
    waiting: list[list[int]] = [[]]
    while waiting:
        path = Path(waiting.pop())
        told = tell(path.choose)
        waiting += path.left_out
        yield told, path.share


@cache
def all_stories() -> dict[Told, float]:
    stories: defaultdict[Told, float] = defaultdict(float)
    for told, share in explore(lambda choose: tell_call(choose, place_last_telling)):
        stories[told] += share
    return dict(stories)


def draw_stories(num_stories: int, seed: int) -> list[Told]:
    rng = np.random.default_rng(seed)

    def choose(options: Sequence[tuple[Any, float]]) -> Any:
        point = rng.random() * sum(share for _, share in options)
        for value, share in options:
            point -= share
            if point < 0:
                return value
        return options[-1][0]

    return [tell_call(choose, redraw_telling) for _ in range(num_stories)]


def class_of(intent: str, task: str) -> str:
    return next(letters for letters in TASKS[task] if intent in letters)


def tabulate(reader: str, task: str) -> dict[Hashable, Counter[str]]:
    table: defaultdict[Hashable, Counter[str]] = defaultdict(Counter)
    for told, share in all_stories().items():
        table[told.seen_by(reader)][class_of(told.intent, task)] += share  # type: ignore[assignment]
    return table


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("task", TASKS)
def test_the_ceiling_is_that_of_another_exact_enumeration(reader: str, task: str) -> None:
    expected = sum(max(classes.values()) for classes in tabulate(reader, task).values())
    assert compute_ceilings()[task][reader] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("reader", READERS)
def test_a_brute_force_bayes_classifier_reaches_the_ceiling_on_drawn_calls_and_no_more(reader: str) -> None:
    drawn = draw_stories(20_000, seed=1)
    for task in TASKS:
        best = {seen: classes.most_common(1)[0][0] for seen, classes in tabulate(reader, task).items()}
        accuracy = np.mean([best[told.seen_by(reader)] == class_of(told.intent, task) for told in drawn])
        assert accuracy == pytest.approx(compute_ceilings()[task][reader], abs=4 * 0.5 / np.sqrt(20_000))


def neither_part() -> tuple[float, float]:
    """P(neither), and how much of it a guess at its most frequent intent gets right, knowing the domain."""
    total = hit = 0.0
    for domain, domain_share in DOMAIN_SHARES.items():
        shares = shares_in(domain)
        mass = {pair: share * min(shares[pair[0]], shares[pair[1]]) for pair, share in PAIR_SHARES.items()}
        left = {y: 0.25 * (shares[y] - sum(m for pair, m in mass.items() if y in pair)) for y in "ABCDE"}
        total += domain_share * sum(left.values())
        hit += domain_share * max(left.values())
    return total, hit


def test_who_reads_both_errs_only_where_neither_tells_anything() -> None:
    neither, hit = neither_part()
    assert compute_ceilings()["five"]["both"] == pytest.approx(1 - neither + hit)


def test_who_reads_the_text_guesses_in_the_calls_that_the_sound_decides() -> None:
    neither, hit = neither_part()
    words = 3 * neither
    sound = 1 - words - neither
    assert compute_ceilings()["five"]["text"] == pytest.approx(words + sound / 2 + hit)


def test_who_hears_the_audio_only_knows_the_side_and_not_the_pair() -> None:
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


def test_both_is_far_above_either_and_above_both_without_order() -> None:
    five = compute_ceilings()["five"]
    assert five["both"] > max(five["text"], five["audio"]) + 0.15
    assert five["both"] > five["both_without_order"] + 0.05


def test_more_to_read_and_fewer_classes_are_never_harder() -> None:
    all_ceilings = compute_ceilings()
    for of in all_ceilings.values():
        assert of["both"] >= max(of["text"], of["audio"], of["both_without_order"])
    for reader in READERS:
        in_order = [all_ceilings[task][reader] for task in ("five", "four", "three", "two")]
        assert in_order == sorted(in_order)


@pytest.fixture
def fresh_caches() -> Iterator[None]:
    """The enumeration is kept; after a constant is changed it must be made again."""

    def clear() -> None:
        latents.enumerate_calls.cache_clear()
        ceilings._joint_with_intents.cache_clear()

    clear()
    yield
    clear()


def test_where_nobody_changes_their_mind_the_order_is_worth_nothing(
    fresh_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "CHANGE_SHARE", 1e-12)
    five = compute_ceilings()["five"]
    assert five["both_without_order"] == pytest.approx(five["both"], abs=1e-9)


def test_where_every_call_tells_something_who_reads_both_is_always_right(
    fresh_caches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "WORDS_SHARE", 1.0)
    assert compute_ceilings()["five"]["both"] == pytest.approx(1.0)


def test_where_only_words_tell_text_is_all_there_is(fresh_caches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latents, "PAIR_SHARES", dict.fromkeys(PAIR_SHARES, 0.0))
    five = compute_ceilings()["five"]
    assert five["text"] == pytest.approx(five["both"])
    assert five["audio"] == pytest.approx(0.97 * 379 / 877)  # always C


def test_the_probabilities_of_what_a_reader_sees_sum_to_one() -> None:
    for reader in READERS:
        assert sum(shares.sum() for shares in joint_probabilities(reader, "three").values()) == pytest.approx(1.0)


def test_the_best_readers_of_a_call_share_a_tie() -> None:
    call = CallLatents("dental", "B", "sound", "BC", None, 0, (True, True))
    assert call.rounds == (RoundLatents("BC", "warm"),) * 2
    five = score_best_readers([call])["five"]
    assert five == {"text": 0.5, "audio": 1.0, "both": 1.0, "both_without_order": 1.0}


def test_the_best_readers_of_a_corpus_come_near_their_ceilings() -> None:
    calls = latents.draw_calls(4_000, np.random.default_rng(0))
    for task, of in score_best_readers(calls).items():
        assert of == pytest.approx(compute_ceilings()[task], abs=0.01)
