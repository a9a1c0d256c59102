"""What other sites are told while hosts go on.

The secondary of an asynchronous pair does not depend on what hosts at the primary write from now
on: that comes to it by the journal, or by copying, which begins with a state that is accepted. So
no host waits until the other site has heard of a state of such a pair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any


class Telling:
    """Of all pairs of which that is so."""

    def __init__(self) -> None:
        self._tasks: dict[str, set[asyncio.Task[None]]] = {}

    def begin(self, pair: str, work: Coroutine[Any, Any, None]) -> None:
        """Tell something of a pair (UUID) in the background; `work` ends in bounded time."""
        task = asyncio.create_task(work, name=f"telling of pair {pair}")
        tasks = self._tasks.setdefault(pair, set())
        tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            tasks.discard(task)
            if not tasks and self._tasks.get(pair) is tasks:
                del self._tasks[pair]

        task.add_done_callback(ended)

    async def ended(self, pairs: Iterable[str]) -> None:
        """Wait until these pairs' other sites have been told, or did not answer in time."""
        tasks = [task for pair in pairs for task in self._tasks.get(pair, ())]
        if tasks:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Tell nothing more: what was not heard is told when the link is up again."""
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
