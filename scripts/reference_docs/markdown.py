"""Markdown, and the words that the code has for its own constants."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

YES, NO = "yes", "no"


def head(title: str, source: str) -> list[str]:
    """The first lines of a document; `source` says where its facts stand."""
    return [
        f"# {title}",
        "",
        f"<!-- Made by `make docs` from {source}. Change it there. -->",
        "",
        f"Generated from {source}.",
        "",
    ]


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A table, and an empty line after it."""
    lines = [_row(columns), _row(["---"] * len(columns))]
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} cells in a table of {len(columns)} columns: {row}")
        lines.append(_row(row))
    return [*lines, ""]


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def text(lines: Iterable[str]) -> str:
    """The whole document."""
    return "\n".join(lines).rstrip("\n") + "\n"


def said(flag: bool) -> str:
    return YES if flag else NO


def code(value: object) -> str:
    """In code type; nothing where there is nothing."""
    return f"`{value}`" if str(value) else ""


def words(docstring: str | None) -> str:
    """A docstring as running text."""
    return re.sub(r"\s+", " ", docstring or "").strip()


def member_words(owner: type[Any]) -> dict[str, str]:
    """The string that stands under each attribute in the source of a class: its documentation."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(owner)))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef))
    found = {}
    for attribute, comment in pairwise(body):
        target = None
        if isinstance(attribute, ast.Assign):
            target = attribute.targets[0]
        elif isinstance(attribute, ast.AnnAssign):
            target = attribute.target
        if (
            isinstance(target, ast.Name)
            and isinstance(comment, ast.Expr)
            and isinstance(comment.value, ast.Constant)
            and isinstance(comment.value.value, str)
        ):
            found[target.id] = words(comment.value.value)
    return found


def spoken(name: str) -> str:
    """A constant's name in words: RANGE_OR_REST -> range or rest."""
    return name.lower().replace("_", " ")
