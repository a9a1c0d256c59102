"""Connections without a normal session: how many there may be, and who has to go.

Anybody can open a connection, and often a discovery session, so what those cost is bounded by
their number: each holds its receive buffer and at most one text of a login. When there are more
than `MAXIMUM_LOGINS`, the one that has waited longest of the address that has most of them is
closed. So one machine that opens connections without end takes the places of its own, and not
those of hosts elsewhere.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, TypeVar

MAXIMUM_LOGINS = 256

T = TypeVar("T")


class LoginRoom(Generic[T]):
    """The connections of all portals that are in their login, or in a discovery session."""

    __slots__ = ("_addresses", "_waiting", "maximum")

    def __init__(self, maximum: int = MAXIMUM_LOGINS) -> None:
        self.maximum = maximum
        self._waiting: dict[T, str] = {}
        # In the order of their arrival.
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, connection: T, address: str) -> T | None:
        """A connection begins. Returns the one that has to be closed for it, if any: it has left
        already. That may be the new one itself."""
        self._waiting[connection] = address
        self._addresses[address] += 1
        if len(self._waiting) <= self.maximum:
            return None
        busiest = max(self._addresses.values())
        victim = next(
            each for each, where in self._waiting.items() if self._addresses[where] == busiest
        )
        self.leave(victim)
        return victim

    def leave(self, connection: T) -> None:
        """It has a session, or is gone. Harmless for one that is not there."""
        address = self._waiting.pop(connection, None)
        if address is not None:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
