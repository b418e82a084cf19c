"""Registration of the networks with `AutoModel`, if that is imported before us (`compat.transformers`)."""

from __future__ import annotations

from transformers import AutoModel

from msmtfn.model.architectures import network_class
from msmtfn.model.config import CONFIGS

for model_type, config_class in CONFIGS.items():
    AutoModel.register(config_class, network_class(model_type), exist_ok=True)
