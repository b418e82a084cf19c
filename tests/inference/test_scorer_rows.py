"""Rows that a scorer returns, and what becomes of calls that it cannot score."""

from __future__ import annotations

import logging
import weakref
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from msmtfn.inference.scorer import Scorer, ScorerConfig
from msmtfn.labels import TASKS
from msmtfn.leads.schema import LINEAGE, OUTCOME
from tests.inference.batches import (
    CALLS,
    CLS,
    PREPARED_CALLS,
    ROUND_SAMPLES,
    SCHEMA,
    SEP,
    Encode,
    MakeScorer,
    batch_of,
    fix_probabilities,
    probabilities_of,
    ready,
    score,
    three_calls,
)

MARK = 32_767
"""Value of a sample that makes the network fail on its call."""


def rejected(number: int = 0) -> dict[str, Any]:
    verdict = {"status": "rejected", "error_code": "audio_empty", "error_detail": "the file has no bytes"}
    empty: dict[str, list[int]] = {name: [] for name in ("samples", "round_samples", "tokens", "round_tokens")}
    return {"row_id": number, "call_id": f"call-{number}", "tags": None, **verdict, **empty}


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


def test_a_likely_refusal_gets_no_rank_and_the_threshold_is_an_option(
    make_scorer: MakeScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, expected in ((0.5, ["refused", None]), (0.75, [None, None]), (0.2, ["refused", "refused"])):
        scorer = make_scorer(max_refusal_probability=limit)
        fix_probabilities(monkeypatch, scorer, (0.1, 0.1, 0.1, 0.6, 0.1), (0.3, 0.2, 0.1, 0.3, 0.1))
        rows = score(scorer, batch_of(ready(CALLS[0], 0), ready(CALLS[1], 1)))
        assert [row["unranked_reason"] for row in rows] == expected


def test_what_the_preparation_found_comes_before_a_refusal(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    fix_probabilities(monkeypatch, scorer, (0.0, 0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0, 0.0))
    calls = [ready(CALLS[number], number) | {"unranked_reason": "do_not_call"} for number in range(2)]
    rows = score(scorer, batch_of(*calls))
    assert [(row["status"], row["unranked_reason"]) for row in rows] == [("scored", "do_not_call")] * 2


def test_a_rejected_call_has_no_reason_to_be_unranked(fails_on_marked: Scorer) -> None:
    marked = np.full(8000, MARK, np.int16)
    row = ready([(marked, [])]) | {"unranked_reason": "no_conversation"}
    [scored] = score(fails_on_marked, batch_of(row))
    assert (scored["error_code"], scored["unranked_reason"]) == ("scoring_failed", None)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_probability_out_of_range_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"max_refusal_probability is {value}; it must be between 0 and 1"):
        ScorerConfig(max_refusal_probability=value)


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
        next(scorer.network.get_submodule("heads.heads.three").parameters())[0, 0] = torch.nan
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


def test_a_gpu_failure_is_raised_and_rejects_no_call(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(scorer.network, "embed_rounds", fail)
    with pytest.raises(torch.AcceleratorError):
        score(scorer, three_calls())


def test_a_call_of_one_round_has_no_evidence_and_a_reject_has_null(scorer: Scorer) -> None:
    one, reject = score(scorer, batch_of(ready(CALLS[1]), rejected(1)))
    assert (one["evidence"], reject["evidence"], reject["prediction_set"]) == ([], None, None)
