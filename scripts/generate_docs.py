"""`make docs`: write the documents that are made from something else: those of docs/reference/ from
the code's own tables, CHANGELOG.md from the fragments of changes/.

`--check` writes nothing and fails where a document is not what the tables say now.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from reference_docs import (
    changelog,
    cli,
    commands,
    failures,
    iscsi_keys,
    jobs,
    login,
    migrations,
    pairs,
    rest,
    unit_attentions,
)

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = "docs/reference"

DOCUMENTS: dict[str, Callable[[], str]] = {
    "docs/reference/commands.md": commands.document,
    "docs/reference/iscsi-keys.md": iscsi_keys.document,
    "docs/reference/login.md": login.document,
    "docs/reference/jobs.md": jobs.document,
    "docs/reference/pairs.md": pairs.document,
    "docs/reference/migrations.md": migrations.document,
    "docs/reference/failures.md": failures.document,
    "docs/reference/unit-attentions.md": unit_attentions.document,
    "docs/reference/cli.md": cli.document,
    "docs/reference/rest.md": rest.document,
    "CHANGELOG.md": changelog.document,
}
"""File -> what makes its text."""


def stale() -> list[str]:
    """The documents whose file is not what it should be now, or should not be there."""
    wrong = [name for name, make in DOCUMENTS.items() if _read(ROOT / name) != make()]
    return wrong + _unknown()


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _unknown() -> list[str]:
    """Files among the generated ones that nothing generates."""
    found = {f"{REFERENCE}/{path.name}" for path in (ROOT / REFERENCE).glob("*")}
    return sorted(found - DOCUMENTS.keys())


def main() -> None:
    if "--check" in sys.argv[1:]:
        wrong = stale()
        if wrong:
            sys.exit(f"stale: {', '.join(wrong)}; run `make docs`")
        return
    (ROOT / REFERENCE).mkdir(exist_ok=True)
    for name in _unknown():
        (ROOT / name).unlink()
    for name, make in DOCUMENTS.items():
        (ROOT / name).write_text(make())


if __name__ == "__main__":
    main()
