"""A device in memory: everything completes inline. What it holds is gone with the process."""

from __future__ import annotations

import mmap

from daiko.device.block import Atomic, BlockDevice, Buffer, Capabilities, Done, Level, ReadDone
from daiko.device.emulate import first_difference, ored
from daiko.device.error import Aborted, DeviceError, Miscompare, OutOfRange


class MemoryDevice(BlockDevice):
    """`blocks` blocks of zeros to begin with; pages of memory are taken as they are written."""

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
        # An anonymous mapping rather than a bytearray: nothing is allocated before it is used.
        self._memory: mmap.mmap | None = mmap.mmap(-1, blocks * block_size)

    def _refusal(self, lba: int, blocks: int) -> DeviceError | None:
        if self._memory is None:
            return Aborted("the device is closed")
        if lba < 0 or blocks < 0 or lba + blocks > self.blocks:
            return OutOfRange(f"blocks {lba}..{lba + blocks - 1} of {self.blocks}")
        return None

    def read(self, lba: int, blocks: int, done: ReadDone) -> None:
        memory = self._memory
        if memory is None or lba < 0 or blocks < 0 or lba + blocks > self.blocks:
            done(self._refusal(lba, blocks), b"")
            return
        start = lba * self.block_size
        done(None, memory[start : start + blocks * self.block_size])

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        memory = self._memory
        start = lba * self.block_size
        end = start + len(data)
        if memory is None or lba < 0 or end > len(memory):
            done(self._refusal(lba, len(data) // self.block_size))
            return
        memory[start:end] = data
        done(None)

    def flush(self, done: Done) -> None:
        done(self._refusal(0, 0))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self.write_same(lba, blocks, bytes(self.block_size), done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        refusal = self._refusal(lba, blocks)
        if refusal is None and self._memory is not None:
            self._memory.seek(lba * self.block_size)
            whole = bytes(pattern) * min(blocks, 2048)
            for position in range(0, blocks, 2048):
                count = min(2048, blocks - position)
                self._memory.write(memoryview(whole)[: count * self.block_size])
        done(refusal)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        refusal = self._refusal(lba, len(compare) // self.block_size)
        if refusal is None and self._memory is not None:
            start = lba * self.block_size
            found = self._memory[start : start + len(compare)]
            if (offset := first_difference(found, compare)) >= 0:
                refusal = Miscompare("the blocks hold other data", offset=offset)
            else:
                self._memory[start : start + len(data)] = data
        done(refusal)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        refusal = self._refusal(lba, len(data) // self.block_size)
        if refusal is None and self._memory is not None:
            start, end = lba * self.block_size, lba * self.block_size + len(data)
            self._memory[start:end] = ored(self._memory[start:end], data)
        done(refusal)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        """There is nothing that a crash could leave half done."""
        self.write(lba, data, done)

    def is_native(self, operation: Atomic, lba: int, blocks: int) -> bool:
        return True

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
            self._memory = None
