"""MSMT-FN: rank yesterday's sales calls by how likely the customer is to buy.

The names below are the public API; everything else is private by convention. They are imported on first use, so that
`import msmtfn` and `msmtfn --help` take no time. After it, transformers' `AutoConfig`, `AutoModel` and `AutoProcessor`
know the model.

Example:
    >>> from msmtfn import CallClassifier
    >>> CallClassifier.from_pretrained("demo").score_file("call.wav").lead_score
    58.3
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

from msmtfn.compat.transformers import register_lazily

__version__ = "0.2.0"

if TYPE_CHECKING:
    from msmtfn.calls.rounds import Turn
    from msmtfn.daily.success import Success
    from msmtfn.evaluation.evaluate import EvaluationReport, evaluate
    from msmtfn.features.processor import CallProcessor
    from msmtfn.inference.classifier import CallClassifier, CallScore, load_model
    from msmtfn.model.config import MsmtFnConfig
    from msmtfn.model.network import MsmtFn
    from msmtfn.scoring.day import score_day
    from msmtfn.scoring.graph import ScoringConfig
    from msmtfn.training.job import TrainingResult, train
    from msmtfn.training.trainer import TrainingConfig
    from msmtfn.transcription.day import transcribe_day
    from msmtfn.transcription.graph import TranscriptionConfig

__all__ = [
    "CallClassifier",
    "CallProcessor",
    "CallScore",
    "EvaluationReport",
    "MsmtFn",
    "MsmtFnConfig",
    "ScoringConfig",
    "Success",
    "TrainingConfig",
    "TrainingResult",
    "TranscriptionConfig",
    "Turn",
    "__version__",
    "evaluate",
    "load_model",
    "score_day",
    "train",
    "transcribe_day",
]

_MODULES: Final = {
    "CallClassifier": "msmtfn.inference.classifier",
    "CallProcessor": "msmtfn.features.processor",
    "CallScore": "msmtfn.inference.classifier",
    "EvaluationReport": "msmtfn.evaluation.evaluate",
    "MsmtFn": "msmtfn.model.network",
    "MsmtFnConfig": "msmtfn.model.config",
    "ScoringConfig": "msmtfn.scoring.graph",
    "Success": "msmtfn.daily.success",
    "TrainingConfig": "msmtfn.training.trainer",
    "TrainingResult": "msmtfn.training.job",
    "TranscriptionConfig": "msmtfn.transcription.graph",
    "Turn": "msmtfn.calls.rounds",
    "evaluate": "msmtfn.evaluation.evaluate",
    "load_model": "msmtfn.inference.classifier",
    "score_day": "msmtfn.scoring.day",
    "train": "msmtfn.training.job",
    "transcribe_day": "msmtfn.transcription.day",
}


if not TYPE_CHECKING:  # for a type checker a name that is not there is an error

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first used (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_MODULES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__


register_lazily()
