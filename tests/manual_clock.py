"""A clock that stands until a test moves it, in the place of an event loop's."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count


class ManualTimer:
    """One call to be made."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        self.callback = None


class ManualClock:
    """`copy_manager.pacer.Clock`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._timers: list[tuple[float, int, ManualTimer]] = []
        self._number = count()

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, callback: Callable[[], object], /) -> ManualTimer:
        timer = ManualTimer(callback)
        heappush(self._timers, (self.now + delay, next(self._number), timer))
        return timer

    @property
    def pending(self) -> int:
        """Calls that are still to be made."""
        return sum(timer.callback is not None for _, _, timer in self._timers)

    def advance(self, seconds: float) -> None:
        """Let time pass, with every call at its moment."""
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            moment, _, timer = heappop(self._timers)
            self.now = max(self.now, moment)
            if timer.callback is not None:
                timer.callback()
        self.now = end

    def next(self) -> None:
        """Let time pass until the next call is made."""
        while self._timers:
            moment, _, timer = heappop(self._timers)
            if timer.callback is not None:
                self.now = max(self.now, moment)
                timer.callback()
                return
        raise AssertionError("nobody waits for the time")
