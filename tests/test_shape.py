"""The shape of the code that ships: short functions and modules, and docstrings that begin as a reader expects."""

from __future__ import annotations

import ast
import logging
from collections.abc import Iterator
from pathlib import Path

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
MODULES = sorted([*(ROOT / "msmtfn").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400
CLAUSE_WORDS = {"how", "what", "whatever", "when", "where", "whether", "which", "who", "why"}
NOT_VERBS = {*CLAUSE_WORDS, "a", "all", "an", "any", "each", "every", "number", "one", "some", "the", "this", "true"}
"""First words of docstrings that are not imperative; ruff's D401 finds verbs in other forms, but not these."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes() -> Iterator[tuple[Path, ast.AST]]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            yield path.relative_to(ROOT), node


def is_property(function: Function) -> bool:
    names = [getattr(each, "id", getattr(each, "attr", "")) for each in function.decorator_list]
    return any(name.endswith("property") for name in names)


def first_words(*, functions: bool) -> Iterator[tuple[str, str]]:
    """Yield where each public docstring stands, and its first word: of functions, or of classes and properties."""
    for path, node in nodes():
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        is_function = isinstance(node, Function) and not is_property(node)
        if is_function == functions and (docstring := ast.get_docstring(node)):
            yield f"{path}: {node.name}", docstring.split()[0].lower().strip(",.:;")


def test_no_function_is_longer_than_a_screen() -> None:
    functions = [(path, node) for path, node in nodes() if isinstance(node, Function)]
    lengths = {f"{path}: {node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}
    logger.info("%d functions, the longest has %d lines", len(lengths), max(lengths.values()))


def test_no_module_is_too_long_to_read() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}
    logger.info("%d modules, the longest has %d lines", len(lengths), max(lengths.values()))


def test_the_docstring_of_a_function_begins_with_a_verb() -> None:
    words = list(first_words(functions=True))
    assert [name for name, word in words if word in NOT_VERBS] == []
    logger.info("%d public docstrings of functions", len(words))


def test_the_docstring_of_a_class_does_not_begin_with_a_clause() -> None:
    words = list(first_words(functions=False))
    assert [name for name, word in words if word in CLAUSE_WORDS] == []
    logger.info("%d public docstrings of classes and properties", len(words))
