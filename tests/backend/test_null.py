from __future__ import annotations

import pytest

from daiko.backend.null import NullDevice
from daiko.device import awaitable
from daiko.device.error import Miscompare, OutOfRange


async def test_null_device_reads_zeros_whatever_is_written() -> None:
    device = NullDevice(1 << 20, 4096)
    await awaitable.write(device, 5, b"\1" * 4096)
    await awaitable.write_same(device, 5, 8, b"\1" * 4096)
    await awaitable.unmap(device, 5, 8)
    await awaitable.flush(device)
    assert bytes(await awaitable.read(device, 5, 1)) == bytes(4096)
    assert bytes(await awaitable.read(device, 5, 300)) == bytes(300 * 4096)


async def test_null_device_compares_with_zeros() -> None:
    device = NullDevice(100)
    await awaitable.compare_and_write(device, 0, bytes(512), b"\1" * 512)
    with pytest.raises(Miscompare) as caught:
        await awaitable.compare_and_write(device, 0, bytes(511) + b"\1", bytes(512))
    assert caught.value.offset == 511


async def test_null_device_has_an_end() -> None:
    device = NullDevice(100)
    for operation in (
        awaitable.read(device, 100, 1),
        awaitable.write(device, 99, bytes(1024)),
        awaitable.unmap(device, 99, 2),
        awaitable.write_same(device, 99, 2, bytes(512)),
        awaitable.compare_and_write(device, 100, bytes(512), bytes(512)),
    ):
        with pytest.raises(OutOfRange):
            await operation


@pytest.mark.parametrize(("blocks", "block_size"), [(0, 512), (8, 520)])
def test_impossible_geometry_is_refused(blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="no such device"):
        NullDevice(blocks, block_size)
