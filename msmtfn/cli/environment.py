"""Explain an import that failed because installed packages are incompatible.

`torchaudio` is built against one version of `torch`, and `transformers` imports it; Ray's libraries need extras that
plain `ray` lacks. Without an explanation, a mismatch appears as a traceback through third-party code.
"""

from __future__ import annotations

import importlib
from typing import Final

from msmtfn.compat.versions import install_command, installed_version
from msmtfn.errors import BrokenEnvironmentError

DEPENDENT_PACKAGES: Final = (
    ("torch", "torch", "torch"),
    ("torch", "torchaudio", "torchaudio"),
    ("torch", "transformers", "transformers.models.hubert.modeling_hubert"),
    ("pyarrow", "pyarrow", "pyarrow.dataset"),
    ("pyarrow", "ray", "ray"),
    ("pyarrow", "ray", "ray.data"),
    ("torch", "ray", "ray.train.torch"),
)
"""Pairs in the order of their dependencies: a package, one that depends on it, and the module whose import shows
whether the two are compatible."""

MAX_REASON_CHARS: Final = 200


def explain_import_failure(failure: BaseException) -> BrokenEnvironmentError | None:
    """Return an error that names the first two incompatible packages; None if all of them can be imported.

    Args:
        failure: exception that the import raised; it becomes the cause of the error.
    """
    for base, package, module in DEPENDENT_PACKAGES:
        try:
            importlib.import_module(module)
        # An incompatible shared library raises ImportError, OSError, RuntimeError or AttributeError.
        except Exception as exc:
            error = BrokenEnvironmentError(_describe(base, package, exc))
            error.__cause__ = failure
            return error
    return None


def _describe(base: str, package: str, exc: Exception) -> str:
    reason = " ".join(str(exc).split())[:MAX_REASON_CHARS] or type(exc).__name__
    packages = tuple(dict.fromkeys((base, package)))
    versions = " and ".join(f"{name} {installed_version(name)}" for name in packages)
    problem = "cannot be imported" if len(packages) == 1 else "do not work together"
    return f"{versions} {problem} ({reason}); install versions that are tested together: {install_command(*packages)}"
