from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest

from msmtfn.evaluation.ranking import RankingMetrics, group_probabilities, ranking_metrics, top_size
from msmtfn.labels import INTENTS

Probabilities = Mapping[str, npt.NDArray[np.float32]]


def certain(predicted: str) -> Probabilities:
    return group_probabilities(np.eye(5, dtype=np.float32)[[INTENTS.index(intent) for intent in predicted]])


def measure(labels: str, scores: list[float], predicted: str | None = None) -> RankingMetrics:
    """Measures of calls with these labels; their ids are in alphabetical order."""
    intents = np.array([INTENTS.index(intent) for intent in labels])
    call_ids = [f"{number:03d}" for number in range(len(labels))]
    return ranking_metrics(np.array(scores), certain(predicted or labels), intents, call_ids)


@pytest.mark.parametrize(
    ("share", "num_calls", "size"), [(0.01, 20, 1), (0.1, 20, 2), (0.1, 30, 3), (0.05, 30, 2), (0.01, 1, 1)]
)
def test_the_top_share_is_rounded_up_to_whole_calls(share: float, num_calls: int, size: int) -> None:
    assert top_size(share, num_calls) == size


def test_precision_is_the_share_of_a_and_b_among_the_top() -> None:
    # 40 calls: at 1 % the first, at 5 % the first two, at 10 % the first four
    found = measure("ACBDE" + 35 * "C", [float(-number) for number in range(40)])
    assert found.precision_at == {"0.01": 1.0, "0.05": 0.5, "0.1": 0.5}


def test_between_equal_scores_the_call_id_decides_as_in_the_leads() -> None:
    assert measure("AC" + 8 * "D", [1.0] * 10).precision_at["0.1"] == 1.0
    assert measure("CA" + 8 * "D", [1.0] * 10).precision_at["0.1"] == 0.0


def test_the_gain_of_a_call_is_the_weight_of_its_label() -> None:
    # the ranking is C, A, B: 0.2 + 1 / log2(3) + 0.6 / 2, ideally 1 + 0.6 / log2(3) + 0.2 / 2
    expected = (0.2 + 1 / math.log2(3) + 0.3) / (1 + 0.6 / math.log2(3) + 0.1)
    assert measure("ABC", [2.0, 1.0, 3.0]).ndcg == pytest.approx(expected, abs=1e-6)


def test_without_a_label_of_any_worth_there_is_no_gain() -> None:
    assert measure("DE", [1.0, 2.0]).ndcg is None


def test_the_kappa_counts_an_error_by_the_square_of_its_distance() -> None:
    # labels A B C D, predicted A C C D: observed disagreement 1, by chance (17 + 7 + 5 + 11) / 4 = 10
    found = measure("ABCD", [4.0, 3.0, 2.0, 1.0], predicted="ACCD")
    assert found.quadratic_kappa == pytest.approx(0.9)
    assert found.accuracy == 0.75


def test_for_the_kappa_a_call_without_intent_is_as_good_as_a_refusal() -> None:
    assert measure("ABDE", [4.0, 3.0, 2.0, 1.0], predicted="ABED").quadratic_kappa == pytest.approx(1.0)
    assert measure("DE", [1.0, 2.0]).quadratic_kappa is None


def test_the_measures_agree_with_those_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    intents, scores = rng.integers(0, 5, 300), rng.integers(0, 60, 300).astype(np.float64)
    probabilities = group_probabilities(rng.dirichlet(np.ones(5), 300).astype(np.float32))
    found = ranking_metrics(scores, probabilities, intents, [str(number) for number in range(300)])
    gains = np.array([1.0, 0.6, 0.2, 0.0, 0.0])[intents]
    assert found.ndcg == pytest.approx(sklearn.ndcg_score([gains], [scores]), abs=1e-6)
    predicted = probabilities["four"].argmax(axis=1)
    kappa = sklearn.cohen_kappa_score(np.minimum(intents, 3), predicted, weights="quadratic")
    assert found.quadratic_kappa == pytest.approx(kappa, abs=1e-6)


def test_the_probabilities_of_the_groups_are_the_sums_of_their_members() -> None:
    grouped = group_probabilities(np.array([[0.1, 0.2, 0.3, 0.15, 0.25]], np.float32))
    assert grouped["four"].tolist() == [pytest.approx([0.1, 0.2, 0.3, 0.4])]
    assert grouped["three"].tolist() == [pytest.approx([0.1, 0.5, 0.4])]
    assert grouped["two"].tolist() == [pytest.approx([0.6, 0.4])]


def test_no_calls_have_no_ranking() -> None:
    with pytest.raises(ValueError, match="there are no calls"):
        measure("", [])
