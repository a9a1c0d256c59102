"""The door by which a leader writes to the side that follows."""

from __future__ import annotations

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.device.awaitable import (
    compare_and_write,
    flush,
    or_write,
    read,
    unmap,
    write,
    write_atomic,
    write_same,
)
from daiko.device.block import BlockDevice
from daiko.device.error import Unsupported, WriteProtected
from daiko.pair.peer_door import PeerDoor

ONE = b"1" * 512
CHANGES = {
    "write": lambda door: write(door, 0, ONE),
    "write_atomic": lambda door: write_atomic(door, 0, ONE),
    "unmap": lambda door: unmap(door, 0, 1),
    "write_same": lambda door: write_same(door, 0, 1, ONE),
    "compare_and_write": lambda door: compare_and_write(door, 0, bytes(512), ONE),
    "or_write": lambda door: or_write(door, 0, ONE),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_nothing_changes_through_a_closed_door(change: str) -> None:
    door = PeerDoor(MemoryDevice(8, 512))
    for _ in range(2):
        with pytest.raises(WriteProtected):
            await CHANGES[change](door)
        door.open_for_writes()
        door.close_for_writes()
    assert bytes(await read(door, 0, 1)) == bytes(512)
    await flush(door)


@pytest.mark.parametrize("change", CHANGES)
async def test_everything_goes_through_an_open_door(change: str) -> None:
    below: BlockDevice = MemoryDevice(8, 512)
    door = PeerDoor(below)
    door.open_for_writes()
    try:
        await CHANGES[change](door)
    except Unsupported:
        return  # as the device below says
    assert bytes(await read(below, 0, 1)) == (bytes(512) if change == "unmap" else ONE)
