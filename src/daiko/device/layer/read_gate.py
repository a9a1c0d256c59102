"""Keeps reads back for the moment in which the device below is exchanged for one with other
blocks: a read that was under way would come back with what somebody else has written there since.

Only what reads is its business; who exchanges the device holds back what writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from daiko.device.block import BlockDevice, Buffer, PrefetchDone, ReadDone, Run, StatusDone
from daiko.device.error import DeviceError
from daiko.device.layer.overlay import Overlay


class ReadGate(Overlay):
    """Passes on everything; reads only while it is open."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self._is_open = True
        self._under_way = 0
        self._held: deque[Callable[[], None]] = deque()
        self._drained: Callable[[], None] | None = None

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        if not self._is_open:
            self._held.append(lambda: self.read(lba, blocks, done))
            return
        self._under_way += 1

        def finished(error: DeviceError | None, data: Buffer) -> None:
            done(error, data)
            self._ended()

        self.below.read(lba, blocks, finished)

    def prefetch(self, lba: int, blocks: int, done: PrefetchDone) -> None:
        if not self._is_open:
            self._held.append(lambda: self.prefetch(lba, blocks, done))
        else:
            self.below.prefetch(lba, blocks, done)

    def lba_status(self, lba: int, blocks: int, done: StatusDone) -> None:
        if not self._is_open:
            self._held.append(lambda: self.lba_status(lba, blocks, done))
            return
        self._under_way += 1

        def finished(error: DeviceError | None, runs: Sequence[Run]) -> None:
            done(error, runs)
            self._ended()

        self.below.lba_status(lba, blocks, finished)

    def shut(self, drained: Callable[[], None]) -> None:
        """Keep reads back from now on; `drained` is called when none is under way."""
        self._is_open = False
        if self._under_way:
            self._drained = drained
        else:
            drained()

    def open(self) -> None:
        """Let reads go on, those that were kept back first."""
        self._is_open = True
        self._drained = None
        held, self._held = self._held, deque()
        for again in held:
            again()

    def _ended(self) -> None:
        self._under_way -= 1
        if not self._under_way and self._drained is not None:
            drained, self._drained = self._drained, None
            drained()
