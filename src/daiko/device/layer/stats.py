"""Counts what passes through to a device.

Counters are bumped when a request is submitted (payload that was asked for) and when it fails;
nothing is timed here, so that the layer costs two additions a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from daiko.device.block import BlockDevice, Buffer, Done, ReadDone
from daiko.device.error import DeviceError
from daiko.device.layer.layer import Layer


@dataclass(slots=True)
class Counters:
    """What went to a device since the layer was put on it."""

    reads: int = 0
    writes: int = 0
    """WRITE, COMPARE AND WRITE, ORWRITE and WRITE ATOMIC."""
    flushes: int = 0
    unmaps: int = 0
    write_sames: int = 0
    bytes_read: int = 0
    """Payload that was read and handed over without an error."""
    bytes_written: int = 0
    """Payload of writes that were acknowledged without an error."""
    errors: int = 0
    in_flight: int = 0


class Stats(Layer):
    """Counts in `counters`; otherwise the device below."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.counters = Counters()

    def _then(self, done: Done, written: int = 0) -> Done:
        counters = self.counters
        counters.in_flight += 1

        def completed(error: DeviceError | None) -> None:
            counters.in_flight -= 1
            if error is None:
                counters.bytes_written += written
            else:
                counters.errors += 1
            done(error)

        return completed

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        counters = self.counters
        counters.reads += 1
        counters.in_flight += 1

        def completed(error: DeviceError | None, data: Buffer) -> None:
            counters.in_flight -= 1
            if error is None:
                counters.bytes_read += len(data)
            else:
                counters.errors += 1
            done(error, data)

        self.below.read(lba, blocks, completed)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        self.counters.writes += 1
        self.below.write(lba, data, self._then(done, len(data)), fua)

    def flush(self, done: Done) -> None:
        self.counters.flushes += 1
        self.below.flush(self._then(done))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self.counters.unmaps += 1
        self.below.unmap(lba, blocks, self._then(done))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self.counters.write_sames += 1
        self.below.write_same(lba, blocks, pattern, self._then(done))

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        self.counters.writes += 1
        self.below.compare_and_write(lba, compare, data, self._then(done, len(data)))

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        self.counters.writes += 1
        self.below.or_write(lba, data, self._then(done, len(data)))

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        self.counters.writes += 1
        self.below.write_atomic(lba, data, self._then(done, len(data)))
