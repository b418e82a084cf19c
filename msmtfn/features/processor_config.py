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
from msmtfn.errors import ModelError
from msmtfn.storage.untrusted import parse_object

PROCESSOR_CLASS: Final = "CallProcessor"
"""Name by which transformers' `AutoProcessor` finds the class that reads the file."""


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
    max_text_tokens: int = 199
    """Maximum number of tokens in a round, special tokens included."""
    silence: Literal["keep", "remove"] = "keep"
    """Whether rounds keep their silence, or only the speech in them is encoded."""
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
            max_round_sec=float(self.max_round_sec), overlong_rounds=self.overlong_rounds, activity=self.activity
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
        known = {each.name: content[each.name] for each in fields(cls) if each.name in content}
        return cls(**(known | {"activity": ActivityConfig(**known.get("activity", {}))}))

    def with_options(self, activity: ActivityConfig) -> ProcessorConfig:
        """Return the same configuration with those options of the activity detector that differ from the defaults."""
        defaults = ActivityConfig()
        given = {each.name: getattr(activity, each.name) for each in fields(activity)}
        changed = {name: value for name, value in given.items() if value != getattr(defaults, name)}
        return replace(self, activity=replace(self.activity, **changed))


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
        ValueError: the file holds no JSON object, or one that is nested too deeply.
    """
    path = cached_file(name_or_folder, name, _raise_exceptions_for_missing_entries=False)
    return None if path is None else parse_object(Path(path).read_text(encoding="utf-8"))
