"""The operations of a `BlockDevice` as coroutines, for everything that is not the data path.

Each raises the `DeviceError` that the device reports. When the waiting task is cancelled the
request itself goes on (a device has no way to take it back); its outcome is dropped.
"""

from __future__ import annotations

import asyncio

from daiko.device.block import BlockDevice, Buffer
from daiko.device.error import DeviceError


def _settle(future: asyncio.Future[Buffer], error: DeviceError | None, data: Buffer = b"") -> None:
    if future.cancelled():
        return
    if error is None:
        future.set_result(data)
    else:
        future.set_exception(error)


async def read(device: BlockDevice, lba: int, blocks: int) -> Buffer:
    """The data of `blocks` blocks from `lba` on."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    device.read(lba, blocks, lambda error, data: _settle(future, error, data))
    return await future


async def write(device: BlockDevice, lba: int, data: Buffer, *, fua: bool = False) -> None:
    """Write `data` from `lba` on."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    device.write(lba, data, lambda error: _settle(future, error), fua)
    await future


async def flush(device: BlockDevice) -> None:
    """Bring all completed writes to stable storage."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    device.flush(lambda error: _settle(future, error))
    await future


async def unmap(device: BlockDevice, lba: int, blocks: int) -> None:
    """Give up the contents of the range."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    device.unmap(lba, blocks, lambda error: _settle(future, error))
    await future


async def write_same(device: BlockDevice, lba: int, blocks: int, pattern: Buffer) -> None:
    """Write `pattern` (one block) to each block of the range."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    device.write_same(lba, blocks, pattern, lambda error: _settle(future, error))
    await future


async def or_write(device: BlockDevice, lba: int, data: Buffer) -> None:
    """Set in the range the bits that are set in `data`."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    device.or_write(lba, data, lambda error: _settle(future, error))
    await future


async def write_atomic(device: BlockDevice, lba: int, data: Buffer) -> None:
    """Write all of `data` or nothing."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    device.write_atomic(lba, data, lambda error: _settle(future, error))
    await future


async def prefetch(device: BlockDevice, lba: int, blocks: int) -> bool:
    """Bring the range into the cache; returns whether all of it has room there."""
    future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def done(error: DeviceError | None, fits: bool) -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(fits)
        else:
            future.set_exception(error)

    device.prefetch(lba, blocks, done)
    return await future


async def compare_and_write(device: BlockDevice, lba: int, compare: Buffer, data: Buffer) -> None:
    """Write `data` if the range holds `compare`; raises `Miscompare` otherwise."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    device.compare_and_write(lba, compare, data, lambda error: _settle(future, error))
    await future


async def copy_from(
    device: BlockDevice, lba: int, source: BlockDevice, source_lba: int, blocks: int
) -> bool:
    """Copy `blocks` blocks of `source` to `lba` of `device`; False: they cannot do it among
    themselves, and nothing was written."""
    future: asyncio.Future[Buffer] = asyncio.get_running_loop().create_future()
    if not device.copy_from(lba, source, source_lba, blocks, lambda error: _settle(future, error)):
        return False
    await future
    return True
