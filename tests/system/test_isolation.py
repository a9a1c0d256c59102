"""One back end that is dead, in each of the ways in which one can be, delays no I/O to another.

A host has one session to the controller and sees two units there: one over a second controller that
stops to answer while commands are at it, one that works. What is counted is completions: everything
for the unit that works is answered while nothing for the other one is. No time is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.backend.remote_lu import RemoteLu
from daiko.backend.second_controller import SecondController
from daiko.device import awaitable
from daiko.device.block import BlockDevice
from daiko.device.error import DeviceError
from daiko.device.layer.delay import Delay
from daiko.initiator.settings import InitiatorSettings
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.mapping_table import MappingTable
from daiko.target.access import Access
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.target.portal import Target
from daiko.virtual_lu.virtual_lu import VirtualLu
from target.memory_access import IQN, MemoryAccess, serving

PATIENT = InitiatorSettings(
    command_timeout=3600.0, ping_interval=3600.0, grace=3600.0, queue_depth=1000
)
LARGE = 1024
"""Blocks: 512 KiB."""
MANY = 100
"""Large commands to the dead unit: more than the room of a session, less than its window."""


@dataclass
class Second:
    """The back end that is going to die."""

    access: MemoryAccess
    target: Target
    portal: str
    silent: list[asyncio.Server] = field(default_factory=list)

    async def answer_nothing(self) -> None:
        """It takes commands, and that is all."""
        self.access.hold = True

    async def read_nothing(self) -> None:
        """It reads no more: what is sent to it fills every buffer on the way."""
        for connection in self.target.connections:
            connection.connection.pause_reading()

    async def drop_and_say_nothing(self) -> None:
        """The connection is lost; a new one is accepted, and nobody answers the login."""
        await self.target.stop(0.1)
        host, _, port = self.portal.rpartition(":")

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        self.silent.append(await asyncio.start_server(accept, host, int(port)))

    async def refuse_connections(self) -> None:
        """The connection is lost, and nobody listens any more."""
        await self.target.stop(0.1)


@asynccontextmanager
async def second() -> AsyncIterator[tuple[Second, RemoteLu]]:
    access = MemoryAccess()
    async with serving(access) as (target, portal):
        made = Second(access, target, portal)
        controller = SecondController(
            "dead", IQN, [portal], "iqn.2026-11.com.example:first", settings=PATIENT
        )
        await controller.open()
        try:
            yield made, controller.device(0)
        finally:
            access.release()
            for server in made.silent:
                server.close()
            await controller.close()


def unit(name: str, number: int, device: BlockDevice) -> LogicalUnit:
    return LogicalUnit(Identity(name, bytes((0x60, *bytes(14), number))), device)


@asynccontextmanager
async def host_of(units: dict[int, LogicalUnit]) -> AsyncIterator[SecondController]:
    access = Access()
    access.publish({"*": units})
    first = Target("iqn.2026-11.com.example:first", access)
    portal = await first.listen("127.0.0.1:0")
    host = SecondController(
        "first", first.iqn, [portal], "iqn.2026-11.com.example:host", settings=PATIENT
    )
    await host.open()
    try:
        yield host
    finally:
        host._paths.give_up_session("the test is over")
        await host.close()
        await first.stop(0.1)


def load(device: BlockDevice, ended: list[DeviceError | None]) -> None:
    """Far more than the room of a session, in both directions."""
    for number in range(MANY):
        if number % 2:
            device.write(LARGE * (number % 8), bytes(LARGE * 512), ended.append)
        else:
            device.read(LARGE * (number % 8), LARGE, lambda error, _: ended.append(error))


async def work(device: BlockDevice) -> None:
    """Everything that a host does to a unit that works, and large requests among it."""
    for number in range(40):
        data = bytes([number + 1]) * 4096
        await awaitable.write(device, 8 * number, data)
        assert bytes(await awaitable.read(device, 8 * number, 8)) == data
    await asyncio.gather(*(awaitable.read(device, 0, LARGE) for _ in range(8)))
    await asyncio.gather(
        *(awaitable.write(device, LARGE * number, bytes(LARGE * 512)) for number in range(8))
    )
    await awaitable.flush(device)


@pytest.mark.parametrize(
    "die",
    [
        Second.answer_nothing,
        Second.read_nothing,
        Second.drop_and_say_nothing,
        Second.refuse_connections,
    ],
    ids=lambda die: die.__name__,
)
async def test_unit_on_a_dead_back_end_delays_no_other_unit_of_the_host(
    die: Callable[[Second], Awaitable[None]],
) -> None:
    ended: list[DeviceError | None] = []
    async with second() as (dying, remote), asyncio.timeout(60):
        units = {0: unit("dead", 1, remote), 1: unit("alive", 2, MemoryDevice(8192))}
        async with host_of(units) as host:
            await work(host.device(0))  # it lives, still
            await die(dying)
            load(host.device(0), ended)
            await work(host.device(1))
            assert not ended


async def test_slow_unit_holds_back_its_own_commands_only() -> None:
    slow = Delay(MemoryDevice(8192))
    ended: list[DeviceError | None] = []
    async with asyncio.timeout(60):
        units = {0: unit("slow", 1, slow), 1: unit("quick", 2, MemoryDevice(8192))}
        async with host_of(units) as host:
            load(host.device(0), ended)
            await work(host.device(1))
            assert not ended
            assert slow.held
            while len(ended) < MANY:
                slow.release(1)
                await asyncio.sleep(0)
            assert ended == [None] * MANY


async def test_extent_on_a_dead_back_end_delays_no_other_extent_of_the_volume() -> None:
    ended: list[DeviceError | None] = []
    async with second() as (dying, remote), asyncio.timeout(60):
        alive, dead = DeviceId("alive", 0), DeviceId("dead", 0)
        table = MappingTable([Extent(0, 8192, alive, 0), Extent(8192, 8192, dead, 0)])
        volume = VirtualLu(table, {alive: MemoryDevice(8192), dead: remote}, 512)
        async with host_of({0: unit("both", 1, volume)}) as host:
            device = host.device(0)
            await dying.answer_nothing()
            for number in range(20):
                device.write(8192 + 8 * number, bytes(4096), ended.append)
            for number in range(100):
                data = bytes([number + 1]) * 4096
                await awaitable.write(device, 8 * number, data)
                assert bytes(await awaitable.read(device, 8 * number, 8)) == data
            assert not ended
