"""Batches of prepared calls, made up, for the tests of the scorer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from torch import Tensor

from msmtfn.features.prepare import PREPARED
from msmtfn.inference.scorer import Scorer
from msmtfn.labels import INTENTS, TASKS
from msmtfn.leads.schema import parts_schema

PASSTHROUGH = [pa.field("call_id", pa.string()), pa.field("tags", pa.list_(pa.string()))]
SCHEMA = parts_schema(PASSTHROUGH)
PREPARED_CALLS = pa.schema([pa.field("row_id", pa.int64()), *PASSTHROUGH, *PREPARED])
ROUND_SAMPLES = 16_000  # max_round_samples of the tiny network
CLS, SEP = 2, 3
Rounds = list[tuple[npt.NDArray[np.int16], list[int]]]
MakeScorer = Callable[..., Scorer]
Encode = Callable[..., tuple[Tensor, ...]]


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
