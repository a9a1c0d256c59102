"""By which another site's first controller writes to the volume of a pair that it leads.

The volume is write-protected for hosts while it is copied to, by the pair's layer in its write
path. The peer goes past that layer, straight to the volume's devices; what it may do there is said
here and nowhere else: it always reads, and it writes while the door is open, which is while the
record of the pair says that it copies to this volume or keeps it the same.
"""

from __future__ import annotations

from daiko.device.block import BlockDevice, Buffer, Done
from daiko.device.error import WriteProtected
from daiko.device.layer.overlay import Overlay
from daiko.pair.write_path import Flight, Flights


class PeerDoor(Overlay):
    """The volume's device for one peer. Closed when it is made."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.is_open = False
        self._flights = Flights()

    def close_for_writes(self) -> tuple[Flight, ...]:
        """Let no write in from now on. Returns those that are under way."""
        self.is_open = False
        return self._flights.begin()

    def open_for_writes(self) -> None:
        """Let writes in."""
        self.is_open = True

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        if self._lets_in(done):
            self.below.write(lba, data, self._flights.now.enter(done), fua)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        if self._lets_in(done):
            self.below.write_atomic(lba, data, self._flights.now.enter(done))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        if self._lets_in(done):
            self.below.unmap(lba, blocks, self._flights.now.enter(done))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        if self._lets_in(done):
            self.below.write_same(lba, blocks, pattern, self._flights.now.enter(done))

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        if self._lets_in(done):
            self.below.compare_and_write(lba, compare, data, self._flights.now.enter(done))

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        if self._lets_in(done):
            self.below.or_write(lba, data, self._flights.now.enter(done))

    def held_by(self, lba: int, blocks: int) -> tuple[BlockDevice, int] | None:
        return self.below.held_by(lba, blocks)

    def _lets_in(self, done: Done) -> bool:
        if not self.is_open:
            done(WriteProtected("the pair with this site does not copy to the volume now"))
        return self.is_open
