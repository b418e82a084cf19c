from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from msmtfn import evaluate
from msmtfn.errors import UsageError
from msmtfn.features.prepare import PrepareConfig
from msmtfn.labels import TASKS
from msmtfn.model.checkpoint import model_version
from tests.integration.job import DATE, write_manifest

RATE = 8000


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    """Three labelled calls, the last without a recording."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        sf.write(tmp_path / "in" / f"{name}.wav", 0.1 * np.random.default_rng(0).standard_normal(RATE), RATE)
    rows = [{"call_id": name, "uri": f"{name}.wav", "intent": "A"} for name in ("a", "b", "gone")]
    return write_manifest(tmp_path / "in", rows)


def test_a_model_is_evaluated_without_a_command_line(tiny_model: Path, manifests: Path, tmp_path: Path) -> None:
    reported: list[tuple[Any, ...]] = []
    out = tmp_path / "out"
    result = evaluate(
        tiny_model, manifests=manifests, out=out, device="cpu", report=lambda *each: reported.append(each)
    )
    assert set(result.metrics) == set(TASKS)
    assert (result.evaluation.call_ids, result.evaluation.rejected) == (["a", "b"], {"audio_not_found": 1})
    assert reported == [("prepared", 3, 3), ("scored", 3, 3)]
    written = json.loads((out / "metrics.json").read_text())
    assert written == json.loads(json.dumps(result.to_dict()))
    assert (written["model_version"], written["dates"]) == (model_version(tiny_model), [str(DATE)])
    assert list(written) == [
        *("model", "model_version", "calls_from", "split", "dates", "shuffle", "seed", "labelled", "scored"),
        *("rejected", "intents", "tasks", "heads", "ceilings"),
    ]
    assert pq.read_table(out / "predictions.parquet").equals(result.evaluation.as_table())
    assert {path.suffix for path in out.iterdir()} == {".json", ".parquet", ".png"}


def test_nothing_is_written_without_a_folder(manifests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate("demo", manifests=manifests, first_date=DATE, device="cpu").model_version == "af2a0a15034f"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "give either --corpus or --manifests"),
        ({"corpus": "a", "manifests": "b"}, "give either --corpus or --manifests"),
        ({"corpus": "a", "last_date": dt.date(2026, 1, 1)}, "--from and --to"),
        ({"manifests": "a", "split": "test"}, "--split selects"),
        ({"manifests": "a", "seed": -1}, "--seed is -1"),
        ({"manifests": "a", "out": "a"}, "--out"),
        ({"manifests": "a", "out": "b/c", "prepare": PrepareConfig(allowed_prefixes=("b",))}, "--out"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        evaluate("demo", **arguments)
