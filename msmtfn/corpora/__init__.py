"""Corpora of calls: the simulated ones with known ceilings, the demo's day, its trained model and its recogniser."""

from importlib import resources
from pathlib import Path
from typing import Final

DEMO: Final = "demo"
"""Name of the model that comes with the package, and of the recogniser."""


def is_demo(name: str) -> bool:
    """Return True if a model's name means the one in the package; a model's folder of that name comes before it."""
    return name == DEMO and not Path(DEMO, "config.json").is_file()


def replace_demo(name: str) -> str:
    """Return the folder of the model in the package if a model's name means it, else the name as it is."""
    return str(demo_model()) if is_demo(name) else name


def demo_model() -> Path:
    """Return the folder of the trained model that comes with the package; its card says how it was made."""
    return Path(str(resources.files("msmtfn.corpora") / "demo_model"))


def replace_demo_recogniser(name: str) -> str:
    """Return the folder of the recogniser in the package if a recogniser's name means it, else the name as it is."""
    return str(demo_recogniser()) if is_demo(name) else name


def demo_recogniser() -> Path:
    """Return the folder of the recogniser that comes with the package; its card says how it was made."""
    return Path(str(resources.files("msmtfn.corpora") / "demo_recogniser"))
