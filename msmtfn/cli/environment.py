"""Tell why an import failed, where installed packages do not fit each other.

`torchaudio` is built against one version of `torch`, and `transformers` imports it; Ray's libraries need extras that
plain `ray` lacks. A mismatch shows as a traceback through libraries that nobody here wrote.
"""

from __future__ import annotations

import importlib
from typing import Final

from msmtfn.compat.versions import install_command, installed_version
from msmtfn.errors import BrokenEnvironmentError

PAIRS: Final = (
    ("torch", "torch", "torch"),
    ("torch", "torchaudio", "torchaudio"),
    ("torch", "transformers", "transformers.models.hubert.modeling_hubert"),
    ("pyarrow", "pyarrow", "pyarrow.dataset"),
    ("pyarrow", "ray", "ray"),
    ("pyarrow", "ray", "ray.data"),
    ("torch", "ray", "ray.train.torch"),
)
"""In the order of their dependencies: the package that is depended on, the one that depends on it, and its module whose
import shows whether the two fit."""

LONGEST_REASON: Final = 200


def explain_import_failure(failure: BaseException) -> BrokenEnvironmentError | None:
    """Return the error that names the first two packages that do not fit; None where all of them can be imported.

    Args:
        failure: what the import raised; it becomes the error's cause.
    """
    for base, package, module in PAIRS:
        try:
            importlib.import_module(module)
        # A shared library that does not fit raises ImportError, OSError, RuntimeError or AttributeError.
        except Exception as exc:
            error = BrokenEnvironmentError(_describe(base, package, exc))
            error.__cause__ = failure
            return error
    return None


def _describe(base: str, package: str, exc: Exception) -> str:
    reason = " ".join(str(exc).split())[:LONGEST_REASON] or type(exc).__name__
    packages = tuple(dict.fromkeys((base, package)))
    versions = " and ".join(f"{name} {installed_version(name)}" for name in packages)
    problem = "cannot be imported" if len(packages) == 1 else "do not work together"
    return f"{versions} {problem} ({reason}); install versions that are tested together: {install_command(*packages)}"
