"""Remembers which blocks were written while it is in place.

A backup of a volume in use is not of one instant when hosts wrote to it meanwhile; this layer, put
over the volume while the job runs, says how many blocks those were and which. The bit is set
*before* the write is passed on: a write that fails may have changed the medium all the same.

The bitmap (`mapping/region_bitmap.py`) has one bit a region. A region is one block until the bitmap
would grow beyond 4 MiB (16 GiB of 512-byte blocks); above that a power of two of blocks, and
`changed_blocks` is then the size of the regions touched: never less than what was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from daiko.device.block import BlockDevice, Buffer, Capabilities, Done
from daiko.device.layer.overlay import Overlay
from daiko.device.sanitize import Sanitization, SanitizeWatcher
from daiko.mapping.region_bitmap import RegionBitmap

_MAXIMUM_BITMAP_BYTES = 4 << 20


class ChangeTracking(Overlay):
    """The device below, and a record of what is written to it."""

    def __init__(
        self, below: BlockDevice, *, maximum_bitmap_bytes: int = _MAXIMUM_BITMAP_BYTES
    ) -> None:
        super().__init__(below)
        shift = 0
        while (below.blocks >> shift) > maximum_bitmap_bytes * 8:
            shift += 1
        self._changed = RegionBitmap(below.blocks, shift)

    def grow(self, capabilities: Capabilities) -> None:
        """What was noted stays noted."""
        super().grow(capabilities)
        self._changed.grow(self.blocks)

    @property
    def granularity(self) -> int:
        """Blocks a region."""
        return 1 << self._changed.shift

    @property
    def has_changed(self) -> bool:
        """Whether anything was written."""
        return self._changed.set_regions > 0

    @property
    def changed_blocks(self) -> int:
        """Blocks in the regions that were written to."""
        return self._changed.changed_blocks

    def changed_in(self, first: int, blocks: int) -> int:
        """How many blocks of a range lie in regions that were written to; beyond the end of the
        device nothing was."""
        return self._changed.blocks_in(first, max(0, min(blocks, self.blocks - first)))

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(first block, blocks) of each run of changed regions, ascending."""
        return self._changed.ranges()

    def clear(self) -> None:
        """Forget all changes."""
        self._changed.clear_all()

    def _mark(self, lba: int, blocks: int) -> None:
        # What reaches beyond the end is for the device below to refuse.
        end = min(lba + blocks, self._changed.blocks)
        if 0 <= lba < end:
            shift = self._changed.shift
            self._changed.mark(lba >> shift, end - 1 >> shift)

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
