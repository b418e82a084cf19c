import copy
import datetime as dt
import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from torch import Tensor

from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.corpora import demo_model
from msmtfn.corpora.demo import write_demo_day
from msmtfn.features.prepare import PREPARED, PrepareConfig, Preparer
from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig, split_calls
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.ranking import LeadWeights
from msmtfn.leads.schema import LINEAGE, OUTCOME, parts_schema
from msmtfn.model.calibration import Calibration
from msmtfn.model.checkpoint import load_model
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.int8 import int8_matmul_is_exact

PASSTHROUGH = [pa.field("call_id", pa.string()), pa.field("tags", pa.list_(pa.string()))]
SCHEMA = parts_schema(PASSTHROUGH)
PREPARED_CALLS = pa.schema([pa.field("row_id", pa.int64()), *PASSTHROUGH, *PREPARED])
ROUND_SAMPLES = 16_000  # max_round_samples of the tiny network
CLS, SEP = 2, 3
MARK = 32_767
"""Value of a sample that makes the network fail on its call."""

Rounds = list[tuple[npt.NDArray[np.int16], list[int]]]
MakeScorer = Callable[..., Scorer]
Encode = Callable[..., tuple[Tensor, ...]]


@pytest.fixture
def make_scorer(tiny_network: Callable[..., MsmtFn]) -> MakeScorer:
    """Return a function that makes a scorer with its own tiny network, given fields of `ScorerConfig`."""

    def make(**options: Any) -> Scorer:
        network = tiny_network()
        return Scorer(network, ScorerConfig(device="cpu", **options))

    return make


@pytest.fixture
def scorer(make_scorer: MakeScorer) -> Scorer:
    return make_scorer()


@pytest.fixture
def without_evidence(make_scorer: MakeScorer) -> Scorer:
    return make_scorer(evidence=False)


def noise(num_samples: int, seed: int) -> npt.NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-3000, 3000, num_samples).astype(np.int16)


CALLS: list[Rounds] = [
    [(noise(12_000, 0), [CLS, 5, 6, SEP]), (noise(16_000, 1), [])],
    [(noise(3_000, 2), [CLS, 7, SEP])],
    [(noise(100, 3), []), (noise(8_000, 4), [CLS, 8, 9, 10, 11, SEP]), (noise(16_000, 5), [CLS, 5, SEP])],
]


def ready(rounds: Rounds, number: int = 0) -> dict[str, Any]:
    """Make a row that is ready to be scored."""
    return {
        "row_id": number,
        "call_id": f"call-{number}",
        "tags": ["x", None],
        "duration_sec": 7.5,
        "num_rounds": len(rounds),
        "rounds": [{"start_sec": float(index), "end_sec": index + 1.0} for index in range(len(rounds))],
        "samples": np.concatenate([samples for samples, _ in rounds]),
        "round_samples": [len(samples) for samples, _ in rounds],
        "tokens": [token for _, ids in rounds for token in ids],
        "round_tokens": [len(ids) for _, ids in rounds],
    }


def rejected(number: int = 0) -> dict[str, Any]:
    verdict = {"status": "rejected", "error_code": "audio_empty", "error_detail": "the file has no bytes"}
    empty: dict[str, list[int]] = {name: [] for name in ("samples", "round_samples", "tokens", "round_tokens")}
    return {"row_id": number, "call_id": f"call-{number}", "tags": None, **verdict, **empty}


def batch_of(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=PREPARED_CALLS)


def three_calls() -> pa.Table:
    return batch_of(*(ready(rounds, number) for number, rounds in enumerate(CALLS)))


def score(scorer: Scorer, batch: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = scorer.score_batch(batch, SCHEMA).to_pylist()
    return rows


def probabilities_of(row: dict[str, Any]) -> list[float]:
    """Return all 14 probabilities of a scored call."""
    return [value for task in TASKS for value in row[task].values()]


def fix_probabilities(monkeypatch: pytest.MonkeyPatch, scorer: Scorer, *five: tuple[float, ...]) -> None:
    """Make all heads of the network agree on these probabilities of the five intents, one tuple per call."""

    def fixed(_vectors: Tensor, _rounds_per_call: list[int]) -> dict[str, Tensor]:
        return {task: torch.log(sums_of(five, classes)) for task, classes in TASKS.items()}

    monkeypatch.setattr(scorer.network, "classify_calls", fixed)


def sums_of(five: tuple[tuple[float, ...], ...], classes: tuple[str, ...]) -> Tensor:
    return torch.tensor([[sum(row[INTENTS.index(each)] for each in letters) for letters in classes] for row in five])


@pytest.fixture
def fails_on_marked(monkeypatch: pytest.MonkeyPatch, scorer: Scorer) -> Scorer:
    """Make a scorer whose network raises, as PyTorch does, when it encodes a marked round."""
    encode: Encode = scorer.network.embed_rounds

    def encode_or_fail(waveforms: Tensor, *rest: Tensor, padded: bool) -> tuple[Tensor, ...]:
        if (waveforms == 1.0).any():
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore of it")
        return encode(waveforms, *rest, padded=padded)

    monkeypatch.setattr(scorer.network, "embed_rounds", encode_or_fail)
    return scorer


def with_a_marked_call() -> pa.Table:
    """Make three calls, the second one with a mark in its only round."""
    marked = CALLS[1][0][0].copy()
    marked[7] = MARK
    return batch_of(ready(CALLS[0], 0), ready([(marked, [CLS, 7, SEP])], 1), ready(CALLS[2], 2))


# ---- probabilities


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


# ---- lead score


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


# ---- calibration


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


# ---- evidence


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


def test_a_call_of_one_round_has_no_evidence_and_a_reject_has_null(scorer: Scorer) -> None:
    one, reject = score(scorer, batch_of(ready(CALLS[1]), rejected(1)))
    assert (one["evidence"], reject["evidence"], reject["prediction_set"]) == ([], None, None)


def test_without_evidence_the_column_is_null_and_the_score_the_same(scorer: Scorer, without_evidence: Scorer) -> None:
    for row, expected in zip(score(without_evidence, three_calls()), score(scorer, three_calls()), strict=True):
        assert row["evidence"] is None
        assert row["lead_score"] == pytest.approx(expected["lead_score"], abs=1e-3)


# ---- rows


def test_a_reject_of_the_preparation_keeps_its_reason(scorer: Scorer) -> None:
    first, row, last = score(scorer, batch_of(ready(CALLS[0], 0), rejected(1), ready(CALLS[1], 2)))
    verdict = row["status"], row["error_code"], row["error_detail"]
    assert verdict == ("rejected", "audio_empty", "the file has no bytes")
    assert [row[name] for name in (*TASKS, "intent_predicted", "lead_score", "duration_sec", "tags")] == [None] * 8
    assert [first["status"], last["status"]] == ["scored", "scored"]


def test_rejects_between_calls_do_not_shift_the_scores(scorer: Scorer) -> None:
    rows = score(scorer, batch_of(rejected(), ready(CALLS[0]), rejected(), rejected(), ready(CALLS[1])))
    expected = score(scorer, batch_of(ready(CALLS[0]), ready(CALLS[1])))
    assert [row["status"] for row in rows] == ["rejected", "scored", "rejected", "rejected", "scored"]
    assert probabilities_of(rows[1]) == pytest.approx(probabilities_of(expected[0]), abs=1e-5)
    assert probabilities_of(rows[4]) == pytest.approx(probabilities_of(expected[1]), abs=1e-5)


def test_a_scored_call_has_no_error_and_its_lineage_is_left_to_the_graph(scorer: Scorer) -> None:
    [row] = score(scorer, batch_of(ready(CALLS[1])))
    assert (row["status"], row["error_code"], row["error_detail"]) == ("scored", None, None)
    assert [row[name] for name in LINEAGE.names] == [None] * 3


def test_the_columns_of_earlier_stages_are_unchanged(scorer: Scorer) -> None:
    batch = batch_of(ready(CALLS[0], 4), rejected(5), ready(CALLS[2], 6))
    kept = ["row_id", "call_id", "tags", "duration_sec", "num_rounds", "rounds"]
    assert scorer.score_batch(batch, SCHEMA).select(kept).equals(batch.select(kept))


def test_the_result_has_the_given_schema_without_the_inputs(scorer: Scorer) -> None:
    scored = scorer.score_batch(batch_of(ready(CALLS[0]), rejected()), SCHEMA)
    assert scored.schema == SCHEMA
    assert scored.schema.names == ["row_id", "call_id", "tags", *OUTCOME.names]
    scored.validate(full=True)


@pytest.mark.parametrize("batch", [PREPARED_CALLS.empty_table(), batch_of(rejected()).slice(0, 0)])
def test_a_batch_without_rows_has_the_schema(batch: pa.Table, scorer: Scorer) -> None:
    scored = scorer.score_batch(batch, SCHEMA)
    assert (scored.num_rows, scored.schema) == (0, SCHEMA)


def test_a_batch_of_rejects_does_not_reach_the_network(fails_on_marked: Scorer) -> None:
    rows = score(fails_on_marked, batch_of(rejected(0), rejected(1)))
    assert [(row["row_id"], row["error_code"]) for row in rows] == [(0, "audio_empty"), (1, "audio_empty")]


def test_a_slice_of_a_batch_is_scored_like_its_rows(scorer: Scorer) -> None:
    batch = batch_of(rejected(9), ready(CALLS[0]), ready(CALLS[1]), ready(CALLS[2]))
    rows = score(scorer, batch.slice(2, 2))
    for row, expected in zip(rows, score(scorer, three_calls())[1:], strict=True):
        assert probabilities_of(row) == pytest.approx(probabilities_of(expected), abs=1e-5)


def test_a_batch_in_several_chunks_is_scored_like_one(scorer: Scorer) -> None:
    batch = three_calls()
    rows = score(scorer, pa.concat_tables([batch.slice(0, 1), batch.slice(1)]))
    for row, expected in zip(rows, score(scorer, batch), strict=True):
        assert probabilities_of(row) == pytest.approx(probabilities_of(expected), abs=1e-5)


# ---- failures


def test_only_the_call_on_which_the_network_fails_is_rejected(fails_on_marked: Scorer, make_scorer: MakeScorer) -> None:
    batch = with_a_marked_call()
    rows, undisturbed = score(fails_on_marked, batch), score(make_scorer(), batch)
    assert [row["status"] for row in rows] == ["scored", "rejected", "scored"]
    assert probabilities_of(rows[0]) == pytest.approx(probabilities_of(undisturbed[0]), abs=1e-5)
    assert probabilities_of(rows[2]) == pytest.approx(probabilities_of(undisturbed[2]), abs=1e-5)


def test_the_error_of_the_network_is_recorded_in_one_line(fails_on_marked: Scorer) -> None:
    _, row, _ = score(fails_on_marked, with_a_marked_call())
    assert row["error_code"] == "scoring_failed"
    assert row["error_detail"] == "RuntimeError in the network: CUDA out of memory. Tried to allocate 2 GiB"
    assert [row[name] for name in (*TASKS, "intent_predicted", "lead_score")] == [None] * 6
    assert (row["duration_sec"], row["num_rounds"]) == (7.5, 1)


def test_a_failing_batch_is_logged_with_its_size(fails_on_marked: Scorer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        score(fails_on_marked, with_a_marked_call())
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "a batch of 3 calls could not be scored" in caplog.records[0].getMessage()


@pytest.mark.parametrize("samples_per_batch", [1, 100 * ROUND_SAMPLES])
def test_the_memory_of_a_failed_batch_is_freed_before_its_calls_are_retried(
    samples_per_batch: int,
    make_scorer: MakeScorer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    scorer = make_scorer(samples_per_batch=samples_per_batch)
    encode: Encode = scorer.network.embed_rounds
    held: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def fail_at_first(waveforms: Tensor, *rest: Tensor, padded: bool) -> tuple[Tensor, ...]:
        if caplog.records:  # the warning that the calls are retried
            alive.extend(reference() is not None for reference in held)
        if not held:
            activations = waveforms.clone()
            held.append(weakref.ref(activations))
            raise RuntimeError("CUDA out of memory")
        return encode(waveforms, *rest, padded=padded)

    monkeypatch.setattr(scorer.network, "embed_rounds", fail_at_first)
    assert [row["status"] for row in score(scorer, three_calls())] == ["scored"] * 3
    assert alive == [False] * len(alive) != []


def test_a_nan_weight_rejects_the_calls(scorer: Scorer) -> None:
    with torch.no_grad():
        next(scorer.network.heads.heads["three"].parameters())[0, 0] = torch.nan
    rows = score(scorer, three_calls())
    assert [(row["status"], row["error_code"]) for row in rows] == [("rejected", "scoring_failed")] * 3
    assert [row[name] for row in rows for name in (*TASKS, "lead_score")] == [None] * 15


def test_a_nan_result_rejects_only_its_call(without_evidence: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    certain = (1.0, 0.0, 0.0, 0.0, 0.0)
    fix_probabilities(monkeypatch, without_evidence, certain, (torch.nan,) * 5, certain)
    rows = score(without_evidence, three_calls())
    assert [row["status"] for row in rows] == ["scored", "rejected", "scored"]
    assert rows[1]["error_detail"] == "the network's result is not a number"
    assert [rows[0]["lead_score"], rows[2]["lead_score"]] == [100.0, 100.0]


def test_the_network_is_put_in_evaluation_mode(tiny_network: Callable[..., MsmtFn]) -> None:
    network = tiny_network()
    network.train()
    scorer = Scorer(network, ScorerConfig(device="cpu"))
    assert score(scorer, three_calls())[0]["five"] == score(scorer, three_calls())[0]["five"]


def test_a_budget_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="samples_per_batch is -1"):
        ScorerConfig(samples_per_batch=-1)


@pytest.mark.parametrize("options", [{}, {"device": "cuda"}, {"device": "cpu", "encoding": "padded"}])
def test_int8_is_refused_except_for_unpadded_encoding_on_a_cpu(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="int8 needs device cpu and encoding unpadded"):
        ScorerConfig(precision="int8", **options)


@pytest.mark.parametrize("has_bf16", [False, True])
@pytest.mark.skipif(not int8_matmul_is_exact(), reason="the CPU has no VNNI")
def test_int8_gives_nearly_the_probabilities_of_fp32(
    make_scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch, *, has_bf16: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16})
    quantised = score(make_scorer(precision="int8"), three_calls())
    for row, expected in zip(quantised, score(make_scorer(), three_calls()), strict=True):
        assert probabilities_of(row) != probabilities_of(expected)
        assert probabilities_of(row) == pytest.approx(probabilities_of(expected), abs=0.02)


@pytest.mark.parametrize(("precision", "has_bf16"), [("bf16", False), ("bf16", True), ("fp32", False), ("auto", False)])
def test_bf16_on_a_cpu_without_bf16_instructions_logs_a_warning(
    precision: str,
    make_scorer: MakeScorer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    has_bf16: bool,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": has_bf16})
    make_scorer(precision=precision)
    warnings = [record.getMessage() for record in caplog.records if "no instructions for bf16" in record.getMessage()]
    assert len(warnings) == (precision == "bf16" and not has_bf16)


ENCODINGS: tuple[Literal["padded"], Literal["unpadded"]] = ("padded", "unpadded")


def test_both_encodings_give_the_same_probabilities(tiny_network: Callable[..., MsmtFn]) -> None:
    rng = np.random.default_rng(0)
    calls = [
        CallRounds(
            samples=[rng.integers(-3000, 3000, length).astype(np.int16) for length in (9000, 350, 16_000)],
            tokens=[np.array([2, 5, 6, 3], np.int32), np.array([], np.int32), np.array([2, 9, 3], np.int32)],
        )
    ]
    results = [Scorer(tiny_network(), ScorerConfig(encoding=encoding)).probabilities(calls) for encoding in ENCODINGS]
    for task, expected in results[0].items():
        np.testing.assert_allclose(results[1][task], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.long
def test_bf16_predicts_the_same_intents_as_fp32_for_synthetic_speech(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    model = load_model(demo_model())
    root = write_demo_day(tmp_path, dt.date(2026, 1, 5), num_calls=12)
    preparer = Preparer(PrepareConfig(), model.processor, str(root))
    rows = pa.Table.from_batches(iter_calls(open_manifest(str(root), dt.date(2026, 1, 5))))
    prepared = preparer.prepare_batch(rows, ["row_id"])
    calls = list(split_calls(prepared.filter(pc.is_null(prepared["status"]))))
    full, half = (
        Scorer(copy.deepcopy(model.network), ScorerConfig(device="cpu", precision=precision)).probabilities(calls)
        for precision in ("fp32", "bf16")
    )
    assert len(calls) == 11
    assert (full["five"].argmax(axis=1) == half["five"].argmax(axis=1)).all()
    differences = [np.abs(full[task] - half[task]).max() for task in TASKS]
    assert 0 < max(differences) < 0.02


def test_a_gpu_failure_is_raised_and_rejects_no_call(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(scorer.network, "embed_rounds", fail)
    with pytest.raises(torch.AcceleratorError):
        score(scorer, three_calls())
