"""CHANGELOG.md: the fragments of changes/, put together.

A fragment lies in changes/ until a release takes it to changes/VERSION_DATE/. Its first line says
its kind, its second is the entry, what follows tells more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from reference_docs.markdown import text

FOLDER = Path(__file__).resolve().parents[2] / "changes"

KINDS = {"new": "New", "better": "Better", "fixed": "Fixed", "removed": "Removed"}
"""In the order in which a reader wants them."""

_FRAGMENT = re.compile(r"kind: (?P<kind>\w+)\n(?P<entry>\S[^\n]*)\n(\n(?P<more>.+))?\Z", re.DOTALL)
_RELEASE = re.compile(r"(?P<version>\d+(\.\d+)*)_(?P<date>\d{4}-\d\d-\d\d)")


class Fragment(NamedTuple):
    """One change that users can see."""

    kind: str
    entry: str
    more: str


def parse(fragment: str, name: str) -> Fragment:
    """A fragment's text. Raises ValueError where it is not as changes/TEMPLATE says."""
    found = _FRAGMENT.match(fragment)
    if not found or found["kind"] not in KINDS:
        raise ValueError(f"changes/{name} is not of the form of changes/TEMPLATE")
    return Fragment(found["kind"], found["entry"], (found["more"] or "").strip())


def _section(title: str, folder: Path) -> Iterator[str]:
    fragments = [parse(path.read_text(), path.name) for path in sorted(folder.glob("*.md"))]
    yield from (f"## {title}", "")
    if not fragments:
        yield from ("Nothing that users can see.", "")
    for kind, heading in KINDS.items():
        of_kind = [each for each in fragments if each.kind == kind]
        if of_kind:
            yield from (f"### {heading}", "")
        for each in of_kind:
            yield from (f"**{each.entry}.** {each.more}".strip(), "")


def _version(folder: Path) -> tuple[int, ...]:
    found = _RELEASE.fullmatch(folder.name)
    if not found:
        raise ValueError(f"changes/{folder.name} is not named VERSION_DATE")
    return tuple(map(int, found["version"].split(".")))


def document() -> str:
    lines = ["# Changes", "", "<!-- Made by `make docs` from changes/. Write a fragment there. -->"]
    lines += ["", *_section("Not released yet", FOLDER)]
    releases = [folder for folder in FOLDER.iterdir() if folder.is_dir()]
    for folder in sorted(releases, key=_version, reverse=True):
        version, _, date = folder.name.partition("_")
        lines += _section(f"{version}, {date}", folder)
    return text(lines)
