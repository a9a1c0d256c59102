"""Volumes of other sites as places of the copy manager."""

from __future__ import annotations

import pytest

from copy_rig import Rig
from daiko.backend.memory import MemoryDevice
from daiko.command_control.decision import Place
from daiko.command_control.naming import DeviceAddress
from daiko.copy_manager.site_places import SitePlace, SitePlaces
from daiko.device.awaitable import flush, read, write
from daiko.device.error import MediumFailure, OutOfRange, Unreachable
from daiko.device.layer.fault import Fault, Operation
from daiko.mapping.extent import DeviceId, Extent, Piece
from daiko.mapping.mapping_table import MappingTable

ONE, OTHER = DeviceId("osaka:sd7", 0), DeviceId("osaka:sd7", 1)


def site_place(name: str, *extents: Extent, generation: int = 1) -> tuple[SitePlace, Fault]:
    table = MappingTable(extents)
    volume = Fault(MemoryDevice(table.blocks))
    directory = {
        device: DeviceAddress(device, 512, (), "iqn.x", ("192.0.2.1:3260",), device.lun)
        for device in table.devices
    }
    place = Place(name, 512, table.blocks, table)
    return SitePlace(place, directory, volume, lambda: generation), volume


async def test_blocks_of_a_device_are_those_of_the_volumes_on_it() -> None:
    places = SitePlaces(Rig())
    beta, one = site_place("osaka:beta", Extent(0, 8, ONE, 100), Extent(8, 8, OTHER, 0))
    delta, two = site_place("osaka:delta", Extent(0, 4, ONE, 108), Extent(4, 4, ONE, 112))
    places.show(beta)
    places.show(delta)
    device = places.destination(Piece(ONE, 100, 4))
    await write(device, 102, b"b" * 512)
    await write(device, 110, b"d" * 1536)  # over two extents that are one run
    assert bytes(await read(one, 2, 1)) == b"b" * 512
    assert bytes(await read(two, 2, 3)) == b"d" * 1536
    assert bytes(await read(device, 111, 1)) == b"d" * 512
    await write(places.block_device(OTHER), 7, b"e" * 512)
    assert bytes(await read(one, 15, 1)) == b"e" * 512
    for lba, blocks in ((107, 2), (99, 1), (116, 1)):
        with pytest.raises(OutOfRange):
            await write(device, lba, bytes(512 * blocks))
    await flush(device)
    two.fail(Operation.FLUSH, error=lambda: MediumFailure("worn out", writing=True))
    with pytest.raises(MediumFailure):
        await flush(device)


async def test_places_are_there_until_they_are_hidden() -> None:
    rig = Rig()
    rig.attach("sd1")
    places = SitePlaces(rig)
    beta, _ = site_place("osaka:beta", Extent(0, 8, ONE, 0), generation=7)
    places.show(beta)
    assert places.place("osaka:beta").blocks == 8
    assert ONE in places.directory()
    assert places.second_controller("osaka:sd7").generation == 7
    with pytest.raises(Unreachable, match="from its own site"):
        await places.second_controller("osaka:sd7").execute(0, bytes(6))
    with pytest.raises(LookupError, match="under no volume that is copied to"):
        places.block_device(DeviceId("osaka:sd7", 9))
    with pytest.raises(LookupError, match="known at its site only"):
        places.track("osaka:beta")
    places.hide("osaka:beta")
    assert ONE not in places.directory()
    with pytest.raises(LookupError):
        places.place("osaka:beta")


def test_device_of_which_two_things_are_said_is_named_to_nobody() -> None:
    places = SitePlaces(Rig())
    beta, _ = site_place("osaka:beta", Extent(0, 8, ONE, 0))
    delta, _ = site_place("osaka:delta", Extent(0, 8, ONE, 8))
    places.show(beta)
    places.show(delta)
    assert not places.directory()[ONE].withheld
    moved = {ONE: DeviceAddress(ONE, 512, (), "iqn.y", ("192.0.2.1:3260",), 0)}
    places.show(SitePlace(delta.place, moved, delta.volume, delta.generation))
    assert "now this of it, now that" in places.directory()[ONE].withheld
