"""Memory that transfers may hold, shared out fairly.

Each running step asks for the buffer of its next transfer; when all is given out it waits in a
queue, one place for each step, so that the steps take turns however large they are. Nobody
overtakes: a step that finds others waiting joins the end.

A step whose device is slow or dead gives nothing back. So no step may hold more than what is still
free: it stops at half of the whole, the next at a quarter, and one that works always finds
something. While it has its share it is passed over, and the others go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Granted = Callable[[], None]
Held = Callable[[], int]
"""Bytes that the step which asks holds already."""


def _nothing() -> int:
    return 0


class TransferBudget:
    """So many bytes for all transfers together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0
        """The most that was ever held at once (bytes)."""
        self._waiting: deque[tuple[int, Granted, Held]] = deque()

    def take(self, size: int, granted: Granted, held: Held = _nothing) -> bool:
        """Ask for `size` bytes. True: they are given now. False: `granted` is called when they
        are. A single request larger than the limit is given when nothing else is held."""
        others_wait = any(not self._has_its_share(*waiting) for waiting in self._waiting)
        if not others_wait and not self._has_its_share(size, granted, held) and self._fits(size):
            self._hold(size)
            return True
        self._waiting.append((size, granted, held))
        return False

    def withdraw(self, granted: Granted) -> bool:
        """Leave the queue; False: `granted` was not in it."""
        for place, (_, waiting, _) in enumerate(self._waiting):
            if waiting == granted:
                del self._waiting[place]
                return True
        return False

    def give(self, size: int) -> None:
        """Give bytes back, and serve those that wait."""
        self.used -= size
        while (place := self._next()) is not None:
            size, granted, _ = self._waiting[place]
            del self._waiting[place]
            self._hold(size)
            granted()

    def _next(self) -> int | None:
        """Whose turn it is, if there is room for it."""
        for place, (size, granted, held) in enumerate(self._waiting):
            if not self._has_its_share(size, granted, held):
                return place if self._fits(size) else None
        return None

    def _has_its_share(self, size: int, _: Granted, held: Held) -> bool:
        has = held()
        return has > 0 and has + size > self.limit - self.used

    def _fits(self, size: int) -> bool:
        return self.used == 0 or self.used + size <= self.limit

    def _hold(self, size: int) -> None:
        self.used += size
        self.peak = max(self.peak, self.used)
