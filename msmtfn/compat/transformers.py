"""Our classes in the tables of transformers' auto classes, without importing transformers.

`import msmtfn` takes milliseconds; transformers takes seconds, and its base class of all models as long again, which
processes that only prepare calls never need. So the tables get our classes as they have transformers' own: by name,
right after the module that holds a table is imported, and the class is imported when it is looked up.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader  # importing it at run time would take as long as all the rest

MODEL_TYPE: Final = "msmtfn"
"""Key of our classes in the tables, and `model_type` in a model's `config.json`."""

MODEL_MODULE: Final = f"transformers.models.{MODEL_TYPE}"
"""Name of the module in which transformers looks up the classes of this type."""


class _Entry(NamedTuple):
    """An entry in the table of an auto class.

    Attributes:
        table: name of the table in its module: class names by model type.
        name: name of our class.
        module: our module that has this class.
        registering: our module that registers the class when it is imported.
    """

    table: str
    name: str
    module: str
    registering: str


ENTRIES: Final = {
    "transformers.models.auto.configuration_auto": _Entry(
        "CONFIG_MAPPING_NAMES", "MsmtFnConfig", "msmtfn.model.config", "msmtfn.model.config"
    ),
    "transformers.models.auto.modeling_auto": _Entry(
        "MODEL_MAPPING_NAMES", "MsmtFn", "msmtfn.model.network", "msmtfn.model.network"
    ),
    "transformers.models.auto.processing_auto": _Entry(
        "PROCESSOR_MAPPING_NAMES", "CallProcessor", "msmtfn.features.processor", "msmtfn.model.auto_processor"
    ),
}
"""For each module that holds the table of an auto class, our entry in it."""


def register_lazily() -> None:
    """Register our classes with those auto classes that are imported already, and with the others once they are."""
    if not any(isinstance(finder, _AutoClassFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoClassFinder())
    for theirs, ours in ENTRIES.items():
        if theirs in sys.modules:  # made from the tables already, so names in them would come too late
            importlib.import_module(ours.registering)


class _AutoClassFinder:
    """Finder of the modules with the tables, which it leaves to Python's own finder, and of our `MODEL_MODULE`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec with a loader that also enters our class; None for all other modules."""
        if fullname == MODEL_MODULE:
            return ModuleSpec(fullname, cast("Loader", _ModelModuleLoader()))
        if fullname not in ENTRIES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _EnteringLoader(spec.loader))
        return spec


class _EnteringLoader:
    """Loader that enters our class into a module's table after the module's own loader is done."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, which keeps its own loader, then enter our class."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        entry = ENTRIES[module.__name__]
        getattr(module, entry.table)[MODEL_TYPE] = entry.name


class _ModelModuleLoader:
    """Loader of `MODEL_MODULE`, whose attributes are our classes, each imported when it is asked for."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002 - the protocol's argument
        """Leave it to Python to create the module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Let the module find our classes."""
        classes = {entry.name: entry.module for entry in ENTRIES.values()}

        def find(name: str) -> Any:
            if name not in classes:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return getattr(importlib.import_module(classes[name]), name)

        module.__getattr__ = find  # type: ignore[method-assign]
