"""Writes that are on stable storage when they are done, by whatever means the device has."""

from __future__ import annotations

from daiko.device.block import BlockDevice, Buffer, Done, Level
from daiko.device.emulate import write_fua


def write_through(device: BlockDevice, lba: int, data: Buffer, done: Done) -> None:
    """Write to stable storage, by the device's own means or by a flush afterwards."""
    if device.capabilities.fua is Level.NONE:
        write_fua(device, lba, data, done)
    else:
        device.write(lba, data, done, True)
