"""Memory that transfers may hold, shared out fairly.

Each running step asks for the buffer of its next transfer; when all is given out it waits in a
queue, one place for each step, so that the steps take turns however large they are. Nobody
overtakes: a step that finds others waiting joins the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

Granted = Callable[[], None]


class TransferBudget:
    """So many bytes for all transfers together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.peak = 0
        """The most that was ever held at once (bytes)."""
        self._waiting: deque[tuple[int, Granted]] = deque()

    def take(self, size: int, granted: Granted) -> bool:
        """Ask for `size` bytes. True: they are given now. False: `granted` is called when they
        are. A single request larger than the limit is given when nothing else is held."""
        if not self._waiting and self._fits(size):
            self._hold(size)
            return True
        self._waiting.append((size, granted))
        return False

    def withdraw(self, granted: Granted) -> bool:
        """Leave the queue; False: `granted` was not in it."""
        for place, (_, waiting) in enumerate(self._waiting):
            if waiting == granted:
                del self._waiting[place]
                return True
        return False

    def give(self, size: int) -> None:
        """Give bytes back, and serve those that wait."""
        self.used -= size
        while self._waiting and self._fits(self._waiting[0][0]):
            size, granted = self._waiting.popleft()
            self._hold(size)
            granted()

    def _fits(self, size: int) -> bool:
        return self.used == 0 or self.used + size <= self.limit

    def _hold(self, size: int) -> None:
        self.used += size
        self.peak = max(self.peak, self.used)
