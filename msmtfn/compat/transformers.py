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
    from collections.abc import Mapping, Sequence
    from importlib.abc import Loader  # importing it at run time would take as long as all the rest

NETWORKS: Final = {"msmtfn": "msmtfn.model.network:MsmtFn", "mmml": "msmtfn.model.mmml:Mmml"}
"""Module and name of the class of each network, by its `model_type` in `config.json`."""


class _Table(NamedTuple):
    """Table of an auto class.

    Attributes:
        name: name of the table in its module: class names by model type.
        classes: module and name of our classes, by model type.
        registering: our module that registers these classes when it is imported.
    """

    name: str
    classes: Mapping[str, str]
    registering: str


TABLES: Final = {
    "transformers.models.auto.configuration_auto": _Table(
        "CONFIG_MAPPING_NAMES",
        {"msmtfn": "msmtfn.model.config:MsmtFnConfig", "mmml": "msmtfn.model.config:MmmlConfig"},
        "msmtfn.model.config",
    ),
    "transformers.models.auto.modeling_auto": _Table("MODEL_MAPPING_NAMES", NETWORKS, "msmtfn.model.auto_model"),
    "transformers.models.auto.processing_auto": _Table(
        "PROCESSOR_MAPPING_NAMES",
        dict.fromkeys(NETWORKS, "msmtfn.features.processor:CallProcessor"),
        "msmtfn.model.auto_processor",
    ),
}
"""For each module that holds the table of an auto class, our entries in it."""

MODEL_MODULES: Final = {f"transformers.models.{model_type}": model_type for model_type in NETWORKS}
"""Names of the modules in which transformers looks up the classes of our types."""


def load_class(path: str) -> Any:
    """Return a class by its module and name, `module:name`; the module is imported."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def register_lazily() -> None:
    """Register our classes with those auto classes that are imported already, and with the others once they are."""
    if not any(isinstance(finder, _AutoClassFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AutoClassFinder())
    for theirs, ours in TABLES.items():
        if theirs in sys.modules:  # made from the tables already, so names in them would come too late
            importlib.import_module(ours.registering)


class _AutoClassFinder:
    """Finder of the modules with the tables, which it leaves to Python's own finder, and of `MODEL_MODULES`."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's spec with a loader that also enters our classes; None for all other modules."""
        if fullname in MODEL_MODULES:
            return ModuleSpec(fullname, cast("Loader", _ModelModuleLoader()))
        if fullname not in TABLES:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _EnteringLoader(spec.loader))
        return spec


class _EnteringLoader:
    """Loader that enters our classes into a module's table after the module's own loader is done."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Execute the module, which keeps its own loader, then enter our classes."""
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        table = TABLES[module.__name__]
        names = {model_type: path.partition(":")[2] for model_type, path in table.classes.items()}
        getattr(module, table.name).update(names)


class _ModelModuleLoader:
    """Loader of `MODEL_MODULES`, whose attributes are our classes, each imported when it is asked for."""

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:  # noqa: ARG002 - the protocol's argument
        """Leave it to Python to create the module."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Let the module find our classes."""
        model_type = MODEL_MODULES[module.__name__]
        paths = {(path := table.classes[model_type]).partition(":")[2]: path for table in TABLES.values()}

        def find(name: str) -> Any:
            if name not in paths:
                raise AttributeError(f"module {module.__name__!r} has no attribute {name!r}")
            return load_class(paths[name])

        module.__getattr__ = find  # type: ignore[method-assign]
