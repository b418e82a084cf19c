"""Corpora of calls: the simulated ones with known ceilings, the demo's day, and the demo's trained model."""

from importlib import resources
from pathlib import Path


def demo_model() -> Path:
    """Return the folder of the trained model that comes with the package; its card says how it was made."""
    return Path(str(resources.files("msmtfn.corpora") / "demo_model"))
