"""The `daiko` command: the command line, with `daiko serve` joined on from the daemon."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `daiko` command."""
    raise SystemExit("daiko: the command line is not joined on yet")
