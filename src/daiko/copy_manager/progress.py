"""How far a job is, how fast it goes, how long it will take."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.pacer import Limit
from daiko.state.record import JobState


class Progress(NamedTuple):
    """A job at one moment. `version` grows with every change, so that a reader can wait for the
    next one."""

    job: int
    state: JobState
    confirmed_blocks: int
    """Known to be on stable storage at the destination."""
    copied_blocks: int
    """Copied, confirmed or not yet."""
    blocks: int
    block_size: int
    blocks_per_second: float
    eta_seconds: float | None
    """None while nothing can be said."""
    version: int
    pace: Pace = FULL
    """As it was asked for."""
    limited_by: Limit | None = None
    """What of the pace holds the copy back now."""
    paced_rate: float | None = None
    """Bytes a second that the pace grants now; None: no bound."""

    @property
    def percent(self) -> float:
        """0 to 100; a job of no blocks has all of them."""
        return 100.0 * self.copied_blocks / self.blocks if self.blocks else 100.0


class RateMeter:
    """Blocks a second over a sliding window, from (time, total) samples."""

    def __init__(self, window_seconds: float = 10.0) -> None:
        self._window = window_seconds
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, total: int) -> None:
        """Note that `total` blocks are done at `now` (seconds of a monotonic clock)."""
        self._samples.append((now, total))
        while len(self._samples) > 2 and self._samples[1][0] <= now - self._window:
            self._samples.popleft()

    @property
    def rate(self) -> float:
        """Blocks a second; 0.0 before two samples."""
        if len(self._samples) < 2:
            return 0.0
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at else 0.0

    def eta(self, missing: int) -> float | None:
        """Seconds until `missing` more blocks are done, at this rate; None without a rate."""
        if missing == 0:
            return 0.0
        rate = self.rate
        return missing / rate if rate > 0 else None
