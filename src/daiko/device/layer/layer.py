"""A device that passes every request to the one below: what all layers are built on."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from daiko.device.block import (
    Atomic,
    BlockDevice,
    Buffer,
    Done,
    PrefetchDone,
    ReadDone,
    Room,
    StatusDone,
)


@mypyc_attr(allow_interpreted_subclasses=True)
class Layer(BlockDevice):
    """Passes everything on, except `copy_from`, `held_by` and `sanitize`: these go past the reads
    and writes that a layer stands over, so each layer must say itself what it does with one.
    `close` closes the device below too, except where a layer that comes and goes on a living
    device says otherwise."""

    def __init__(self, below: BlockDevice) -> None:
        self.below = below
        self.block_size = below.block_size
        self.blocks = below.blocks
        self.capabilities = below.capabilities

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        self.below.read(lba, blocks, done)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        self.below.write(lba, data, done, fua)

    def flush(self, done: Done) -> None:
        self.below.flush(done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self.below.unmap(lba, blocks, done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self.below.write_same(lba, blocks, pattern, done)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        self.below.compare_and_write(lba, compare, data, done)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        self.below.or_write(lba, data, done)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        self.below.write_atomic(lba, data, done)

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return self.below.is_native(operation, lba, blocks)

    def exit_failure_mode(self, done: Done) -> None:
        self.below.exit_failure_mode(done)

    def prefetch(self, lba: int, blocks: int, done: PrefetchDone) -> None:
        self.below.prefetch(lba, blocks, done)

    def room(self) -> Room | None:
        return self.below.room()

    def lba_status(self, lba: int, blocks: int, done: StatusDone) -> None:
        self.below.lba_status(lba, blocks, done)

    def close(self) -> None:
        self.below.close()
