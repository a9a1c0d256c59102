"""A device that holds back completions: a slow device, or one that stands still while a test looks.

Requests go to the device below at once; their completions wait. With `seconds` each is passed on
that much later. With `seconds=None` they wait until `release` is called, so that a test can look at
what is in flight without any timing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from daiko.device.block import BlockDevice, Buffer, Done, ReadDone
from daiko.device.error import DeviceError
from daiko.device.layer.layer import Layer


class Delay(Layer):
    """Delays every completion by `seconds`, or until `release` when that is None."""

    def __init__(self, below: BlockDevice, seconds: float | None = None) -> None:
        super().__init__(below)
        self.seconds = seconds
        self._held: deque[Callable[[], None]] = deque()

    @property
    def held(self) -> int:
        """Completions that wait for `release`."""
        return len(self._held)

    def release(self, count: int | None = None) -> int:
        """Pass on the `count` oldest completions (None: all that wait now); returns how many."""
        number = len(self._held) if count is None else min(count, len(self._held))
        for _ in range(number):
            self._held.popleft()()
        return number

    def _hold(self, completion: Callable[[], None]) -> None:
        if self.seconds is None:
            self._held.append(completion)
        else:
            asyncio.get_running_loop().call_later(self.seconds, completion)

    def _then(self, done: Done) -> Done:
        def completed(error: DeviceError | None) -> None:
            self._hold(lambda: done(error))

        return completed

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        def completed(error: DeviceError | None, data: Buffer) -> None:
            self._hold(lambda: done(error, data))

        self.below.read(lba, blocks, completed)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        self.below.write(lba, data, self._then(done), fua)

    def flush(self, done: Done) -> None:
        self.below.flush(self._then(done))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self.below.unmap(lba, blocks, self._then(done))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self.below.write_same(lba, blocks, pattern, self._then(done))

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        self.below.compare_and_write(lba, compare, data, self._then(done))

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        self.below.or_write(lba, data, self._then(done))

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        self.below.write_atomic(lba, data, self._then(done))
