"""What hosts ask of a paired volume that changes it, each as an object: how it is carried out on
the side that hosts use, and how the other side is brought to the same.

Not every operation can be sent to both sides alike. What a COMPARE AND WRITE or an ORWRITE leaves
depends on what was there, and is known only afterwards; what an UNMAP leaves depends on the device
(SBC-4, 4.7.4.7: of a range, it may deallocate what it likes). So these are carried out on the one
side, and the other side is then given the result; and an UNMAP is made of writing zeros, which
devices that can turn into deallocated blocks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

from daiko.device.block import BlockDevice, Buffer, Done
from daiko.device.error import DeviceError

PIECE_BYTES: Final = 1 << 20
"""Of one read and write where the result has to be fetched."""


class Outcome:
    """What a change leaves in its blocks."""

    __slots__ = ("data", "is_same")

    def __init__(self, data: Buffer, *, is_same: bool) -> None:
        self.data = data
        self.is_same = is_same
        """The data is one block, and all of them are like it."""


class Change(ABC):
    """One request that changes blocks from `lba` on."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks

    @property
    def is_known(self) -> bool:
        """Whether the data is known before it is carried out: then both sides can work at once."""
        return True

    @property
    def outcome(self) -> Outcome | None:
        """What it leaves, once `lead` has succeeded; None: that has to be read."""
        return None

    @abstractmethod
    def perform(self, device: BlockDevice, lba: int, done: Done) -> None:
        """Carry it out where it stays alone: the other side gets the blocks later, or never."""

    def lead(self, device: BlockDevice, lba: int, done: Done) -> None:
        """Carry it out so that the other side can be brought to the same."""
        self.perform(device, lba, done)

    @abstractmethod
    def follow(self, leading: BlockDevice, device: BlockDevice, lba: int, done: Done) -> None:
        """Bring the other side to the same; after `lead` was done, unless `is_known`."""


class Write(Change):
    """WRITE, and WRITE ATOMIC: what is atomic is what readers of the leading side see."""

    def __init__(
        self, data: Buffer, blocks: int, *, fua: bool = False, atomic: bool = False
    ) -> None:
        super().__init__(blocks)
        self._data = data
        self._fua = fua
        self._atomic = atomic

    @property
    def outcome(self) -> Outcome | None:
        return Outcome(self._data, is_same=False)

    def perform(self, device: BlockDevice, lba: int, done: Done) -> None:
        if self._atomic:
            device.write_atomic(lba, self._data, done)
        else:
            device.write(lba, self._data, done, self._fua)

    def follow(self, leading: BlockDevice, device: BlockDevice, lba: int, done: Done) -> None:
        device.write(lba, self._data, done, self._fua)


class WriteSame(Change):
    """WRITE SAME."""

    def __init__(self, blocks: int, pattern: Buffer) -> None:
        super().__init__(blocks)
        self._pattern = pattern

    @property
    def outcome(self) -> Outcome | None:
        return Outcome(self._pattern, is_same=True)

    def perform(self, device: BlockDevice, lba: int, done: Done) -> None:
        device.write_same(lba, self.blocks, self._pattern, done)

    def follow(self, leading: BlockDevice, device: BlockDevice, lba: int, done: Done) -> None:
        device.write_same(lba, self.blocks, self._pattern, done)


class Unmap(Change):
    """UNMAP."""

    def __init__(self, blocks: int, block_size: int) -> None:
        super().__init__(blocks)
        self._zeros = WriteSame(blocks, bytes(block_size))

    @property
    def outcome(self) -> Outcome | None:
        return self._zeros.outcome

    def perform(self, device: BlockDevice, lba: int, done: Done) -> None:
        device.unmap(lba, self.blocks, done)

    def lead(self, device: BlockDevice, lba: int, done: Done) -> None:
        self._zeros.lead(device, lba, done)

    def follow(self, leading: BlockDevice, device: BlockDevice, lba: int, done: Done) -> None:
        self._zeros.follow(leading, device, lba, done)


class CompareAndWrite(Change):
    """COMPARE AND WRITE."""

    def __init__(self, compare: Buffer, data: Buffer, blocks: int) -> None:
        super().__init__(blocks)
        self._compare = compare
        self._data = data

    @property
    def is_known(self) -> bool:
        return False

    @property
    def outcome(self) -> Outcome | None:
        return Outcome(self._data, is_same=False)

    def perform(self, device: BlockDevice, lba: int, done: Done) -> None:
        device.compare_and_write(lba, self._compare, self._data, done)

    def follow(self, leading: BlockDevice, device: BlockDevice, lba: int, done: Done) -> None:
        device.write(lba, self._data, done)


class OrWrite(Change):
    """ORWRITE."""

    def __init__(self, data: Buffer, blocks: int) -> None:
        super().__init__(blocks)
        self._data = data

    @property
    def is_known(self) -> bool:
        return False

    def perform(self, device: BlockDevice, lba: int, done: Done) -> None:
        device.or_write(lba, self._data, done)

    def follow(self, leading: BlockDevice, device: BlockDevice, lba: int, done: Done) -> None:
        copy_blocks(leading, device, lba, self.blocks, done)


def copy_blocks(
    source: BlockDevice, device: BlockDevice, lba: int, blocks: int, done: Done
) -> None:
    """Read blocks from `source` and write them at the same place of `device`, piece by piece."""
    most = PIECE_BYTES // source.block_size

    def go_on(at: int) -> None:
        count = min(most, lba + blocks - at)
        if not count:
            done(None)
            return

        def has_read(error: DeviceError | None, data: Buffer) -> None:
            if error is not None:
                done(error)
            else:
                device.write(at, data, has_written)

        def has_written(error: DeviceError | None) -> None:
            if error is not None:
                done(error)
            else:
                go_on(at + count)

        source.read(at, count, has_read)

    go_on(lba)
