"""Look up installed package versions and those that this project requires."""

from __future__ import annotations

import importlib.metadata
import re

NOT_INSTALLED = "(not installed)"


def installed_version(package: str) -> str:
    """Return the version of a package, such as `2.14.1`, or `(not installed)`."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return NOT_INSTALLED


def required_version(package: str) -> str:
    """Return this project's requirement of a package in pip's syntax, such as `torch==2.14.1`."""
    try:
        requirements = importlib.metadata.requires("msmtfn") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    matching = (requirement for requirement in requirements if re.match(rf"{package}(?![\w.-])", requirement))
    return next(matching, package)


def install_command(*packages: str) -> str:
    """Return the pip command that installs the required versions of packages."""
    return "pip install " + " ".join(f"'{required_version(package)}'" for package in packages)
