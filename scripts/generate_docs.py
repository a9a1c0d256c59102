"""`make docs`: write the documents of docs/reference/, which come from the code's own tables.

`--check` writes nothing and fails where a document is not what the tables say now.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from reference_docs import cli, commands, failures, iscsi_keys, jobs, login, rest

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "reference"

DOCUMENTS: dict[str, Callable[[], str]] = {
    "commands.md": commands.document,
    "iscsi-keys.md": iscsi_keys.document,
    "login.md": login.document,
    "jobs.md": jobs.document,
    "failures.md": failures.document,
    "cli.md": cli.document,
    "rest.md": rest.document,
}
"""File name -> what makes its text."""


def stale() -> list[str]:
    """Names of the documents whose file is not what the code says now, or that should not be."""
    found = {path.name for path in FOLDER.glob("*.md")}
    wrong = [
        name
        for name, make in DOCUMENTS.items()
        if name not in found or (FOLDER / name).read_text() != make()
    ]
    return wrong + sorted(found - DOCUMENTS.keys())


def main() -> None:
    if "--check" in sys.argv[1:]:
        wrong = stale()
        if wrong:
            sys.exit(f"stale in docs/reference: {', '.join(wrong)}; run `make docs`")
        return
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.md"):
        if path.name not in DOCUMENTS:
            path.unlink()
    for name, make in DOCUMENTS.items():
        (FOLDER / name).write_text(make())


if __name__ == "__main__":
    main()
