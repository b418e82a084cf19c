"""The calibration in a model's folder, `calibration.json`: how far the network's probabilities can be trusted.

It is fitted on labelled calls that the network has not learned from (`evaluation/calibrate.py`), and applied to every
call that is scored (`inference/calibration.py`). A folder without the file is scored with the defaults below.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from msmtfn import storage
from msmtfn.errors import ModelError
from msmtfn.labels import TASKS
from msmtfn.storage.fields import read_field, read_optional, read_values
from msmtfn.storage.untrusted import printable, read_object

CALIBRATION_FILE: Final = "calibration.json"
FORMAT_VERSION: Final = 1
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.05, 20.0
COVERAGE: Final = 0.9
"""Share of the calls whose intent is to be in their prediction set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationFigures:
    """Figures of the four tasks on the calls that a calibration was fitted on, by task.

    Attributes:
        calibration_error: expected calibration error.
        log_loss: mean of minus the logarithm of the true class's probability.
    """

    calibration_error: Mapping[str, float]
    log_loss: Mapping[str, float]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CalibrationFigures:
        """Read the figures.

        Raises:
            ValueError: a field or a task is missing or of another type.
        """
        errors, losses = (read_values(content, name, float) for name in ("calibration_error", "log_loss"))
        for name, values in (("calibration_error", errors), ("log_loss", losses)):
            if set(values) != set(TASKS):
                raise ValueError(f"the field {name!r} does not have the tasks {', '.join(TASKS)}")
        return cls(calibration_error=errors, log_loss=losses)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Conversion of the probabilities of the four heads into those of a lead.

    The defaults are those of a model that was never calibrated.
    """

    temperature: float = 1.0
    """Divisor of the log probabilities of the five intents: above 1 for a network that is too sure of itself."""
    set_threshold: float = COVERAGE
    """An intent is in the prediction set if all more likely ones together have at most this probability."""
    calls: int = 0
    """Number of calls that it was fitted on; 0 if it was not fitted."""
    before: CalibrationFigures | None = None
    """The figures of the four heads as they are; None if it was not fitted."""
    after: CalibrationFigures | None = None
    """The figures of the calibrated probabilities; None if it was not fitted."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: one is out of range.
        """
        if not MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(
                f"temperature is {self.temperature}; it must be between {MIN_TEMPERATURE} and {MAX_TEMPERATURE:g}"
            )
        if not 0 <= self.set_threshold <= 1:
            raise ValueError(f"set_threshold is {self.set_threshold}; it must be between 0 and 1")

    def as_json(self) -> dict[str, Any]:
        """Return the content of `calibration.json`."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Calibration:
        """Read the content of `calibration.json`.

        Raises:
            ValueError: a field is missing, of another type or out of range, or the format is of a newer version.
        """
        version = read_field(content, "format_version", int)
        if version != FORMAT_VERSION:
            raise ValueError(f"its format_version is {version}, and this version of msmtfn reads {FORMAT_VERSION}")
        return cls(
            temperature=read_field(content, "temperature", float),
            set_threshold=read_field(content, "set_threshold", float),
            calls=read_field(content, "calls", int),
            before=_read_figures(content, "before"),
            after=_read_figures(content, "after"),
        )


def _read_figures(content: Mapping[str, Any], name: str) -> CalibrationFigures | None:
    figures = read_optional(content, name, dict)
    return None if figures is None else CalibrationFigures.from_json(figures)


def read_calibration(folder: Path) -> Calibration:
    """Read the calibration in a model's folder; the defaults if there is none.

    Raises:
        ModelError: it cannot be read or understood.
    """
    path = folder / CALIBRATION_FILE
    if not path.exists():
        return Calibration()
    try:
        return Calibration.from_json(read_object(path))
    except (OSError, ValueError) as exc:
        raise ModelError(
            f"{path} cannot be understood ({printable(exc, 300)}); copy it again, or remove it and calibrate the model"
        ) from exc


def write_calibration(calibration: Calibration, folder: Path) -> None:
    """Write a calibration to a model's folder."""
    text = json.dumps(calibration.as_json(), indent=2) + "\n"
    storage.write_text(str(folder.absolute() / CALIBRATION_FILE), text)
