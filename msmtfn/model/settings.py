"""Settings of the networks: the fields of a configuration that a user chooses, with their types and what they mean."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, ClassVar, Final, get_origin

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from msmtfn.errors import UsageError
from msmtfn.model.config import CONFIGS, Architecture, NetworkConfig

ENCODERS: Final = {
    "audio_config": "audio_encoder",
    "text_config": "text_encoder",
    "frontend_config": "frontend_encoder",
}
"""Fields with the configuration of an encoder, and the fields that name the encoder."""

NOT_CHOSEN: Final = {*ENCODERS, "audio_encoder", "text_encoder", "is_trained"}
"""Fields that follow from the encoders, have options of their own, or that training sets."""

_ENTRY: Final = re.compile(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Setting:
    """Field of a configuration that a user chooses.

    Attributes:
        name: name of the field.
        kind: its type; `float` where the field also takes integers.
        meaning: its description.
    """

    name: str
    kind: Any
    meaning: str

    @property
    def option(self) -> str:
        """Option of the command line that sets the field."""
        return f"--network.{self.name.replace('_', '-')}"


def list_settings(config_class: type[NetworkConfig]) -> dict[str, Setting]:
    """Return the settings of a network by their names, those that all networks have first."""
    settings: dict[str, Setting] = {}
    for owner in (NetworkConfig, config_class):
        meanings = {name: " ".join(text.split()) for name, text in _ENTRY.findall(inspect.getdoc(owner) or "")}
        kinds: dict[str, Any] = inspect.get_annotations(owner)
        for name, kind in kinds.items():
            if name not in {*NOT_CHOSEN, *settings} and get_origin(kind) is not ClassVar:
                settings[name] = Setting(name, float if isinstance(kind, UnionType) else kind, meanings[name])
    return settings


SETTINGS_OF: Final = {architecture: list_settings(config_class) for architecture, config_class in CONFIGS.items()}
SETTINGS: Final = {name: setting for settings in SETTINGS_OF.values() for name, setting in settings.items()}
"""The settings of all networks; a network has those of `SETTINGS_OF` only."""


def settings_of(config: NetworkConfig) -> dict[str, Any]:
    """Return the values of a network's settings."""
    return {name: getattr(config, name) for name in list_settings(type(config))}


def check_names(chosen: Mapping[str, Any], architecture: Architecture = "msmtfn") -> None:
    """Check the names of settings.

    Raises:
        UsageError: the network has no such setting.
    """
    if unknown := sorted(set(chosen) - set(SETTINGS_OF[architecture])):
        names = ", ".join(SETTINGS_OF[architecture])
        raise UsageError(f"{CONFIGS[architecture].title} has no setting {unknown[0]!r}; it has {names}")


def make_config(
    fields: Mapping[str, Any], chosen: Mapping[str, Any], architecture: Architecture = "msmtfn"
) -> NetworkConfig:
    """Make the configuration of a new network.

    Args:
        fields: fields of the configuration.
        chosen: settings that replace them, by their names.
        architecture: the network.

    Raises:
        UsageError: a setting is out of range, or does not go with another or with the encoders.
    """
    check_names(chosen, architecture)
    try:
        return CONFIGS[architecture](**{**fields, **chosen})
    except (ValueError, StrictDataclassError) as exc:
        reason = " ".join(str(exc).split())
        options = ", ".join(f"{SETTINGS[name].option} {value}" for name, value in chosen.items())
        raise UsageError(f"{options} cannot be used: {reason}") from exc


def make_config_of_encoders(
    audio_encoder: str, text_encoder: str, chosen: Mapping[str, Any], architecture: Architecture = "msmtfn"
) -> NetworkConfig:
    """Make the configuration of a new network around pretrained encoders, of which only the configurations are read.

    Args:
        audio_encoder: folder or hub name of a HuBERT or wav2vec 2.0.
        text_encoder: folder or hub name of a BERT or RoBERTa.
        chosen: settings of the network; `frontend_encoder` names the wav2vec 2.0 of the frontend.
        architecture: the network.

    Raises:
        OSError: an encoder cannot be found or read.
        ValueError: an encoder's configuration cannot be understood.
        UsageError: a setting is out of range, or does not go with another or with the encoders.
    """
    check_names(chosen, architecture)
    frontend = chosen.get("frontend_encoder")
    if bool(frontend) != (chosen.get("audio_frontend", "encoder") == "wav2vec2"):
        raise UsageError(
            f"{SETTINGS['audio_frontend'].option} wav2vec2 and {SETTINGS['frontend_encoder'].option} require each other"
        )
    names = {"audio_encoder": audio_encoder, "text_encoder": text_encoder}
    encoders = names | ({"frontend_encoder": frontend} if frontend else {})
    configs = {
        field: AutoConfig.from_pretrained(encoders[name], trust_remote_code=False)
        for field, name in ENCODERS.items()
        if name in encoders
    }
    return make_config({**names, **configs}, chosen, architecture)
