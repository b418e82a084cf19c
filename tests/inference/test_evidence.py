from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from msmtfn.inference import evidence
from msmtfn.inference.evidence import MAX_PARTS, Evidence, find_evidence
from msmtfn.model.context import RoundContext


def sum_of_first(vectors: Tensor, rounds_per_call: list[int]) -> npt.NDArray[np.float32]:
    """Score a call with the sum of its vectors' first entries, so that every round adds its own."""
    return np.array([float(rounds[:, 0].sum()) for rounds in vectors.split(rounds_per_call)], np.float32)


def sides_of(*rounds: tuple[float, float]) -> Tensor:
    """Rounds that add the first number as a whole, and the second by their sound alone."""
    return torch.tensor(rounds)[:, :, None]


def find(*calls: Tensor, words: bool = True, sound: bool = True) -> list[list[Evidence]]:
    scores = np.array([float(call[:, 0].sum()) for call in calls], np.float32)
    lengths = [len(call) for call in calls]
    has_words, has_sound = (np.full(sum(lengths), flag) for flag in (words, sound))
    return find_evidence(torch.cat(calls), lengths, scores, has_words, has_sound, sum_of_first)


def test_the_rounds_that_move_a_score_most_come_first() -> None:
    [found] = find(sides_of((5, 0), (-20, 0), (1, 0), (10, 0)))
    assert [(each.first_round, each.last_round, each.change) for each in found] == [(1, 1, -20), (3, 3, 10), (0, 0, 5)]


def test_equal_changes_stay_in_the_order_of_the_rounds() -> None:
    [found] = find(sides_of((3, 0), (-3, 0)))
    assert [each.first_round for each in found] == [0, 1]


def test_a_side_is_named_where_its_effect_is_twice_the_others() -> None:
    # The sound of 9 alone adds 6, 3, 5 and -9, so that the words add 3, 6, 4 and 18.
    calls = [sides_of((9, sound), (0, 0)) for sound in (6, 3, 5, -9)]
    assert [found[0].side for found in find(*calls)] == ["sound", "words", "both", "words"]


def test_what_a_round_does_not_have_is_not_named() -> None:
    both = sides_of((9, 5), (0, 0))
    assert {each.side for found in find(both, words=False) for each in found} == {"sound"}
    assert {each.side for found in find(both, sound=False) for each in found} == {"words"}


def test_each_call_has_its_own_evidence() -> None:
    one, other = sides_of((1, 0), (2, 0)), sides_of((4, 4))
    assert [len(found) for found in find(one, other, one)] == [2, 0, 2]
    assert find(one, other, one)[2] == find(one)[0]


def test_a_long_call_is_left_out_in_parts_of_several_rounds() -> None:
    rounds = [(0.0, 0.0)] * (2 * MAX_PARTS)
    rounds[40], rounds[41], rounds[7] = (2, 2), (2, 2), (1, 0)
    [found] = find(sides_of(*rounds))
    assert [(each.first_round, each.last_round, each.change) for each in found[:2]] == [(40, 41, 4), (6, 7, 1)]
    assert [each.side for each in found[:2]] == ["sound", "words"]


@pytest.mark.parametrize("num_rounds", [1, 2, MAX_PARTS - 1, MAX_PARTS, MAX_PARTS + 1, 1000])
def test_the_parts_of_a_call_are_all_its_rounds_once(num_rounds: int) -> None:
    parts = list(evidence._parts(num_rounds))
    assert [index for first, last in parts for index in range(first, last)] == list(range(num_rounds))
    assert len(parts) == min(num_rounds, MAX_PARTS)


def test_the_evidence_of_a_network_is_that_of_rounds_left_out_one_by_one() -> None:
    # The plain way: for each round of each call the BiGRU over a copy of the other rounds, one call at a time.
    torch.manual_seed(0)
    context, head = RoundContext(6, 5, 2, 0.0), torch.nn.Linear(10, 1)
    calls = [torch.randn(number, 2, 6) for number in (3, 1, 5, 2)]

    def score(vectors: Tensor, rounds_per_call: list[int]) -> npt.NDArray[np.float32]:
        return np.asarray(100 * head(context(vectors, rounds_per_call))[:, 0].numpy(), np.float32)

    with torch.no_grad():
        scores = np.concatenate([score(call[:, 0], [len(call)]) for call in calls])
        has = np.full(11, fill_value=True)
        found = find_evidence(torch.cat(calls), [3, 1, 5, 2], scores, has, has, score)
        for call, evidence_of_call, whole in zip(calls, found, scores, strict=True):
            changes = {}
            for left_out in range(len(call)) if len(call) > 1 else ():
                others = [index for index in range(len(call)) if index != left_out]
                replaced = call[:, 0].clone()
                replaced[left_out] = call[left_out, 1]
                without, sound = score(call[others, 0], [len(others)]), score(replaced, [len(call)])
                changes[left_out] = (float(whole - without[0]), float(whole - sound[0]), float(sound[0] - without[0]))
            expected = sorted(changes, key=lambda index: -abs(changes[index][0]))[:3]
            assert [each.first_round for each in evidence_of_call] == expected
            for each in evidence_of_call:
                change, words, by_sound = changes[each.first_round]
                assert each.change == pytest.approx(change, abs=1e-4)
                assert each.side == evidence._name_side(words, by_sound)


def test_few_vectors_at_once_give_the_same_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = [sides_of((5, 1), (-20, 2), (1, 0), (10, 9)), sides_of((1, 0), (2, 2))]
    expected = find(*calls)
    monkeypatch.setattr(evidence, "ROUNDS_AT_ONCE", 1)
    assert find(*calls) == expected
