from __future__ import annotations

import json
from typing import Any

import pytest

from msmtfn.errors import TrainingError
from msmtfn.training.events import EpochDone, format_epochs, parse_epochs

ACCURACY = {"five": 0.5, "four": 0.6, "three": 0.7, "two": 0.8}
EPOCH = EpochDone(
    epoch=3,
    training_loss=1.25,
    validation_loss=1.5,
    accuracy=ACCURACY,
    rounds_per_sec=12.0,
    seconds=60.5,
    is_best=True,
)
LINE = (
    '{"epoch": 3, "training_loss": 1.25, "validation_loss": 1.5, "rounds_per_sec": 12.0, "seconds": 60.5, '
    '"is_best": true, "accuracy_five": 0.5, "accuracy_four": 0.6, "accuracy_three": 0.7, "accuracy_two": 0.8}\n'
)
"""A line of `epochs.jsonl` as earlier versions wrote it."""


def test_the_file_of_epochs_has_one_json_object_per_line() -> None:
    assert format_epochs([EPOCH, EPOCH]) == LINE + LINE


def test_a_file_of_an_earlier_version_is_read() -> None:
    assert parse_epochs(LINE, "epochs.jsonl") == [EPOCH]


def test_fields_of_another_version_are_ignored() -> None:
    assert EpochDone.from_row({**EPOCH.as_row(), "lr": 0.1}) == EPOCH


def test_the_epochs_of_a_checkpoint_are_read() -> None:
    fields = {
        "epoch": 3,
        "training_loss": 1.25,
        "validation_loss": 1.5,
        "accuracy": ACCURACY,
        "rounds_per_sec": 12.0,
        "seconds": 60.5,
        "is_best": True,
    }
    assert EpochDone.from_fields(fields) == EPOCH


@pytest.mark.parametrize("name", list(EPOCH.as_row()))
def test_a_missing_field_is_named_with_its_file_and_line(name: str) -> None:
    row = {key: value for key, value in EPOCH.as_row().items() if key != name}
    with pytest.raises(TrainingError, match=rf"line 2 of /m/epochs\.jsonl .*the field '{name}' is missing"):
        parse_epochs(LINE + json.dumps(row), "/m/epochs.jsonl")


@pytest.mark.parametrize(
    ("name", "value"), [("epoch", 1.5), ("epoch", True), ("seconds", "60"), ("is_best", 1), ("accuracy_two", None)]
)
def test_a_field_of_the_wrong_type_is_named_with_its_value(name: str, value: Any) -> None:
    with pytest.raises(TrainingError, match=f"the field '{name}' is {value!r}; it must be of type"):
        parse_epochs(json.dumps(EPOCH.as_row() | {name: value}), "epochs.jsonl")


@pytest.mark.parametrize("line", ["no json", "[]", "3", '"text"'])
def test_a_line_without_an_epoch_is_an_error(line: str) -> None:
    with pytest.raises(TrainingError, match="does not describe an epoch"):
        parse_epochs(line, "epochs.jsonl")
