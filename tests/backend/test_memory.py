from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.device import awaitable
from daiko.device.block import BlockDevice
from daiko.device.error import Aborted
from device.suite import BlockDeviceSuite


@pytest.mark.parametrize("block_size", [512, 4096])
class TestMemoryDevice(BlockDeviceSuite):
    @pytest.fixture
    async def device(self, block_size: int) -> AsyncIterator[BlockDevice]:
        device = MemoryDevice(12000, block_size)
        yield device
        device.close()


async def test_closed_device_answers_aborted() -> None:
    device = MemoryDevice(1024)
    device.close()
    device.close()
    for operation in (
        awaitable.read(device, 0, 1),
        awaitable.write(device, 0, bytes(512)),
        awaitable.flush(device),
        awaitable.compare_and_write(device, 0, bytes(512), bytes(512)),
    ):
        with pytest.raises(Aborted):
            await operation


@pytest.mark.parametrize(("blocks", "block_size"), [(0, 512), (-1, 512), (8, 520), (8, 0)])
def test_impossible_geometry_is_refused(blocks: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="no such device"):
        MemoryDevice(blocks, block_size)
