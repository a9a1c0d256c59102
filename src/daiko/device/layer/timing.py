"""How long the READs and WRITEs of hosts take, while somebody wants to know.

A copy that must not slow hosts down puts this layer over the volumes that it works on, while it
runs (`copy_manager/governor.py`). What the copy itself reads and writes does not come this way: it
goes to the devices below the volume. Other commands are not timed: how long an UNMAP or a COMPARE
AND WRITE takes says little of how busy a device is.

The layer costs two readings of the clock and a callable a command; while it is not there, nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from daiko.device.block import BlockDevice, Buffer, Done, ReadDone
from daiko.device.error import DeviceError
from daiko.device.layer.overlay import Overlay
from daiko.device.sanitize import Sanitization, SanitizeWatcher


class CommandTimes:
    """The commands that came and went, of one or several volumes."""

    __slots__ = ("_begun", "_clock", "commands", "in_flight", "seconds")

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.commands = 0
        """Completed so far, with or without an error."""
        self.seconds = 0.0
        """That they took together."""
        self.in_flight = 0
        self._begun = 0.0
        """Sum of the moments when those in flight began."""

    def begin(self) -> float:
        """A command begins; returns when, for `end`."""
        now = self._clock()
        self.in_flight += 1
        self._begun += now
        return now

    def end(self, begun: float) -> None:
        """A command has completed."""
        self.commands += 1
        self.seconds += self._clock() - begun
        self.in_flight -= 1
        # Exactly 0 between two commands: so many sums would drift.
        self._begun = self._begun - begun if self.in_flight else 0.0

    @property
    def age(self) -> float:
        """Seconds that those in flight are under way already, on average; 0 = there are none. They
        will have taken longer than that."""
        return self._clock() - self._begun / self.in_flight if self.in_flight else 0.0


class Timing(Overlay):
    """The device below, and `times` of what comes through."""

    def __init__(self, below: BlockDevice, times: CommandTimes) -> None:
        super().__init__(below)
        self._times = times

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        times = self._times
        begun = times.begin()

        def completed(error: DeviceError | None, data: Buffer) -> None:
            times.end(begun)
            done(error, data)

        self.below.read(lba, blocks, completed)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        times = self._times
        begun = times.begin()

        def completed(error: DeviceError | None) -> None:
            times.end(begun)
            done(error)

        self.below.write(lba, data, completed, fua)

    def copy_from(
        self, lba: int, source: BlockDevice, source_lba: int, blocks: int, done: Done
    ) -> bool:
        return self.below.copy_from(lba, source, source_lba, blocks, done)

    def held_by(self, lba: int, blocks: int) -> tuple[BlockDevice, int] | None:
        return self.below.held_by(lba, blocks)

    def sanitize(
        self, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool = False
    ) -> Callable[[], None] | None:
        return self.below.sanitize(wanted, watcher, resume=resume)
