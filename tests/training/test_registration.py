"""What becomes of a new model, with the figures of both made up; `test_two_weeks` has the real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from msmtfn.model.checkpoint import fetch_model, load_model, model_version
from msmtfn.model.registry import add_version, list_records, promote, read_current, write_decision
from msmtfn.scoring.prepare import PrepareConfig
from msmtfn.training import registration
from msmtfn.training.data import LabelledSplit
from msmtfn.training.gate import GateConfig
from msmtfn.training.registration import Registration, find_registered, register

NUM_CALLS = 40


class Judge:
    """Says for each folder of judged calls how many of them are named rightly."""

    def __init__(self, **right: int) -> None:
        self.right = right
        self.asked: list[str] = []

    def __call__(self, split: Any, model: Any, prepare: Any, folder: str) -> pa.Table:
        version = folder.rpartition("judged-")[2]
        self.asked.append(version)
        said = ["A"] * self.right[version] + ["C"] * (NUM_CALLS - self.right[version])
        rows = range(NUM_CALLS)
        return pa.table(
            {
                "row_id": list(rows),
                "intent": ["A"] * NUM_CALLS,
                "status": ["scored"] * NUM_CALLS,
                "intent_predicted": said,
            }
        )


def to(root: str, run: str) -> Registration:
    split = LabelledSplit("held out", pa.table({"row_id": [0]}), (), "")
    return Registration(root, run, f"{root}/_work/{run}", split, PrepareConfig(), GateConfig(), seed=0)


@pytest.fixture
def root(tmp_path: Path) -> str:
    return str(tmp_path / "models")


def test_a_better_model_becomes_current_and_a_worse_one_does_not(
    root: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(v0001=20, v0002=30, v0003=10)
    monkeypatch.setattr(registration, "judge_split", judge)
    records = [register(tiny_model, to(root, run)) for run in "abc"]
    assert [record["decision"]["passed"] for record in records] == [True, True, False]
    assert [record["decision"]["compared_with"] for record in records] == [None, "v0001", "v0002"]
    assert read_current(root) is not None
    assert read_current(root).version == "v0002"  # type: ignore[union-attr]
    assert judge.asked == ["v0001", "v0002", "v0001", "v0003", "v0002"]
    kept = list_records(root)[2]["decision"]
    assert (kept["candidate"], kept["present"], kept["metric"], kept["promoted"]) == (
        0.25,
        0.75,
        "accuracy_five",
        False,
    )
    assert kept["interval"][1] < 0
    assert model_version(fetch_model(f"{root}/current", tmp_path)) == model_version(tiny_model)
    load_model(Path(root) / "v0003")


def test_where_another_model_was_promoted_meanwhile_it_is_compared_with_that(
    root: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = Judge(v0001=10, v0002=30, v0003=20)
    monkeypatch.setattr(registration, "judge_split", judge)
    register(tiny_model, to(root, "a"))

    def judge_slowly(split: Any, model: Any, prepare: Any, folder: str) -> pa.Table:
        if folder.endswith("judged-v0001"):  # the other run is faster
            write_decision(root, {"version": "v0003", "run": "c"}, {"passed": True, "promoted": True})
            promote(root, "v0003")
        return judge(split, model, prepare, folder)

    other = add_version(root, "b"), add_version(root, "c")
    assert [record["version"] for record in other] == ["v0002", "v0003"]
    (Path(root) / "v0003").mkdir()
    for file in tiny_model.iterdir():
        (Path(root) / "v0003" / file.name).write_bytes(file.read_bytes())
    monkeypatch.setattr(registration, "judge_split", judge_slowly)
    record = register(tiny_model, to(root, "b"))
    assert record["decision"]["compared_with"] == "v0003"
    assert record["decision"]["present"] == 0.5
    assert read_current(root).before == ("v0001", "v0003")  # type: ignore[union-attr]


def test_a_run_that_is_registered_already_is_found_and_what_is_missing_is_done(root: str) -> None:
    assert find_registered(root, "a") is None
    record = add_version(root, "a")
    assert find_registered(root, "a") is None
    decision = {"passed": True, "promoted": False, "compared_with": None}
    write_decision(root, record, decision)  # and here it was killed
    found = find_registered(root, "a")
    assert found is not None
    assert found["decision"]["promoted"]
    assert read_current(root).version == "v0001"  # type: ignore[union-attr]


def test_a_model_that_was_gone_back_from_is_not_promoted_by_its_command_again(
    root: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registration, "judge_split", Judge(v0001=20, v0002=30))
    for run in "ab":
        register(tiny_model, to(root, run))
    promote(root, "v0001")
    assert find_registered(root, "b") is not None
    assert read_current(root).version == "v0001"  # type: ignore[union-attr]
