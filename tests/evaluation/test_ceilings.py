from __future__ import annotations

import json
from pathlib import Path

import pytest

from msmtfn.errors import TrainingDataError
from msmtfn.evaluation.ceilings import read_ceilings, read_split_ceilings


def test_ceilings_are_read_if_there_are_any(tmp_path: Path) -> None:
    assert read_ceilings(str(tmp_path)) is None
    accuracies = {task: {"text": 0.75, "audio": 0.5, "both": 1.0} for task in ("five", "four", "three", "two")}
    content = {"best_possible": accuracies, "best_reader_of": {"test": accuracies}}
    (tmp_path / "ceilings.json").write_text(json.dumps(content))
    assert read_ceilings(str(tmp_path)) == content
    of_test = read_split_ceilings(str(tmp_path), "test")
    assert of_test == {"best_possible": accuracies, "best_reader_of_split": accuracies}
    assert read_split_ceilings(str(tmp_path), "training") is None


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "[]",
        '{"best_possible": {}}',
        '{"best_possible": {"five": 1}, "best_reader_of": {}}',
        '{"best_possible": {}, "best_reader_of": null}',
    ],
)
def test_a_file_without_ceilings_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "ceilings.json").write_text(text)
    with pytest.raises(TrainingDataError, match=r"ceilings\.json does not hold the ceilings"):
        read_ceilings(str(tmp_path))
