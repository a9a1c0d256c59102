"""A device that keeps nothing: reads give zeros, writes are forgotten. For measuring what is
above it."""

from __future__ import annotations

from daiko.device.block import Atomic, BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.emulate import first_difference
from daiko.device.error import Miscompare, OutOfRange

_ZEROS = memoryview(bytes(1 << 20))


class NullDevice(BlockDevice):
    """`blocks` blocks that always read as zeros."""

    def __init__(self, blocks: int, block_size: int = 512) -> None:
        if blocks < 1 or block_size not in (512, 4096):
            raise ValueError(f"{blocks} blocks of {block_size} bytes: no such device")
        self.block_size = block_size
        self.blocks = blocks
        self.capabilities = Capabilities(
            unmap=Level.NATIVE,
            write_same=Level.NATIVE,
            compare_and_write=Level.NATIVE,
            fua=Level.NATIVE,
            unmapped_reads_zero=True,
            atomic_blocks=blocks,
        )

    def _refusal(self, lba: int, blocks: int) -> OutOfRange | None:
        if lba < 0 or blocks < 0 or lba + blocks > self.blocks:
            return OutOfRange(f"blocks {lba}..{lba + blocks - 1} of {self.blocks}")
        return None

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        refusal = self._refusal(lba, blocks)
        length = 0 if refusal else blocks * self.block_size
        done(refusal, _ZEROS[:length] if length <= len(_ZEROS) else bytes(length))

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        done(self._refusal(lba, len(data) // self.block_size))

    def flush(self, done: Done) -> None:
        done(None)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        done(self._refusal(lba, blocks))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        done(self._refusal(lba, blocks))

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        refusal = self._refusal(lba, len(compare) // self.block_size)
        if refusal is None and (offset := first_difference(bytes(len(compare)), compare)) >= 0:
            done(Miscompare("the blocks hold other data", offset=offset))
        else:
            done(refusal)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        done(self._refusal(lba, len(data) // self.block_size))

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        done(self._refusal(lba, len(data) // self.block_size))

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return True
