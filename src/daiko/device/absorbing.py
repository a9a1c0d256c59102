"""A device that takes every change and keeps none: for blocks that are written elsewhere."""

from __future__ import annotations

from daiko.device.block import BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.error import Unsupported


class Absorbing(BlockDevice):
    """Nothing can be read from it. It lacks no operation, so that what it is a part of has those
    of the other parts."""

    def __init__(self, blocks: int, block_size: int) -> None:
        self.blocks = blocks
        self.block_size = block_size
        self.capabilities = Capabilities(
            unmap=Level.NONE,
            write_same=Level.NATIVE,
            compare_and_write=Level.NATIVE,
            fua=Level.NATIVE,
            unmapped_reads_zero=True,
        )

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        done(Unsupported("these blocks lie elsewhere"), b"")

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        done(None)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        done(None)

    def flush(self, done: Done) -> None:
        done(None)
