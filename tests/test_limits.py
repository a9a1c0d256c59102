"""No module, function or class of the tree is longer than the limits below.

One that nears its limit holds something that has no home of its own yet. How it is counted:

- A module has the lines of its file, all of them.
- A function has the lines of its body, from the first statement after the docstring to the last,
  with the functions inside it; its signature and decorators are not counted.
- A class has the functions of its body by their names, but for dunder methods and properties.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "tests", "scripts", "bench", "fuzz")

LINES_OF_MODULE = 600
LINES_OF_FUNCTION = 60
METHODS_OF_CLASS = 25

PROPERTIES = frozenset({"property", "cached_property", "setter", "deleter"})


def modules(folder: Path) -> list[Path]:
    """All Python files below a folder, commands without suffix included."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and is_python(path)]


def is_python(path: Path) -> bool:
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        first = file.readline(100)
    return first.startswith(b"#!") and b"python" in first


def offences(text: str) -> Iterator[str]:
    """What goes beyond a limit, each as "line: name, what it has (the limit)"."""
    lines = len(text.splitlines())
    if lines > LINES_OF_MODULE:
        yield f"1: module, {lines} lines ({LINES_OF_MODULE})"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = lines_of(node)
            if lines > LINES_OF_FUNCTION:
                yield f"{node.lineno}: {node.name}, {lines} lines ({LINES_OF_FUNCTION})"
        elif isinstance(node, ast.ClassDef):
            methods = len(methods_of(node))
            if methods > METHODS_OF_CLASS:
                yield f"{node.lineno}: {node.name}, {methods} methods ({METHODS_OF_CLASS})"


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body."""
    body = function.body
    if ast.get_docstring(function, clean=False) is not None:
        body = body[1:]
    if not body:
        return 0
    first = min([body[0].lineno, *(d.lineno for d in getattr(body[0], "decorator_list", ()))])
    return (body[-1].end_lineno or first) - first + 1


def methods_of(node: ast.ClassDef) -> set[str]:
    return {
        each.name
        for each in node.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
        and not (each.name.startswith("__") and each.name.endswith("__"))
        and not any(is_property(decorator) for decorator in each.decorator_list)
    }


def is_property(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).rpartition(".")[2] in PROPERTIES


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_goes_beyond_a_limit(folder: str) -> None:
    found = modules(ROOT / folder)
    assert found
    beyond = [
        f"{path.relative_to(ROOT)}:{offence}"
        for path in found
        for offence in offences(path.read_text())
    ]
    assert not beyond, "\n".join(beyond)


def function_of(lines: int, *, docstring: bool = False) -> str:
    body = ["    pass"] * lines
    return "\n".join(
        ["def long(", "    a,", "):", *(['    """Text.', '    """'] if docstring else []), *body]
    )


def class_of(methods: int, more: str = "") -> str:
    return "\n".join(
        ["class Wide:", *(f"    def m{number}(self): pass" for number in range(methods)), more]
    )


OVERLOADED = """
    def __init__(self): pass
    @property
    def size(self): pass
    @size.setter
    def size(self, size): pass
    @functools.cached_property
    def name(self): pass
    @overload
    def m0(self): pass
"""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("pass\n" * LINES_OF_MODULE, [], id="module at the limit"),
        pytest.param("pass\n" * 601, ["1: module, 601 lines (600)"], id="module beyond it"),
        pytest.param(function_of(60, docstring=True), [], id="function at the limit"),
        pytest.param(
            function_of(61, docstring=True), ["1: long, 61 lines (60)"], id="function beyond it"
        ),
        pytest.param(
            "if True:\n async " + function_of(61), ["2: long, 61 lines (60)"], id="coroutine"
        ),
        pytest.param(class_of(25, OVERLOADED), [], id="class at the limit"),
        pytest.param(class_of(26, OVERLOADED), ["1: Wide, 26 methods (25)"], id="class beyond it"),
    ],
)
def test_limits_are_counted(text: str, found: list[str]) -> None:
    assert list(offences(text)) == found


def test_commands_without_suffix_are_modules(tmp_path: Path) -> None:
    (tmp_path / "command").write_text("#!/usr/bin/env python3\n")
    (tmp_path / "script").write_text("#!/bin/sh\n")
    (tmp_path / "data.txt").write_text("#!/usr/bin/python3\n")
    (tmp_path / "module.py").touch()
    assert [path.name for path in modules(tmp_path)] == ["command", "module.py"]
