"""How a request to a pair fails."""

from __future__ import annotations

from collections.abc import Sequence


class NoSuchPair(LookupError):
    """There is no pair, and no consistency group, of this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no pair and no group {name}")


class VerbRefused(Exception):
    """The state of a pair does not allow this; nothing was changed at any pair."""

    def __init__(self, refusals: Sequence[tuple[str, str, str]]) -> None:
        """(pair, its state, what to do instead) of each that refuses."""
        super().__init__("; ".join(f"{pair} is {state}: {text}" for pair, state, text in refusals))
        self.refusals = tuple(refusals)
