"""Precisions and encodings of a scorer."""

from __future__ import annotations

import copy
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from msmtfn.calls.manifest import iter_calls, open_manifest
from msmtfn.corpora import demo_model
from msmtfn.corpora.demo import write_demo_day
from msmtfn.features.prepare import PrepareConfig, Preparer
from msmtfn.inference.scorer import CallRounds, Scorer, ScorerConfig, split_calls
from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import load_model
from msmtfn.model.network import MsmtFn
from msmtfn.model.runtime.int8 import int8_matmul_is_exact
from tests.inference.batches import (
    MakeScorer,
    probabilities_of,
    score,
    three_calls,
)


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
