"""The lock: `requirements.txt` and `requirements-dev.txt`, written by `.ci/lock`."""

from __future__ import annotations

import hashlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
FILES = ("requirements.txt", "requirements-dev.txt")
OF_THE_JOBS = ("aws", "demo", "media", "train")
PIN = re.compile(r"([\w.-]+)==(\S+)(?: ; (.+?))? \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")


@cache
def read_lock(name: str) -> dict[str, set[str]]:
    """The versions of each package in a file of the lock."""
    text = (ROOT / name).read_text()
    pins = PIN.findall(text)
    comments = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    assert PIN.sub("", text) == comments, "a line is no pin with hashes"
    versions: dict[str, set[str]] = {}
    for package, version, _, _ in pins:
        versions.setdefault(normal(package), set()).add(version)
    return versions


def normal(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def requirements(*extras: str) -> list[Requirement]:
    """The project's own requirements, with those of some extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    chosen = [each for extra in extras for each in project["optional-dependencies"][extra]]
    return [each for each in map(Requirement, [*project["dependencies"], *chosen]) if each.name != "msmtfn"]


@pytest.mark.parametrize(("name", "extras"), [(FILES[0], OF_THE_JOBS), (FILES[1], (*OF_THE_JOBS, "test", "dev"))])
def test_the_lock_has_every_requirement_in_a_version_that_is_allowed(name: str, extras: tuple[str, ...]) -> None:
    locked = read_lock(name)
    for requirement in requirements(*extras):
        versions = locked[normal(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), f"{requirement}: {versions}"


def test_both_files_of_the_lock_have_the_same_versions() -> None:
    jobs, everything = map(read_lock, FILES)
    assert {name: everything[name] for name in jobs} == jobs


def test_the_lock_has_what_builds_the_project() -> None:
    (build,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for name in FILES:
        assert all(Requirement(build).specifier.contains(version) for version in read_lock(name)["setuptools"])


def test_the_runtime_environment_names_the_lock() -> None:
    digest = hashlib.sha256((ROOT / "requirements.txt").read_bytes()).hexdigest()[:12]
    assert f'"# lock {digest}"' in (ROOT / "cluster" / "runtime-env.yaml").read_text(), "run .ci/lock"


def closure(wanted: list[Requirement]) -> set[str]:
    """The installed packages that some requirements bring, directly or not."""
    found: set[tuple[str, str]] = set()
    left = [(normal(each.name), extra) for each in wanted for extra in ("", *each.extras)]
    while left:
        package, extra = left.pop()
        if (package, extra) in found:
            continue
        found.add((package, extra))
        for needed in map(Requirement, importlib.metadata.requires(package) or []):
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                left += [(normal(needed.name), each) for each in ("", *needed.extras)]
    return {package for package, _ in found}


IMPORT_WITHOUT = """
import importlib.util, sys
find = importlib.machinery.PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in {missing} else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_others
import {modules}
"""


@pytest.mark.parametrize("modules", ["msmtfn.cli.score_daily, msmtfn.inference.classifier", "msmtfn.cli.outcomes"])
def test_what_needs_no_extra_is_imported_without_the_packages_that_only_extras_bring(modules: str) -> None:
    extras = closure(requirements(*OF_THE_JOBS)) - closure(requirements())
    assert extras > {"scikit-learn", "matplotlib"}
    owners = importlib.metadata.packages_distributions()
    missing = {name for name, packages in owners.items() if {normal(package) for package in packages} <= extras}
    program = IMPORT_WITHOUT.format(missing=missing, modules=modules)
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
