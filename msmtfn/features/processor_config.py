"""Settings of a model's processor: `processor_config.json`, or what stands for it in the folders of older versions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from transformers.utils import CONFIG_NAME, PROCESSOR_NAME
from transformers.utils.hub import cached_file

from msmtfn.calls.activity import ActivityConfig
from msmtfn.calls.rounds import RoundsConfig
from msmtfn.errors import ModelError, UsageError
from msmtfn.storage.untrusted import read_object

PROCESSOR_CLASS: Final = "CallProcessor"
"""Name by which transformers' `AutoProcessor` finds the class that reads the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActivityOptions:
    """Thresholds of the voice activity detector that replace a model's; None leaves the model's.

    The fields are those of `ActivityConfig`, whose defaults a model has unless it was trained with others.
    """

    frame_sec: float | None = None
    """Length in seconds of the frames whose level is measured; by default the model's (0.02)."""
    noise_percentile: float | None = None
    """Percentile of a channel's levels that is taken as its noise floor; by default the model's (10)."""
    min_noise_db: float | None = None
    """Level in dB below which a frame counts as inaudible; by default the model's (-65)."""
    open_db: float | None = None
    """A segment of speech needs a frame this many dB above the noise floor; by default the model's (12)."""
    close_db: float | None = None
    """A segment extends while its frames are this many dB above the noise floor; by default the model's (6)."""
    max_gap_sec: float | None = None
    """Segments of one channel at most this many seconds apart are joined; by default the model's (0.3)."""
    min_segment_sec: float | None = None
    """Segments shorter than this many seconds are dropped; by default the model's (0.2)."""
    crosstalk_db: float | None = None
    """A frame this many dB below the other channel is crosstalk, inf keeps every frame; by default the model's (20)."""
    crosstalk_tail_sec: float | None = None
    """Seconds for which crosstalk is expected after a sound on the other channel; by default the model's (0.2)."""

    def given(self) -> dict[str, float]:
        """Return the options that were given."""
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessorConfig:
    """Settings of a processor besides its tokenizer; stored as `processor_config.json`.

    All fields but `activity` are those of the network's `config.json`.
    """

    encoder_sample_rate: int = 8000
    """Sample rate of the audio encoder's input in Hz."""
    max_round_sec: float = 40.0
    """Maximum length of a round in seconds."""
    overlong_rounds: Literal["truncate", "split"] = "truncate"
    """Treatment of longer rounds: truncate drops the excess audio, split makes further rounds of it."""
    round_unit: Literal["exchange", "turn"] = "exchange"
    """What a round is: an exchange of agent and customer, or a turn, whoever speaks."""
    max_text_tokens: int = 199
    """Maximum number of tokens in a round, special tokens included."""
    silence: Literal["keep", "remove"] = "keep"
    """Whether rounds keep their silence, or only the speech in them is encoded."""
    outer_silence: Literal["keep", "drop"] = "keep"
    """Whether what precedes the first turn and follows the last is part of their rounds; a file that lacks the field
    was written for "drop"."""
    speakers: Literal["ignore", "mark"] = "ignore"
    """Whether the tokens of a round separate who speaks."""
    activity: ActivityConfig = field(default_factory=ActivityConfig)
    """Detection of speech: in calls without turns, and for networks that remove silence."""

    @property
    def max_round_samples(self) -> int:
        """Maximum number of samples in a round: 320,000 for 40 s at 8 kHz."""
        return round(self.max_round_sec * self.encoder_sample_rate)

    @property
    def rounds(self) -> RoundsConfig:
        """Options of cutting a call into rounds."""
        return RoundsConfig(
            max_round_sec=float(self.max_round_sec),
            overlong_rounds=self.overlong_rounds,
            round_unit=self.round_unit,
            outer_silence=self.outer_silence,
            speakers=self.speakers,
            activity=self.activity,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `processor_config.json`."""
        return {"processor_class": PROCESSOR_CLASS, **asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> ProcessorConfig:
        """Read the content of `processor_config.json`, or of the `config.json` of a folder that lacks it.

        Raises:
            ValueError: a value of the activity detector is out of range.
            TypeError: the activity detector has an unknown field.
        """
        content = {"outer_silence": "drop"} | dict(content)
        known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        return cls(**(known | {"activity": ActivityConfig(**known.get("activity", {}))}))

    def with_options(self, activity: ActivityOptions) -> ProcessorConfig:
        """Return the same configuration with the options of the activity detector that were given.

        Raises:
            UsageError: an option is out of range, or does not go with a threshold of the model.
        """
        given = activity.given()
        try:
            return replace(self, activity=replace(self.activity, **given))
        except ValueError as exc:
            options = ", ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in given.items())
            raise UsageError(f"{options} cannot be used with this model's other thresholds of speech: {exc}") from exc


def read_processor_config(
    name_or_folder: str | os.PathLike[str], files: Sequence[str] = (PROCESSOR_NAME, CONFIG_NAME)
) -> ProcessorConfig:
    """Read the settings of a model's processor from the first of some files that is there.

    Args:
        name_or_folder: a model's folder, or a name on the Hugging Face hub.
        files: names of the files; by default `processor_config.json`, or `config.json` if it is missing.

    Raises:
        ModelError: none of the files is there, or its content cannot be understood.
    """
    for name in files:
        try:
            content = read_json(name_or_folder, name)
            if content is not None:
                return ProcessorConfig.from_dict(content)
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            raise ModelError(f"{name} of {name_or_folder} cannot be read: {exc}") from exc
    raise ModelError(f"{name_or_folder} has neither {' nor '.join(files)}; give the folder of a model")


def read_json(name_or_folder: str | os.PathLike[str], name: str) -> dict[str, Any] | None:
    """Read a JSON object of a folder or of a model on the hub; None if the file is missing.

    Raises:
        OSError: there is no such folder or model.
        ValueError: the file holds no JSON object, or one that is nested too deeply, or is too large.
    """
    path = cached_file(name_or_folder, name, _raise_exceptions_for_missing_entries=False)
    return None if path is None else read_object(Path(path))
