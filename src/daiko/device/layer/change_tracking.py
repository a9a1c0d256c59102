"""Remembers which blocks were written while it is in place.

A backup of a volume in use is not of one instant when hosts wrote to it meanwhile; this layer, put
over the volume while the job runs, says how many blocks those were and which. The bit is set
*before* the write is passed on: a write that fails may have changed the medium all the same.

The bitmap has one bit a region. A region is one block until the bitmap would grow beyond 4 MiB
(16 GiB of 512-byte blocks); above that a power of two of blocks, and `changed_blocks` is then the
size of the regions touched: never less than what was written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from daiko.device.block import BlockDevice, Buffer, Capabilities, Done
from daiko.device.layer.overlay import Overlay
from daiko.device.sanitize import Sanitization, SanitizeWatcher

_MAXIMUM_BITMAP_BYTES = 4 << 20
_SOME_SET = re.compile(rb"[^\x00]")
_SOME_CLEAR = re.compile(rb"[^\xff]")


class ChangeTracking(Overlay):
    """The device below, and a record of what is written to it."""

    def __init__(
        self, below: BlockDevice, *, maximum_bitmap_bytes: int = _MAXIMUM_BITMAP_BYTES
    ) -> None:
        super().__init__(below)
        shift = 0
        while (below.blocks >> shift) > maximum_bitmap_bytes * 8:
            shift += 1
        self._shift = shift
        self._regions = (below.blocks + (1 << shift) - 1) >> shift
        self._bitmap = bytearray((self._regions + 7) // 8)
        self._changed_regions = 0

    def grow(self, capabilities: Capabilities) -> None:
        """What was noted stays noted."""
        super().grow(capabilities)
        self._regions = (self.blocks + (1 << self._shift) - 1) >> self._shift
        self._bitmap.extend(bytes((self._regions + 7) // 8 - len(self._bitmap)))

    @property
    def granularity(self) -> int:
        """Blocks a region."""
        return 1 << self._shift

    @property
    def has_changed(self) -> bool:
        """Whether anything was written."""
        return self._changed_regions > 0

    @property
    def changed_blocks(self) -> int:
        """Blocks in the regions that were written to."""
        blocks = self._changed_regions << self._shift
        # The last region may be cut short by the end of the device.
        last = self._regions - 1
        if blocks and self._bitmap[last >> 3] >> (last & 7) & 1:
            blocks -= (self._regions << self._shift) - self.blocks
        return blocks

    def changed_in(self, first: int, blocks: int) -> int:
        """How many blocks of a range lie in regions that were written to. By counting bits: as
        quick for a volume that was written all over as for one that was not."""
        if blocks <= 0 or not self._changed_regions:
            return 0
        shift, last_block = self._shift, first + blocks - 1
        low, high = first >> shift, last_block >> shift
        field = int.from_bytes(self._bitmap[low >> 3 : (high >> 3) + 1], "little")
        field = (field >> (low & 7)) & ((1 << (high - low + 1)) - 1)
        changed = field.bit_count() << shift
        # The regions at both ends may reach out of the range.
        if field & 1:
            changed -= first - (low << shift)
        if field >> (high - low) & 1:
            changed -= ((high + 1) << shift) - 1 - last_block
        return changed

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(first block, blocks) of each run of changed regions, ascending."""
        if not self._changed_regions:
            return
        start = -1
        region = 0
        while region < self._regions:
            if not region & 7:
                # Over long runs at the speed of a search: the bitmap has up to 32 million bits.
                other = (_SOME_SET if start < 0 else _SOME_CLEAR).search(self._bitmap, region >> 3)
                if other is None:
                    break
                region = other.start() << 3
            if self._bitmap[region >> 3] >> (region & 7) & 1:
                if start < 0:
                    start = region
            elif start >= 0:
                yield self._run(start, region)
                start = -1
            region += 1
        if start >= 0:
            yield self._run(start, self._regions)

    def clear(self) -> None:
        """Forget all changes."""
        self._bitmap = bytearray(len(self._bitmap))
        self._changed_regions = 0

    def _run(self, start: int, end: int) -> tuple[int, int]:
        first = start << self._shift
        return first, min(end << self._shift, self.blocks) - first

    def _mark(self, lba: int, blocks: int) -> None:
        if blocks <= 0:
            return
        bitmap = self._bitmap
        first = lba >> self._shift
        last = (lba + blocks - 1) >> self._shift
        start, end = first >> 3, (last >> 3) + 1
        # One integer operation over the bytes that hold bits first..last.
        mask = ((1 << (last - first + 1)) - 1) << (first & 7)
        old = int.from_bytes(bitmap[start:end], "little")
        new = old | mask
        if new != old:
            self._changed_regions += new.bit_count() - old.bit_count()
            bitmap[start:end] = new.to_bytes(end - start, "little")

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        self._mark(lba, len(data) // self.block_size)
        self.below.write(lba, data, done, fua)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self._mark(lba, blocks)
        self.below.unmap(lba, blocks, done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self._mark(lba, blocks)
        self.below.write_same(lba, blocks, pattern, done)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        self._mark(lba, len(data) // self.block_size)
        self.below.compare_and_write(lba, compare, data, done)

    def copy_from(
        self, lba: int, source: BlockDevice, source_lba: int, blocks: int, done: Done
    ) -> bool:
        # Where the devices cannot, the caller writes the same blocks, which marks them as well.
        self._mark(lba, blocks * source.block_size // self.block_size)
        return self.below.copy_from(lba, source, source_lba, blocks, done)

    def held_by(self, lba: int, blocks: int) -> tuple[BlockDevice, int] | None:
        return self.below.held_by(lba, blocks)

    def sanitize(
        self, wanted: Sanitization, watcher: SanitizeWatcher, *, resume: bool = False
    ) -> Callable[[], None] | None:
        # Where the device cannot, the caller writes the same blocks, which marks them as well.
        self._mark(0, self.blocks)
        return self.below.sanitize(wanted, watcher, resume=resume)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        self._mark(lba, len(data) // self.block_size)
        self.below.or_write(lba, data, done)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        self._mark(lba, len(data) // self.block_size)
        self.below.write_atomic(lba, data, done)
