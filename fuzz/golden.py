"""The golden bytes of the tests, as the beginning of a corpus."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"


def golden(pattern: str) -> list[bytes]:
    """The bytes of tests/golden/<pattern>.hex, all that match."""
    found = []
    for file in sorted(FOLDER.glob(f"{pattern}.hex")):
        lines = file.read_text(encoding="ascii").splitlines()
        found.append(bytes.fromhex(" ".join(line.partition("#")[0] for line in lines)))
    if not found:
        raise FileNotFoundError(f"no golden bytes named {pattern}")
    return found
