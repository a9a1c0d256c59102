"""A second controller with two portal groups: the session goes the way that is best."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from daiko.control import portal_groups, volumes
from daiko.control.system import System
from daiko.device import awaitable
from daiko.mapping.extent import DeviceId
from daiko.state.record import GroupState
from processes import free_port

from .test_inventory import Second

OPTIMIZED, NON_OPTIMIZED = GroupState.ACTIVE_OPTIMIZED, GroupState.ACTIVE_NON_OPTIMIZED


class Paths:
    """The first controller's way to the second, with a volume over it."""

    def __init__(self, first: System, second: System, portals: tuple[str, str]) -> None:
        self.first = first
        self.second = second
        self.portals = portals
        self.controller = first.devices.second_controller("sd1")
        self.device = first.unit("alpha").device

    @property
    def tag(self) -> int:
        """The portal group of the session; 0 while there is none."""
        nexus = self.controller.nexus
        return 0 if nexus is None or not self.controller.is_connected else nexus.portal_group_tag

    async def until(self, claim: Callable[[], bool]) -> None:
        """Read block after block until it is so."""
        async with asyncio.timeout(30):
            while not claim():
                await awaitable.read(self.device, 0, 1)

    async def set(self, number: int, state: GroupState) -> None:
        await portal_groups.set_state(self.second, number, state)


@pytest.fixture
async def paths(system: System, tmp_path: Path) -> AsyncIterator[Paths]:
    second = Second(tmp_path)
    await second.start()
    await second.serve(0, 2048)
    assert second.system is not None
    other = f"127.0.0.1:{free_port()}"
    await portal_groups.add(second.system, other, 2)
    record = second.record().model_copy(update={"portals": (second.portal, other)})
    await system.attach_backend(record)
    await volumes.take_image(system, "alpha", DeviceId("sd1", 0))
    yield Paths(system, second.system, (second.portal, other))
    await second.stop()


async def test_session_moves_to_the_optimized_group_and_back(paths: Paths) -> None:
    await paths.until(lambda: paths.tag == 1)
    await paths.set(1, NON_OPTIMIZED)
    await paths.until(lambda: paths.tag == 2)
    await paths.set(1, OPTIMIZED)
    await paths.set(2, NON_OPTIMIZED)
    await paths.until(lambda: paths.tag == 1)


async def test_group_in_standby_costs_no_i_o(paths: Paths) -> None:
    await paths.until(lambda: paths.tag == 1)
    writes = [
        asyncio.ensure_future(awaitable.write(paths.device, lba, b"%04d" % lba * 128))
        for lba in range(64)
    ]
    await paths.set(1, GroupState.STANDBY)
    more = [
        asyncio.ensure_future(awaitable.write(paths.device, lba, b"%04d" % lba * 128))
        for lba in range(64, 128)
    ]
    await asyncio.gather(*writes, *more)
    assert paths.tag == 2
    for lba in (0, 63, 64, 127):
        assert await awaitable.read(paths.device, lba, 1) == b"%04d" % lba * 128


async def test_equal_groups_are_no_reason_to_move(paths: Paths) -> None:
    await paths.until(lambda: paths.tag == 1)
    generation = paths.controller.generation
    await paths.set(1, NON_OPTIMIZED)
    await paths.set(2, NON_OPTIMIZED)
    await paths.until(lambda: paths.tag != 0)
    await paths.controller.check_paths()
    settled = paths.controller.generation
    for _ in range(3):
        await paths.controller.check_paths()
        await awaitable.read(paths.device, 0, 1)
    assert paths.controller.generation == settled
    assert settled - generation <= 2


async def test_better_path_that_comes_later_is_found_by_a_look(paths: Paths) -> None:
    await portal_groups.set_state(paths.second, 2, GroupState.OFFLINE)
    await paths.until(lambda: paths.tag == 1)
    await paths.set(1, NON_OPTIMIZED)
    await paths.until(lambda: paths.tag == 1)
    await paths.set(2, OPTIMIZED)
    await paths.controller.check_paths()
    await paths.until(lambda: paths.tag == 2)
