"""The documents: their links and paths lead somewhere, and they keep to the form that CONTRIBUTING.md describes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "cluster", "jobs", "msmtfn", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
SOURCE_SUFFIXES = (".py", ".toml", ".txt", ".yaml")

MAX_README_LINES = 180
MAX_LINE_LENGTH = 160

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_SPAN = re.compile(r"`([^`]+)`")
PATH = re.compile(r"(?:[\w.-]+/)*[\w.-]+/?")
MODULE = re.compile(r"python -m (tests(?:\.\w+)*)")
HEADING = re.compile(r"#{1,6} (.+)")


@pytest.fixture(params=DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def document(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def prose_of(text: str) -> list[str]:
    """Return the lines outside fenced code."""
    lines, is_code = [], False
    for line in text.splitlines():
        if line.startswith("```"):
            is_code = not is_code
        elif not is_code:
            lines.append(line)
    return lines


def anchors_of(text: str) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them: lower case, no punctuation, hyphens for spaces."""
    headings = [match[1] for line in prose_of(text) if (match := HEADING.fullmatch(line))]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path, text: str) -> Iterator[str]:
    """Yield the relative links that lead to no file, or to no heading of a file."""
    for link in LINK.findall("\n".join(prose_of(text))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text(encoding="utf-8"))):
            yield link


def looks_like_a_path(word: str) -> bool:
    """Tell whether a word names a file or folder of the tree, such as `rounds.py` or `tests/faults/`."""
    if not PATH.fullmatch(word):
        return False
    return word.endswith(SOURCE_SUFFIXES) or ("/" in word and word.startswith(tuple(f"{name}/" for name in FOLDERS)))


def missing_paths(path: Path, text: str) -> Iterator[str]:
    """Yield what code spans name that exists neither below the document's folder nor below the root."""
    prose = "\n".join(prose_of(text))
    for span in CODE_SPAN.findall(prose):
        words = span.split()
        # Within a command only whole paths are files of the tree: `models.py list` is short for one.
        named = words if len(words) == 1 else [word for word in words if "/" in word]
        for word in filter(looks_like_a_path, named):
            if not any((folder / word).exists() for folder in (path.parent, ROOT)):
                yield word


def missing_commands(text: str) -> Iterator[str]:
    """Yield the scripts and modules in code blocks and spans that are not there."""
    for script in re.findall(r"\bjobs/\w+\.py\b", text):
        if not (ROOT / script).exists():
            yield script
    for module in MODULE.findall(text):
        location = ROOT / module.replace(".", "/")
        if not (location.with_suffix(".py").exists() or (location / "__main__.py").exists()):
            yield module


def test_relative_links_lead_to_a_file_and_to_a_heading(document: Path) -> None:
    broken = list(broken_links(document, document.read_text(encoding="utf-8")))
    assert not broken


def test_paths_in_code_spans_exist(document: Path) -> None:
    missing = list(missing_paths(document, document.read_text(encoding="utf-8")))
    assert not missing


def test_commands_name_scripts_and_modules_that_exist(document: Path) -> None:
    missing = list(missing_commands(document.read_text(encoding="utf-8")))
    assert not missing


def test_lines_outside_tables_and_code_are_short(document: Path) -> None:
    prose = [line for line in prose_of(document.read_text(encoding="utf-8")) if not line.startswith("|")]
    too_long = [line for line in prose if len(line) > MAX_LINE_LENGTH]
    assert not too_long


def test_a_document_has_one_heading_of_the_first_level(document: Path) -> None:
    prose = prose_of(document.read_text(encoding="utf-8"))
    assert [line.startswith("# ") for line in prose].count(True) == 1


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("link", ["missing.md", "README.md#no-such-heading", "#no-such-heading"])
def test_a_broken_link_is_found(link: str) -> None:
    assert list(broken_links(ROOT / "README.md", f"# A title\n[text]({link})\n")) == [link]


@pytest.mark.parametrize("span", ["missing.py", "msmtfn/missing/", "python tests/missing.py --option"])
def test_a_path_that_does_not_exist_is_found(span: str) -> None:
    assert list(missing_paths(ROOT / "README.md", f"`{span}`")) == [next(filter(looks_like_a_path, span.split()))]


def test_code_blocks_hold_no_links_and_no_headings() -> None:
    text = "# A title\n```\n# a comment [text](missing.md)\n```\n"
    assert not list(broken_links(ROOT / "README.md", text))
    assert anchors_of(text) == {"a-title"}


@pytest.mark.parametrize(
    "folder",
    sorted(path.parent for path in (ROOT / "msmtfn").glob("*/README.md")),
    ids=lambda folder: folder.name,
)
def test_the_readme_of_a_folder_names_each_of_its_modules(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    named = {word for line in prose_of(text) for word in CODE_SPAN.findall(line)}
    assert {path.name for path in folder.glob("*.py")} - {"__init__.py"} <= named
