"""Keeping a copy to its pace.

Whoever is about to copy asks for the bytes first, in the style of `budget.py`: it has them at once,
or is called when they are granted, and may withdraw meanwhile. Those that wait are served in turn
and nobody overtakes, so that several steps of one job share its rate. For coroutines `wait` says
the same. Nothing here knows of jobs: one pacer is the pace of whatever goes through it.

The rate is kept as a debt in time. What is granted is paid for at the rate that holds, and the
account (`_paid_until`) runs ahead of the clock by so much. A request is granted when the account is
ahead by no more than `BURST_SECONDS` afterwards; a larger one when nothing is owed, and those
behind it wait the longer. So in any stretch of time no more is granted than the rate allows for it
and one burst: a tenth of a second's worth, or one request where that is more.

The pace may change at any time. A higher rate holds at once, for what is owed as well: who waits
for a gigabyte at 1 KiB/s goes on when that is taken back. With a lower one a debt keeps its time:
what was granted at a gigabyte a second was paid for, and does not hold up the copy for hours.

The rate is the pace's own, or the one that hosts bear (`governor.py`), whichever is lower.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from math import inf
from typing import Final, Protocol

from daiko.copy_manager.budget import Granted
from daiko.copy_manager.halt import Halt
from daiko.copy_manager.pace import FULL, Pace

BURST_SECONDS: Final = 0.1
"""So much of the rate may be granted at once."""
_EARLY_SECONDS: Final = 0.001
"""The event loop's clock counts whole milliseconds, so a timer may be early by so much. What is
granted early is paid for all the same."""
_LATELY_SECONDS: Final = 0.5
"""The pace limits a copy that waited for it within this time."""


class Limit(StrEnum):
    """What of the pace limits a copy."""

    RATE = "rate"
    HOSTS = "hosts"
    """Their latency."""


class Timer(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """An event loop, as far as time goes."""

    def time(self) -> float:
        """Seconds of a monotonic clock."""
        ...

    def call_later(self, delay: float, callback: Callable[[], object], /) -> Timer: ...


class Pacer:
    """Grants bytes at a pace."""

    def __init__(self, pace: Pace = FULL, clock: Clock | None = None) -> None:
        """`clock`: the running event loop unless given."""
        self._clock: Clock = clock or asyncio.get_running_loop()
        self._pace = pace
        self._bearable: float | None = None
        self._rate = _lower(pace.rate, None)
        self._paid_until = self._clock.time()
        self._waiting: deque[tuple[int, Granted]] = deque()
        self._timer: Timer | None = None
        self._held_back_at = -inf

    # --- the pace -------------------------------------------------------------------------------

    @property
    def pace(self) -> Pace:
        """What was asked for."""
        return self._pace

    @property
    def rate(self) -> float | None:
        """Bytes a second that are granted now; None: no bound."""
        return self._rate

    @property
    def held_back_at(self) -> float:
        """When somebody last waited for the pace, by the clock; now, where somebody does."""
        return self._clock.time() if self._waiting else self._held_back_at

    @property
    def limited_by(self) -> Limit | None:
        """Why somebody waits now, or did a moment ago; None: the pace holds nobody back."""
        if self._rate is None or self._clock.time() - self.held_back_at > _LATELY_SECONDS:
            return None
        return Limit.RATE if self._rate == self._pace.rate else Limit.HOSTS

    def use(self, pace: Pace) -> None:
        """Go at another pace from now on. Without a latency in it, what hosts bear is forgotten."""
        self._change(pace, self._bearable if pace.latency is not None else None)

    def bear(self, rate: float | None) -> None:
        """Go no faster than hosts bear (bytes a second, above 0); None: whatever they do."""
        self._change(self._pace, rate)

    def portion(self, most: int, *, least: int, seconds: float) -> int:
        """How large (bytes) a single request should be so that it is no more than `seconds` of the
        rate as it is now; `most` at full pace."""
        if self._rate is None:
            return most
        return int(min(max(self._rate * seconds, least), most))

    # --- asking ---------------------------------------------------------------------------------

    def take(self, size: int, granted: Granted) -> bool:
        """Ask to copy `size` bytes. True: now. False: `granted` is called when it may be."""
        if not self._waiting and self._grant(size):
            return True
        self._waiting.append((size, granted))
        self._arm()
        return False

    def withdraw(self, granted: Granted) -> bool:
        """Leave the queue, with nothing taken; False: `granted` was not in it."""
        for place, (_, waiting) in enumerate(self._waiting):
            if waiting == granted:
                del self._waiting[place]
                self._serve()
                return True
        return False

    def give(self, size: int) -> None:
        """Give back bytes that were taken and will not be copied."""
        if self._rate is not None:
            self._paid_until -= size / self._rate
            self._serve()

    async def wait(self, size: int, halt: Halt | None = None) -> bool:
        """Return True when `size` bytes may be copied; False, with nothing taken, as soon as a halt
        was asked for. Takes nothing either when it is cancelled."""
        if halt is not None and halt.requested:
            return False
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def granted() -> None:
            if turn.done():
                self.give(size)
            else:
                turn.set_result(True)

        def halted() -> None:
            if not turn.done():
                turn.set_result(False)

        if self.take(size, granted):
            return True
        if halt is not None:
            halt.listen(halted)
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.give(size)
            raise
        finally:
            self.withdraw(granted)
            if halt is not None:
                halt.unlisten(halted)

    # --- serving --------------------------------------------------------------------------------

    def _grant(self, size: int) -> bool:
        if self._rate is None:
            return True
        now = self._clock.time()
        if now + _EARLY_SECONDS < self._due(size, self._rate):
            return False
        self._paid_until = max(self._paid_until, now) + size / self._rate
        return True

    def _due(self, size: int, rate: float) -> float:
        """When a request of that size may be granted."""
        return self._paid_until - max(BURST_SECONDS - size / rate, 0.0)

    def _serve(self) -> None:
        """Grant what is due, in turn; come again when the next is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and self._grant(self._waiting[0][0]):
            _, granted = self._waiting.popleft()
            self._held_back_at = self._clock.time()
            granted()
        self._arm()

    def _arm(self) -> None:
        if self._waiting and self._timer is None and self._rate is not None:
            due = self._due(self._waiting[0][0], self._rate)
            self._timer = self._clock.call_later(max(due - self._clock.time(), 0.0), self._serve)

    def _change(self, pace: Pace, bearable: float | None) -> None:
        before, now = self._rate, self._clock.time()
        self._pace, self._bearable = pace, bearable
        after = self._rate = _lower(pace.rate, bearable)
        if before is None or after is None:
            self._paid_until = now
        elif after > before and self._paid_until > now:
            self._paid_until = now + (self._paid_until - now) * before / after
        self._serve()


def _lower(*rates: float | None) -> float | None:
    """The lowest of the bounds that there are."""
    return min((rate for rate in rates if rate is not None), default=None)
