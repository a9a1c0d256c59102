"""A device that takes no writes."""

from __future__ import annotations

from dataclasses import replace

from daiko.device.block import BlockDevice, Buffer, Done
from daiko.device.error import WriteProtected
from daiko.device.layer.layer import Layer


class ReadOnly(Layer):
    """Answers every request that would change the data with `WriteProtected`."""

    def __init__(self, below: BlockDevice) -> None:
        super().__init__(below)
        self.capabilities = replace(below.capabilities, read_only=True)

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        done(WriteProtected("the device is read-only"))

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        done(WriteProtected("the device is read-only"))

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        done(WriteProtected("the device is read-only"))

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        done(WriteProtected("the device is read-only"))

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        done(WriteProtected("the device is read-only"))

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        done(WriteProtected("the device is read-only"))
