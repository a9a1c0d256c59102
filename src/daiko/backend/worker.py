"""Threads for file operations that may block, with completions handed back in batches.

`run` queues a piece of work; a thread does it; its completion runs on the event loop. No future is
made on the way, and however many pieces end together, the loop is woken once.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable

from daiko.device.block import Buffer
from daiko.device.error import DeviceError

Work = Callable[[], Buffer | DeviceError]
"""Runs in a thread: its result, or how it failed."""

Finished = Callable[[Buffer | DeviceError], None]
"""Runs on the event loop with what the work returned."""


class Workers:
    """A few threads, started when first needed."""

    def __init__(self, threads: int = 4, *, name: str = "file") -> None:
        self._limit = threads
        self._name = name
        self._threads: list[threading.Thread] = []
        self._todo: queue.SimpleQueue[tuple[Work, Finished] | None] = queue.SimpleQueue()
        self._finished: deque[tuple[Finished, Buffer | DeviceError]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_woken = False
        self._lock = threading.Lock()
        self._then: Callable[[], None] | None = None
        self.in_flight = 0
        """Pieces of work that have not completed."""

    def run(self, work: Work, finished: Finished) -> None:
        """Do `work` in a thread, then call `finished` on the event loop that runs now."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        if len(self._threads) < self._limit and self.in_flight >= len(self._threads):
            thread = threading.Thread(
                target=self._serve, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self.in_flight += 1
        self._todo.put((work, finished))

    def stop(self, then: Callable[[], None]) -> None:
        """End the threads once the queued work is done, then call `then`, inline if there is no
        work now. `run` may not be called any more."""
        for _ in self._threads:
            self._todo.put(None)
        self._threads.clear()
        if self.in_flight:
            self._then = then
        else:
            then()

    def _serve(self) -> None:
        while (item := self._todo.get()) is not None:
            work, finished = item
            result = work()
            with self._lock:
                self._finished.append((finished, result))
                wake = not self._is_woken
                self._is_woken = True
            if wake and self._loop is not None:
                try:
                    self._loop.call_soon_threadsafe(self._deliver)
                except RuntimeError:
                    return  # the loop is closed: nobody waits for the outcome any more

    def _deliver(self) -> None:
        with self._lock:
            self._is_woken = False
            batch, self._finished = self._finished, deque()
        for finished, result in batch:
            self.in_flight -= 1
            finished(result)
        if not self.in_flight and self._then is not None:
            then, self._then = self._then, None
            then()
