"""Optional operations from simpler ones, for a device that lacks them.

- FUA: the write, then a flush.
- WRITE SAME: writes of up to 1 MiB that repeat the pattern, one after the other.
- UNMAP: WRITE SAME of zeros. It gives no room back, but a read then returns zeros for certain.
- COMPARE AND WRITE: read, compare, write. ORWRITE: read, or, write. Nothing else may change the
  blocks meanwhile: that is the affair of who calls, who knows all ways to them
  (`target/exclusion.py`).

`Emulate` uses what the device has and fills in FUA, WRITE SAME and UNMAP; it reports the level
EMULATED for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from daiko.device.block import BlockDevice, Buffer, Done, Level
from daiko.device.error import DeviceError, Miscompare
from daiko.device.layer.layer import Layer
from daiko.device.sanitize import Sanitization, SanitizeWatcher

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


def ored(one: Buffer, other: Buffer) -> bytes:
    """The OR of two buffers of one length."""
    joined = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return joined.to_bytes(len(one), "little")


def or_write(device: BlockDevice, lba: int, data: Buffer, done: Done) -> None:
    """ORWRITE by read and write. The caller keeps other writes away meanwhile."""

    def have_read(error: DeviceError | None, found: Buffer) -> None:
        if error is not None:
            done(error)
        else:
            device.write(lba, ored(found, data), done)

    device.read(lba, len(data) // device.block_size, have_read)


class Emulate(Layer):
    """The device below, with FUA, WRITE SAME and UNMAP whatever it has of them."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        has = below.capabilities
        self.capabilities = replace(
            has,
            unmap=has.unmap or Level.EMULATED,
            write_same=has.write_same or Level.EMULATED,
            fua=has.fua or Level.EMULATED,
            unmapped_reads_zero=has.unmapped_reads_zero or not has.unmap,
        )
        self._has = has

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        if fua and not self._has.fua:
            write_fua(self.below, lba, data, done)
        else:
            self.below.write(lba, data, done, fua)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        if self._has.unmap:
            self.below.unmap(lba, blocks, done)
        else:
            unmap(self.below, lba, blocks, done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        if self._has.write_same:
            self.below.write_same(lba, blocks, pattern, done)
        else:
            write_same(self.below, lba, blocks, pattern, done)

    def sanitize(
        self, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool = False
    ) -> Callable[[], None] | None:
        return self.below.sanitize(wanted, watcher, resume=resume)
