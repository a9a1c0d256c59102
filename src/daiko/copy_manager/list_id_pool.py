"""List identifiers towards a second controller.

A list identifier is unique per I_T nexus, and all copies that this controller delegates to one
back end share our one nexus to it, whatever hosts asked for them and with whatever identifiers.
So a host's identifier never goes through; where the back end allows it (SNLID) a second command
carries none (usage 11b), else one from this pool. A pool has 255 of them (LID1: 8 bits, 0 is left
to "none"); a command that finds none waits its turn.
"""

from __future__ import annotations

import asyncio
from collections import deque


class ListIdPool:
    """Free identifiers 1 to 255, given out the longest unused first."""

    def __init__(self) -> None:
        self._free = deque(range(1, 256))
        self._waiting: deque[asyncio.Future[int]] = deque()

    async def take(self) -> int:
        """An identifier that no running command carries."""
        if self._free:
            return self._free.popleft()
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give(waiter.result())
            else:
                self._waiting.remove(waiter)
            raise

    def give(self, list_id: int) -> None:
        """The command that carried it has ended."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(list_id)
                return
        self._free.append(list_id)
