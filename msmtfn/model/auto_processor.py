"""Registration of the processor with `AutoProcessor`, if that is imported before us (`compat.transformers`)."""

from __future__ import annotations

from transformers import AutoProcessor

from msmtfn.features.processor import CallProcessor
from msmtfn.model.config import CONFIGS

for config in CONFIGS.values():
    AutoProcessor.register(config, CallProcessor, exist_ok=True)
