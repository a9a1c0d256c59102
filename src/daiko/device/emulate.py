"""Optional operations from simpler ones, for a device that lacks them.

- FUA: the write, then a flush.
- WRITE SAME: writes of up to 1 MiB that repeat the pattern, one after the other.
- UNMAP: WRITE SAME of zeros. It gives no room back, but a read then returns zeros for certain.
- COMPARE AND WRITE: read, compare, write, while a `RangeLock` holds back every other write *through
  this layer* to the same blocks. So it is atomic only when all writes come this way.

`Emulate` uses what the device has and fills in the rest; it reports the level EMULATED for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from daiko.device.block import BlockDevice, Buffer, Done, Level, ReadDone
from daiko.device.error import DeviceError, Miscompare
from daiko.device.layer.layer import Layer
from daiko.device.range_lock import RangeLock

_CHUNK_BYTES = 1 << 20


def first_difference(one: Buffer, other: Buffer) -> int:
    """Offset (bytes) of the first byte that differs in two buffers of one length; -1 if none."""
    one, other = memoryview(one), memoryview(other)
    if one == other:
        return -1
    start, end = 0, len(one)
    # Halve the range that is known to hold a difference: comparing slices runs at memcmp's speed.
    while end - start > 1:
        middle = (start + end) // 2
        if one[start:middle] != other[start:middle]:
            end = middle
        else:
            start = middle
    return start


class _Repeat:
    """WRITE SAME in progress. A device that completes inline would recurse once a write, so the
    completion of a write that is still being submitted only says that the loop may go on."""

    __slots__ = ("chunk", "device", "done", "end", "error", "pending", "position", "submitting")

    def __init__(
        self, device: BlockDevice, lba: int, blocks: int, pattern: Buffer, done: Done
    ) -> None:
        limit = max(1, _CHUNK_BYTES // device.block_size)
        if device.capabilities.maximum_blocks:
            limit = min(limit, device.capabilities.maximum_blocks)
        self.device = device
        self.position = lba
        self.end = lba + blocks
        self.chunk = memoryview(bytes(pattern) * min(limit, blocks))
        self.done = done
        self.error: DeviceError | None = None
        self.pending = False
        self.submitting = False

    def advance(self) -> None:
        self.submitting = True
        block_size = self.device.block_size
        while self.position < self.end and self.error is None and not self.pending:
            data = self.chunk[: (self.end - self.position) * block_size]
            start = self.position
            self.position += len(data) // block_size
            self.pending = True
            self.device.write(start, data, self.written)
        self.submitting = False
        if not self.pending:
            self.done(self.error)

    def written(self, error: DeviceError | None) -> None:
        self.pending = False
        self.error = error
        if not self.submitting:
            self.advance()


def write_same(device: BlockDevice, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
    """WRITE SAME by writes, one after the other; stops at the first error."""
    if blocks:
        _Repeat(device, lba, blocks, pattern, done).advance()
    else:
        done(None)


def unmap(device: BlockDevice, lba: int, blocks: int, done: Done) -> None:
    """UNMAP by writes of zeros."""
    write_same(device, lba, blocks, bytes(device.block_size), done)


def write_fua(device: BlockDevice, lba: int, data: Buffer, done: Done) -> None:
    """A write that is on stable storage when it is done: the write, then a flush."""

    def written(error: DeviceError | None) -> None:
        if error is None:
            device.flush(done)
        else:
            done(error)

    device.write(lba, data, written)


def compare_and_write(
    device: BlockDevice, lba: int, compare: Buffer, data: Buffer, done: Done
) -> None:
    """COMPARE AND WRITE by read and write. The caller keeps other writes away meanwhile."""

    def have_read(error: DeviceError | None, found: Buffer) -> None:
        if error is not None:
            done(error)
        elif (offset := first_difference(found, compare)) >= 0:
            done(Miscompare("the blocks hold other data", offset=offset))
        else:
            device.write(lba, data, done)

    device.read(lba, len(compare) // device.block_size, have_read)


class Emulate(Layer):
    """The device below, with every optional operation."""

    def __init__(self, below: BlockDevice, *, lock: RangeLock | None = None) -> None:
        """`lock`: of the `Emulate` that this one takes the place of, while requests are at that."""
        super().__init__(below)
        has = below.capabilities
        self._lock = lock or RangeLock()
        self._emulates_comparison = not has.compare_and_write
        self.capabilities = replace(
            has,
            unmap=has.unmap or Level.EMULATED,
            write_same=has.write_same or Level.EMULATED,
            compare_and_write=has.compare_and_write or Level.EMULATED,
            fua=has.fua or Level.EMULATED,
            unmapped_reads_zero=has.unmapped_reads_zero or not has.unmap,
        )
        self._has = has

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self.below.read(lba, blocks, done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        if not self._emulates_comparison:
            self._write(lba, data, done, fua)
            return
        self._locked(
            lba, len(data) // self.block_size, done, lambda then: self._write(lba, data, then, fua)
        )

    def _write(self, lba: int, data: Buffer, done: Done, fua: bool) -> None:
        if fua and not self._has.fua:
            write_fua(self.below, lba, data, done)
        else:
            self.below.write(lba, data, done, fua)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        if self._has.unmap:
            self._locked(lba, blocks, done, lambda then: self.below.unmap(lba, blocks, then))
        else:
            self._locked(lba, blocks, done, lambda then: unmap(self.below, lba, blocks, then))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        def begin(then: Done) -> None:
            if self._has.write_same:
                self.below.write_same(lba, blocks, pattern, then)
            else:
                write_same(self.below, lba, blocks, pattern, then)

        self._locked(lba, blocks, done, begin)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        if not self._emulates_comparison:
            self.below.compare_and_write(lba, compare, data, done)
            return

        def begin(ticket: int) -> None:
            def leave(error: DeviceError | None) -> None:
                self._lock.leave(ticket)
                done(error)

            compare_and_write(self.below, lba, compare, data, leave)

        self._lock.wait_exclusive(lba, len(compare) // self.block_size, begin)

    def _locked(self, lba: int, blocks: int, done: Done, submit: Callable[[Done], None]) -> None:
        """Submit a change that a COMPARE AND WRITE on the same blocks must not interleave with."""
        lock = self._lock

        def begin(ticket: int) -> None:
            def leave(error: DeviceError | None) -> None:
                lock.leave(ticket)
                done(error)

            submit(leave)

        ticket = lock.try_shared(lba, blocks)
        if ticket >= 0:
            begin(ticket)
        else:
            lock.wait_shared(lba, blocks, begin)
