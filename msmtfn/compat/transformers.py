"""Registration with transformers' auto classes, without importing transformers.

`import msmtfn` takes milliseconds; transformers takes seconds, since it imports PyTorch. So our modules that register
themselves are imported right after the modules that hold the auto classes, whenever these are imported.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader  # importing it at run time would take as long as all the rest
    from importlib.machinery import ModuleSpec
    from types import ModuleType

REGISTERING: Final = {
    "transformers.models.auto.configuration_auto": "msmtfn.model.config",
    "transformers.models.auto.modeling_auto": "msmtfn.model.architectures",
    "transformers.models.auto.processing_auto": "msmtfn.model.auto_processor",
}
"""For each module that holds an auto class, our module that registers itself there when it is imported."""


def register_lazily() -> None:
    """Register our classes with those auto classes that are imported already, and with the others once they are."""
    if not any(isinstance(finder, _AutoClassFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoClassFinder())
    for theirs, ours in REGISTERING.items():
        if theirs in sys.modules:
            importlib.import_module(ours)


class _AutoClassFinder:
    """Finder of the modules that hold the auto classes; it leaves finding them to Python's own finder."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec with a loader that also imports our module; None for all other modules."""
        if fullname not in REGISTERING:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _RegisteringLoader(spec.loader))
        return spec


class _RegisteringLoader:
    """Loader that imports our module after theirs."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, which keeps its own loader, then import ours.

        If it is our module that imports theirs, our import returns at once, and our module registers itself at its end.
        """
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        importlib.import_module(REGISTERING[module.__name__])
