"""Probabilities and lead scores of batches of calls, whatever is scored together."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.ranking import LeadWeights
from msmtfn.model.calibration import Calibration
from msmtfn.model.network import MsmtFn
from tests.inference.batches import (
    CALLS,
    CLS,
    ROUND_SAMPLES,
    SEP,
    Encode,
    MakeScorer,
    Rounds,
    batch_of,
    fix_probabilities,
    noise,
    probabilities_of,
    ready,
    score,
    three_calls,
)


def test_the_probabilities_of_each_task_sum_to_one(scorer: Scorer) -> None:
    for row in score(scorer, three_calls()):
        assert {task: tuple(row[task]) for task in TASKS} == TASKS
        assert all(sum(row[task].values()) == pytest.approx(1, abs=1e-6) for task in TASKS)
        assert all(0 < value < 1 for value in probabilities_of(row))


def test_a_call_scores_the_same_alone_and_in_a_batch(scorer: Scorer) -> None:
    together = score(scorer, three_calls())
    for number, rounds in enumerate(CALLS):
        [alone] = score(scorer, batch_of(ready(rounds)))
        assert probabilities_of(alone) == pytest.approx(probabilities_of(together[number]), abs=1e-5)


@pytest.mark.parametrize("samples_per_batch", [1, ROUND_SAMPLES, 2 * ROUND_SAMPLES, 5 * ROUND_SAMPLES])
def test_a_calls_score_does_not_depend_on_the_budget(samples_per_batch: int, make_scorer: MakeScorer) -> None:
    small = score(make_scorer(samples_per_batch=samples_per_batch), three_calls())
    for row, expected in zip(small, score(make_scorer(), three_calls()), strict=True):
        assert probabilities_of(row) == pytest.approx(probabilities_of(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("samples_per_batch", "expected"),
    [(1, [1] * 6), (ROUND_SAMPLES, [1] * 6), (3 * ROUND_SAMPLES - 1, [2] * 3), (4 * ROUND_SAMPLES, [4, 2])],
)
def test_no_more_rounds_are_encoded_at_once_than_the_budget_allows(
    samples_per_batch: int, expected: list[int], make_scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make_scorer(samples_per_batch=samples_per_batch, encoding="padded")
    encode: Encode = scorer.network.embed_rounds
    sizes = []

    def count(waveforms: Tensor, *rest: Tensor, padded: bool) -> tuple[Tensor, ...]:
        sizes.append(len(waveforms))
        return encode(waveforms, *rest, padded=padded)

    monkeypatch.setattr(scorer.network, "embed_rounds", count)
    score(scorer, three_calls())
    assert sizes == expected


def test_each_cpu_thread_encodes_its_own_rounds(make_scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        scorer = make_scorer(samples_per_batch=1)
        encode: Encode = scorer.network.embed_rounds
        together = threading.Barrier(3)  # passed only when all three threads encode at the same time
        threads = []

        def meet(*arguments: Tensor, padded: bool) -> tuple[Tensor, ...]:
            together.wait(timeout=60)
            threads.append((threading.get_ident(), torch.get_num_threads()))
            return encode(*arguments, padded=padded)

        monkeypatch.setattr(scorer.network, "embed_rounds", meet)
        shared = score(scorer, three_calls())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert len(set(threads)) == 3
    assert {num_threads for _, num_threads in threads} == {1}
    alone = score(make_scorer(samples_per_batch=100 * ROUND_SAMPLES), three_calls())
    for one, other in zip(shared, alone, strict=True):
        assert probabilities_of(one) == pytest.approx(probabilities_of(other), abs=1e-5)


def test_a_score_equals_that_of_the_network_on_handmade_tensors(
    scorer: Scorer, tiny_network: Callable[..., MsmtFn]
) -> None:
    (first, ids), (second, _) = CALLS[0]
    waveforms = torch.zeros(2, ROUND_SAMPLES)
    waveforms[0, :12_000] = torch.from_numpy(first).float() / 32767
    waveforms[1] = torch.from_numpy(second).float() / 32767
    input_ids = torch.tensor([ids, [0] * 4])
    with torch.inference_mode():
        output = tiny_network()(waveforms, torch.tensor([12_000, 16_000]), input_ids, torch.tensor([4, 0]), [2])
    call = CallRounds([first, second], [np.array(ids, np.int32), np.zeros(0, np.int32)])
    probabilities = scorer.probabilities([call])
    for task in TASKS:
        expected = torch.softmax(output.logits[task][0], 0).tolist()
        assert probabilities[task][0].tolist() == pytest.approx(expected, abs=1e-5)


def test_audio_text_and_the_order_of_rounds_change_the_score(scorer: Scorer) -> None:
    (first, ids), (second, none) = CALLS[0]
    other_audio: Rounds = [(noise(12_000, 9), ids), (second, none)]
    other_text: Rounds = [(first, [CLS, 9, 9, SEP]), (second, none)]
    variants = [CALLS[0], other_audio, other_text, CALLS[0][::-1]]
    rows = score(scorer, batch_of(*(ready(rounds) for rounds in variants)))
    assert all(np.abs(np.subtract(probabilities_of(row), probabilities_of(rows[0]))).max() > 1e-5 for row in rows[1:])


def test_a_long_call_is_scored_under_a_small_budget(make_scorer: MakeScorer) -> None:
    long: Rounds = [(noise(800, seed), []) for seed in range(30)]
    row, _ = score(make_scorer(samples_per_batch=7 * ROUND_SAMPLES), batch_of(ready(long), ready(CALLS[1])))
    assert (row["status"], row["num_rounds"]) == ("scored", 30)


def test_probabilities_are_arrays_with_one_row_per_call(scorer: Scorer) -> None:
    calls = [
        CallRounds([samples for samples, _ in rounds], [np.array(ids, np.int32) for _, ids in rounds])
        for rounds in CALLS
    ]
    arrays = scorer.probabilities(calls)
    assert {task: array.shape for task, array in arrays.items()} == {
        "five": (3, 5),
        "four": (3, 4),
        "three": (3, 3),
        "two": (3, 2),
    }


def test_the_lead_score_is_the_weighted_mean_of_the_five_probabilities(
    without_evidence: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_probabilities(monkeypatch, without_evidence, (0.5, 0.2, 0.1, 0.15, 0.05))
    [row] = score(without_evidence, batch_of(ready(CALLS[1])))
    assert list(row["five"].values()) == pytest.approx([0.5, 0.2, 0.1, 0.15, 0.05], abs=1e-6)
    assert row["lead_score"] == pytest.approx(64.0, abs=1e-4)  # 100 (0.5 + 0.6 * 0.2 + 0.2 * 0.1)


def test_the_weights_of_the_lead_score_come_from_the_configuration(
    make_scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = LeadWeights(weight_a=0.0, weight_b=0.1, weight_c=0.2, weight_d=0.4, weight_e=1.0)
    scorer = make_scorer(lead_weights=weights, evidence=False)
    fix_probabilities(monkeypatch, scorer, (0.5, 0.2, 0.1, 0.15, 0.05))
    [row] = score(scorer, batch_of(ready(CALLS[1])))
    assert row["lead_score"] == pytest.approx(15.0, abs=1e-4)  # 100 (0.02 + 0.02 + 0.06 + 0.05)


def test_the_predicted_intent_is_the_most_likely_one(without_evidence: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    fix_probabilities(
        monkeypatch,
        without_evidence,
        *(tuple(0.6 if intent == likely else 0.1 for intent in INTENTS) for likely in "CEA"),
    )
    assert [row["intent_predicted"] for row in score(without_evidence, three_calls())] == ["C", "E", "A"]


def test_the_network_is_put_in_evaluation_mode(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    network.train()
    scorer = Scorer(network, ScorerConfig(device="cpu"))
    assert score(scorer, three_calls())[0]["five"] == score(scorer, three_calls())[0]["five"]


def test_the_tasks_of_a_call_agree(scorer: Scorer) -> None:
    for row in score(scorer, three_calls()):
        for task, classes in TASKS.items():
            sums = {letters: sum(row["five"][intent] for intent in letters) for letters in classes}
            assert row[task] == pytest.approx(sums, abs=1e-6)


def test_the_temperature_of_the_model_is_applied(
    tiny_network: Callable[..., MsmtFn], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ScorerConfig(device="cpu", evidence=False)
    scorer = Scorer(tiny_network(), config, calibration=Calibration(temperature=2.0, set_threshold=0.5))
    fix_probabilities(monkeypatch, scorer, (0.64, 0.16, 0.16, 0.04, 0.0))
    [row] = score(scorer, batch_of(ready(CALLS[1])))
    # The square roots 0.8, 0.4, 0.4, 0.2 and 0, divided by their sum of 1.8.
    assert list(row["five"].values()) == pytest.approx([4 / 9, 2 / 9, 2 / 9, 1 / 9, 0], abs=1e-5)
    assert row["lead_score"] == pytest.approx(100 * (4 / 9 + 0.6 * 2 / 9 + 0.2 * 2 / 9), abs=1e-3)
    assert row["prediction_set"] == ["A", "B"]  # before B there are 0.44, before C 0.67


def test_a_model_without_calibration_has_sets_of_90_percent(
    without_evidence: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    fix_probabilities(monkeypatch, without_evidence, (0.05, 0.6, 0.31, 0.04, 0.0))
    [row] = score(without_evidence, batch_of(ready(CALLS[1])))
    assert row["prediction_set"] == ["B", "C"]


def test_the_evidence_is_the_change_of_the_score_when_a_round_is_left_out(scorer: Scorer) -> None:
    [whole] = score(scorer, batch_of(ready(CALLS[2])))
    expected = {}
    for number in range(3):
        rest = [round_ for index, round_ in enumerate(CALLS[2]) if index != number]
        [without] = score(scorer, batch_of(ready(rest)))
        expected[float(number)] = whole["lead_score"] - without["lead_score"]
    assert {each["start_sec"]: each["change"] for each in whole["evidence"]} == pytest.approx(expected, abs=1e-3)
    changes = [abs(each["change"]) for each in whole["evidence"]]
    assert changes == sorted(changes, reverse=True)
    assert [each["end_sec"] - each["start_sec"] for each in whole["evidence"]] == [1.0] * 3


def test_a_call_has_the_same_evidence_alone_and_in_a_batch(scorer: Scorer) -> None:
    together = score(scorer, three_calls())
    for number, rounds in enumerate(CALLS):
        [alone] = score(scorer, batch_of(ready(rounds)))
        for one, other in zip(alone["evidence"], together[number]["evidence"], strict=True):
            assert one == other | {"change": pytest.approx(other["change"], abs=1e-3)}


def test_the_evidence_of_a_round_without_words_is_its_sound_and_without_sound_its_words(scorer: Scorer) -> None:
    rounds: Rounds = [(noise(9_000, 1), []), (noise(100, 2), [CLS, 5, SEP])]  # 100 samples make no frame
    [row] = score(scorer, batch_of(ready(rounds)))
    assert {each["start_sec"]: each["side"] for each in row["evidence"]} == {0.0: "sound", 1.0: "words"}


def test_without_evidence_the_column_is_null_and_the_score_the_same(scorer: Scorer, without_evidence: Scorer) -> None:
    for row, expected in zip(score(without_evidence, three_calls()), score(scorer, three_calls()), strict=True):
        assert row["evidence"] is None
        assert row["lead_score"] == pytest.approx(expected["lead_score"], abs=1e-3)
