"""Registration of new models with made-up accuracies; `test_two_weeks` registers models that were really trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msmtfn.evaluation.evaluator import Evaluation
from msmtfn.evaluation.labelled import LabelledSplit
from msmtfn.features.prepare import PrepareConfig
from msmtfn.model.checkpoint import fetch_model, load_model, model_version
from msmtfn.model.location import Current, read_current
from msmtfn.registry import registration
from msmtfn.registry.records import Decision, GateConfig, VersionRecord
from msmtfn.registry.registration import Registration, find_registered, register_model
from msmtfn.registry.versions import add_version, list_records, promote, roll_back, write_decision

NUM_CALLS = 60


class MadeUpEvaluation:
    """Maker of models, and replacement for `evaluate_calls` that gives each a chosen number of correct calls."""

    def __init__(self, tiny_model: Path, folder: Path) -> None:
        self.tiny_model, self.folder = tiny_model, folder
        self.num_correct: dict[str, int] = {}
        self.asked: list[int] = []

    def make_model(self, num_correct: int) -> Path:
        folder = shutil.copytree(self.tiny_model, self.folder / f"model-{num_correct}")
        (folder / "about.json").write_text(json.dumps(num_correct))
        self.num_correct[model_version(folder)] = num_correct
        return folder

    def __call__(self, *_: Any, work: str) -> Evaluation:
        num_correct = self.num_correct[work.rpartition("held-out-")[2]]
        self.asked.append(num_correct)
        calls = {
            "row_id": list(range(NUM_CALLS)),
            "intent": ["A"] * NUM_CALLS,
            "status": ["scored"] * NUM_CALLS,
            "intent_predicted": ["A"] * num_correct + ["C"] * (NUM_CALLS - num_correct),
        }
        return Evaluation("", pa.table(calls))


def to(root: str, run: str) -> Registration:
    split = LabelledSplit("held out", pa.table({"row_id": [0]}), (), "")
    return Registration(root, run, f"{root}/_work/{run}", split, PrepareConfig(), GateConfig(), seed=0)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "models")


@pytest.fixture
def evaluate(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeUpEvaluation:
    evaluate = MadeUpEvaluation(tiny_model, tmp_path)
    monkeypatch.setattr(registration, "evaluate_calls", evaluate)
    return evaluate


def decision_of(record: VersionRecord | None) -> Decision:
    assert record is not None
    assert record.decision is not None
    return record.decision


def version_of(root: str) -> str:
    current = read_current(root)
    assert current is not None
    return current.version


def test_a_better_model_becomes_current_and_a_worse_one_does_not(
    root: str, evaluate: MadeUpEvaluation, tmp_path: Path
) -> None:
    folders = [evaluate.make_model(num_correct) for num_correct in (30, 45, 15)]
    records = [register_model(folder, to(root, folder.name)) for folder in folders]
    assert [decision_of(record).passed for record in records] == [True, True, False]
    assert [decision_of(record).compared_with for record in records] == [None, "v0001", "v0002"]
    assert version_of(root) == "v0002"
    assert evaluate.asked == [30, 45, 30, 15, 45]
    kept = decision_of(list_records(root)[2])
    assert (kept.candidate, kept.present, kept.promoted) == (0.25, 0.75, False)
    assert kept.metric == "accuracy_five"
    assert kept.interval is not None
    assert kept.interval[1] < 0
    assert model_version(fetch_model(f"{root}/current", tmp_path)) == model_version(folders[1])
    load_model(Path(root) / "v0003")


def test_a_model_is_compared_with_one_that_was_promoted_meanwhile(
    root: str, evaluate: MadeUpEvaluation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, slow, fast = (evaluate.make_model(num_correct) for num_correct in (15, 45, 30))
    register_model(first, to(root, "a"))

    def evaluate_slowly(*_: Any, work: str) -> Evaluation:
        evaluation = evaluate(work=work)
        if evaluate.asked == [15, 45, 15]:  # the other run is faster
            monkeypatch.setattr(registration, "evaluate_calls", evaluate)
            register_model(fast, to(root, "c"))
        return evaluation

    monkeypatch.setattr(registration, "evaluate_calls", evaluate_slowly)
    record = register_model(slow, to(root, "b"))
    assert (decision_of(record).compared_with, decision_of(record).present) == ("v0003", 0.5)
    assert read_current(root) == Current("v0002", ("v0001", "v0003"))


def decided(root: str, run: str, compared_with: str | None) -> str:
    """Add a version that passed, but whose run was killed before the promotion."""
    passed = Decision(
        passed=True, reason="", calls=60, candidate=0.75, config=GateConfig(), compared_with=compared_with
    )
    version = write_decision(root, add_version(root, run), passed).version
    (Path(root) / version).mkdir()
    (Path(root) / version / "config.json").write_text("{}")
    return version


def test_a_registered_run_is_found_and_its_missing_promotion_is_done(root: str) -> None:
    assert find_registered(root, "a") is None
    add_version(root, "a")
    assert find_registered(root, "a") is None
    decided(root, "b", None)
    assert decision_of(find_registered(root, "b")).promoted
    assert version_of(root) == "v0002"


def test_a_version_not_compared_with_the_current_one_is_promoted_by_hand_only(root: str) -> None:
    first, late = decided(root, "a", None), decided(root, "b", "v0001")
    other = decided(root, "c", "v0001")
    for version in (first, other):
        promote(root, version)
    assert not decision_of(find_registered(root, "b")).promoted
    assert version_of(root) == other
    assert promote(root, late).version == late


def test_a_version_that_was_rolled_back_is_not_promoted_again_by_its_command(root: str) -> None:
    for version in (decided(root, "a", None), decided(root, "b", "v0001")):
        promote(root, version)
    roll_back(root)
    assert find_registered(root, "b") is not None
    assert version_of(root) == "v0001"
