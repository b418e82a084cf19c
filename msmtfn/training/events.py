"""The events of a training run, from its workers to whoever shows its progress.

`EpochDone` holds the figures of an epoch as well: they are kept in the run's checkpoints and, one JSON object a line,
in `epochs.jsonl`. Both are read back here, those of earlier versions included.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from msmtfn.errors import TrainingError
from msmtfn.labels import TASKS
from msmtfn.storage.fields import read_field
from msmtfn.storage.untrusted import parse_object


@dataclass(frozen=True, slots=True)
class TrainingStarted:
    """The workers have started, for the first time or after a failure.

    Attributes:
        first_epoch: number of the epoch that they begin with; above 0 where the run resumes.
        num_workers: number of workers.
    """

    first_epoch: int
    num_workers: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """A step of the optimizer.

    Attributes:
        epoch: number of the epoch, from 0.
        step: number of the step in its epoch, from 1.
        num_steps: steps per epoch.
        loss: mean loss of the calls of the epoch so far.
        rounds_per_sec: training throughput in the epoch so far, estimated for all workers.
    """

    epoch: int
    step: int
    num_steps: int
    loss: float
    rounds_per_sec: float


@dataclass(frozen=True, slots=True)
class EpochDone:
    """The figures of a finished epoch.

    Attributes:
        epoch: number of the epoch, from 0.
        training_loss: mean loss of the training calls, with dropout and augmentation.
        validation_loss: mean loss of the validation calls.
        accuracy: accuracy on the validation calls, by task.
        rounds_per_sec: training throughput of all workers.
        seconds: duration of training and validation.
        is_best: True if the validation loss is lower than in every earlier epoch.
    """

    epoch: int
    training_loss: float
    validation_loss: float
    accuracy: dict[str, float]
    rounds_per_sec: float
    seconds: float
    is_best: bool

    def as_row(self) -> dict[str, Any]:
        """Return the figures as a flat row, as in a line of `epochs.jsonl`."""
        row = asdict(self)
        accuracy = row.pop("accuracy")
        return row | {f"accuracy_{task}": value for task, value in accuracy.items()}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> EpochDone:
        """Read the figures from a flat row.

        Raises:
            ValueError: a field is missing or has the wrong type; the message names it.
        """
        accuracy = {task: read_field(row, f"accuracy_{task}", float) for task in TASKS}
        return cls.from_fields({**row, "accuracy": accuracy})

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> EpochDone:
        """Read the figures from a mapping of the dataclass's fields, as checkpoints have them; others are ignored.

        Raises:
            ValueError: a field is missing or has the wrong type; the message names it.
        """
        return cls(
            epoch=read_field(fields, "epoch", int),
            training_loss=read_field(fields, "training_loss", float),
            validation_loss=read_field(fields, "validation_loss", float),
            accuracy=read_field(fields, "accuracy", dict),
            rounds_per_sec=read_field(fields, "rounds_per_sec", float),
            seconds=read_field(fields, "seconds", float),
            is_best=read_field(fields, "is_best", bool),
        )


TrainingEvent = TrainingStarted | StepDone | EpochDone
Report = Callable[[TrainingEvent], None]


def format_epochs(epochs: Iterable[EpochDone]) -> str:
    """Return the content of `epochs.jsonl`."""
    return "".join(json.dumps(each.as_row()) + "\n" for each in epochs)


def parse_epochs(content: str, path: str) -> list[EpochDone]:
    """Parse the content of `epochs.jsonl`.

    Args:
        content: one JSON object per line.
        path: the file, for the error message.

    Raises:
        TrainingError: a line is not the row of an epoch; the message names the line and the field.
    """
    epochs = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            epochs.append(EpochDone.from_row(parse_object(line)))
        except ValueError as exc:
            raise TrainingError(f"line {number} of {path} does not describe an epoch ({exc}); train again") from exc
    return epochs
