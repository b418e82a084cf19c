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
from msmtfn.errors import TrainingDataError, UsageError
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
        *(
            "model",
            "model_version",
            "network",
            "about_rounds",
            "calls_from",
            "split",
            "dates",
            "shuffle",
            "seed",
            "labelled",
            "scored",
        ),
        *("rejected", "intents", "tasks", "heads", "ranking", "ceilings"),
    ]
    assert list(written["ranking"]) == ["model", "rules"]
    assert written["ranking"]["rules"]["precision_at"] == {"0.01": 1.0, "0.05": 1.0, "0.1": 1.0}
    assert pq.read_table(out / "predictions.parquet").equals(result.evaluation.as_table())
    assert {path.suffix for path in out.iterdir()} == {".json", ".parquet", ".png"}


def test_nothing_is_written_without_a_folder(manifests: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate("demo", manifests=manifests, first_date=DATE, device="cpu").model_version == "af2a0a15034f"
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_the_bag_of_words_is_not_judged_on_the_calls_that_it_learns_from(manifests: Path) -> None:
    pytest.importorskip("sklearn")
    with pytest.raises(TrainingDataError, match=r"3 recordings of .* are evaluated, too"):
        evaluate("demo", manifests=manifests, baseline_calls=manifests, device="cpu")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({}, "give either --corpus or --manifests"),
        ({"corpus": "a", "manifests": "b"}, "give either --corpus or --manifests"),
        ({"corpus": "a", "last_date": dt.date(2026, 1, 1)}, "--from and --to"),
        ({"manifests": "a", "split": "test"}, "--split selects"),
        ({"manifests": "a", "seed": -1}, "--seed is -1"),
        ({"manifests": "a", "shuffle": "both"}, "--shuffle is 'both'; it must be one of none, audio, text"),
        ({"manifests": "a", "out": "a"}, "--out"),
        ({"manifests": "a", "out": "b/c", "baseline_calls": "b"}, r"--out .* overlaps --baseline-calls"),
        ({"manifests": "a", "out": "b/c", "prepare": PrepareConfig(allowed_prefixes=("b",))}, "--out"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        evaluate("demo", **arguments)
