"""Sessions to targets that nobody attached."""

from __future__ import annotations

import pytest

from copy_rig import Rig
from copy_target import FakeConnections
from daiko.copy_manager.other_machines import OtherMachines, TargetAmbiguous, WithOtherMachines
from daiko.device.error import Unreachable
from daiko.mapping.extent import DeviceId

PORTAL, OTHER_PORTAL = "192.0.2.7:3260", "192.0.2.8:3260"


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.attach("sd1", 64)
    rig.attach("far", 256, luns=2)
    return rig


@pytest.fixture
def connections(rig: Rig) -> FakeConnections:
    far = rig.unlist("far")
    return FakeConnections(rig, {PORTAL: (far,), OTHER_PORTAL: (far, rig.iqns["sd1"])})


@pytest.fixture
def machines(rig: Rig, connections: FakeConnections) -> OtherMachines:
    return OtherMachines(rig, connections)  # type: ignore[arg-type]


async def test_a_held_unit_is_a_device_like_any_other(
    rig: Rig, machines: OtherMachines, connections: FakeConnections
) -> None:
    lu = await machines.hold(rig.iqns["far"], PORTAL, 1)
    assert (lu.block_size, lu.blocks) == (512, 256)
    devices = WithOtherMachines(rig, machines)
    place = devices.place(lu.name)
    device, lba, _ = place.table.locate(7)
    assert lba == 7
    assert devices.block_device(device) is rig.disks[DeviceId("far", 1)]
    assert devices.directory()[device].portals == (PORTAL,)
    assert devices.second_controller(device.backend) is connections.opened[0]
    with pytest.raises(LookupError):
        devices.track(lu.name)
    assert devices.place("sd1/0").blocks == 64
    await machines.close()


async def test_a_session_is_used_by_all_and_ends_at_close(
    rig: Rig, machines: OtherMachines, connections: FakeConnections
) -> None:
    names = [(await machines.hold(rig.iqns["far"], PORTAL, lun)).name for lun in (0, 1, 0)]
    assert len(connections.opened) == 1
    await machines.release(names)
    assert connections.opened[0].is_open, "it stays for the next copy"
    await machines.close()
    assert not connections.opened[0].is_open


async def test_an_attached_device_is_used_where_one_is_meant(
    rig: Rig, machines: OtherMachines, connections: FakeConnections
) -> None:
    lu = await machines.hold(rig.iqns["sd1"], "192.0.2.1:3260", 0)
    assert lu.name == "sd1/0"
    assert connections.opened == []
    await machines.release([lu.name])


async def test_a_portal_without_name_must_have_one_target(machines: OtherMachines) -> None:
    assert await machines.only_target(PORTAL) == "iqn.2026-01.test:far"
    with pytest.raises(TargetAmbiguous, match="2 targets"):
        await machines.only_target(OTHER_PORTAL)
    with pytest.raises(TargetAmbiguous, match="0 targets"):
        await machines.only_target("192.0.2.99:3260")


async def test_a_target_that_cannot_be_reached_leaves_no_session_behind(
    rig: Rig, machines: OtherMachines
) -> None:
    rig.controllers["far"].is_down = True
    for _ in range(2):
        with pytest.raises(Unreachable):
            await machines.hold(rig.iqns["far"], PORTAL, 0)
    assert machines.addresses() == {}
    rig.controllers["far"].is_down = False
    assert (await machines.hold(rig.iqns["far"], PORTAL, 0)).blocks == 256
    await machines.close()


async def test_a_lun_that_is_not_there_is_not_held(rig: Rig, machines: OtherMachines) -> None:
    with pytest.raises(Unreachable, match="LUN 9"):
        await machines.hold(rig.iqns["far"], PORTAL, 9)
    await machines.close()


async def test_sessions_are_bounded_and_idle_ones_make_room(
    rig: Rig, machines: OtherMachines, connections: FakeConnections
) -> None:
    held = [await machines.hold(rig.iqns["far"], f"192.0.2.7:{port}", 0) for port in range(1, 65)]
    with pytest.raises(Unreachable, match="64 sessions"):
        await machines.hold(rig.iqns["far"], "192.0.2.7:9999", 0)
    await machines.release([held[10].name])
    assert (await machines.hold(rig.iqns["far"], "192.0.2.7:9999", 0)).blocks == 256
    assert len(machines.addresses()) == 2 * 64
    await machines.close()


def test_a_target_named_without_portal_is_found_where_it_is_attached(
    rig: Rig, machines: OtherMachines
) -> None:
    assert machines.portal_of(rig.iqns["sd1"]) == "192.0.2.1:3260"
    assert machines.portal_of(rig.iqns["far"]) is None
