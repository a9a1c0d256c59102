"""Portals, portal groups and target port groups: live, refused where they must be, kept."""

from __future__ import annotations

import asyncio

import pytest

from daiko.control import hosts, portal_groups, volumes
from daiko.control.apply import apply, export
from daiko.control.error import Conflict, Invalid, NotFound, Unavailable
from daiko.control.system import System
from daiko.mapping.extent import DeviceId
from daiko.scsi import spc
from daiko.scsi.opcode import Status
from daiko.scsi.target_port_groups import (
    AccessState,
    SetTargetPortGroup,
    pack_set_target_port_groups,
    parse_target_port_groups,
)
from daiko.state.record import GroupState, PortalGroupRecord, VolumeRecord
from daiko.state.sqlite import SqliteStore
from daiko.state.store import StoreError
from processes import free_port
from target.fake import FakeTask, Host
from target.memory_access import IQN
from target.raw_initiator import INITIATOR, RawInitiator

TEST_UNIT_READY = "00" * 6
CHANGED = (0x6, 0x2A, 0x06)
STANDBY = (0x2, 0x04, 0x0B)
OTHER = "iqn.2026-11.example:other"
add, set_volume = portal_groups.add, portal_groups.set_volume_state


@pytest.fixture
async def live(system: System) -> System:
    """Listening, with volume alpha over a/0 that every host sees as LUN 0."""
    await volumes.take_image(system, "alpha", DeviceId("a", 0))
    await hosts.add(system, "any", ["*"], luns={0: "alpha"})
    await system.listen()
    return system


def portal() -> str:
    return f"127.0.0.1:{free_port()}"


async def two_groups(system: System) -> tuple[str, str]:
    """Portal groups 1 and 2, each in the target port group of its number."""
    second = portal()
    await portal_groups.add(system, second, 2)
    return system.portals[0], second


async def login(system: System, at: str, name: str = INITIATOR) -> tuple[RawInitiator, int]:
    host = await RawInitiator.connect(at)
    return host, (await host.login(system.record.iqn, name=name)).status


def states(host: Host) -> dict[int, AccessState]:
    data = host.run(spc.ReportTargetPortGroups.pack(allocation_length=255)).data_in
    return {group.group: AccessState(group.state) for group in parse_target_port_groups(data)}


def set_states(host: Host, **wanted: int) -> FakeTask:
    data = pack_set_target_port_groups(
        [SetTargetPortGroup(state, int(name[1:])) for name, state in wanted.items()]
    )
    return host.start(spc.SetTargetPortGroups.pack(parameter_list_length=len(data)), data)


async def ended(task: FakeTask) -> FakeTask:
    async with asyncio.timeout(10):
        while not task.answers:
            await asyncio.to_thread(lambda: None)  # the store writes in a thread of its own
    return task


# --- portals


async def test_portal_listens_from_the_moment_it_is_added_until_it_is_removed(
    live: System,
) -> None:
    first, second = await two_groups(live)
    host, status = await login(live, second)
    assert status == 0
    assert host.keys["TargetPortalGroupTag"] == "2"
    view = portal_groups.show(live, 2)
    assert (view.listening, view.hosts) == ((second,), (INITIATOR,))
    await portal_groups.remove(live, second)
    assert (await host.receive()).event == 1
    await host.close()
    with pytest.raises(ConnectionRefusedError):
        await RawInitiator.connect(second)
    assert [view.record.tag for view in portal_groups.ls(live)] == [1]
    assert live.portals == (first,)


async def test_portal_moves_to_another_portal_group(live: System) -> None:
    first, second = await two_groups(live)
    third = portal()
    await portal_groups.add(live, third, 2)
    await portal_groups.set_tag(live, second, 1)
    assert portal_groups.show(live, 1).record.portals == (first, second)
    host, _ = await login(live, second)
    assert host.keys["TargetPortalGroupTag"] == "1"
    await host.close()
    await portal_groups.set_tag(live, third, 9)
    assert [view.record.tag for view in portal_groups.ls(live)] == [1, 9]
    assert (await portal_groups.set_tag(live, third, 9)).listening == (third,)


async def test_what_cannot_be_is_refused_and_changes_nothing(live: System) -> None:
    first, second = await two_groups(live)
    before = live.store.list(PortalGroupRecord)
    taken = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
    used = f"127.0.0.1:{taken.sockets[0].getsockname()[1]}"
    await hosts.add(live, "h1", [IQN], portal_groups=[2])
    for error, words, asked in (
        (Conflict, "is a portal of portal group 1", portal_groups.add(live, first, 2)),
        (Conflict, "is in target port group 2", add(live, portal(), 2, target_port_group=3)),
        (Invalid, "is not a portal", portal_groups.add(live, "h:x", 2)),
        (Invalid, "65536 cannot be", portal_groups.add(live, portal(), 65536)),
        (Invalid, "0 cannot be", add(live, portal(), 5, target_port_group=0)),
        (Unavailable, "Address already in use", portal_groups.add(live, used, 2)),
        (NotFound, "no portal 127.0.0.1:1", portal_groups.remove(live, "127.0.0.1:1")),
        (NotFound, "no portal group 4", portal_groups.set_group(live, 4, 1)),
        (Conflict, "host h1 is limited", portal_groups.remove(live, second)),
        (Conflict, "host h1 is limited", portal_groups.set_tag(live, second, 1)),
        (NotFound, "no portal group 7", hosts.add(live, "h2", [OTHER], portal_groups=[7])),
        (NotFound, "no portal group 7", hosts.limit(live, "h1", [7])),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            await asked
    taken.close()
    assert live.store.list(PortalGroupRecord) == before
    assert live.portals == (first, second)


async def test_last_portal_stays(live: System) -> None:
    with pytest.raises(Conflict, match="without a portal"):
        await portal_groups.remove(live, live.portals[0])


async def test_host_is_limited_to_portal_groups(live: System) -> None:
    first, second = await two_groups(live)
    await hosts.add(live, "h1", [INITIATOR], luns={0: "alpha"})
    host, _ = await login(live, first)
    await hosts.limit(live, "h1", [2])
    assert (await host.receive()).event == 1
    await host.close()
    host, status = await login(live, first)
    assert status == 0x0101
    await host.close()
    host, status = await login(live, second)
    assert status == 0
    await hosts.limit(live, "h1", [])
    other, status = await login(live, first)
    assert status == 0
    await host.close()
    await other.close()


# --- states


async def test_state_of_a_group_is_that_of_every_volume_and_told_to_every_host(
    live: System,
) -> None:
    await two_groups(live)
    one, two = Host(live.access, port=1), Host(live.access, isid=2, port=2)
    await portal_groups.set_state(live, 2, GroupState.STANDBY, preferred=True)
    assert one.run(TEST_UNIT_READY).condition == CHANGED
    assert two.run(TEST_UNIT_READY).condition == CHANGED
    assert two.run(TEST_UNIT_READY).condition == STANDBY
    assert states(one) == {1: 0, 2: AccessState.STANDBY}
    (_, view) = portal_groups.port_groups(live)
    assert (view.state, view.preferred, view.tags) == (GroupState.STANDBY, True, (2,))


async def test_volume_may_have_a_state_of_its_own(live: System) -> None:
    await two_groups(live)
    await volumes.take_image(live, "beta", DeviceId("b", 0))
    await hosts.map_volume(live, "any", "beta")
    host = Host(live.access, port=2)
    await portal_groups.set_volume_state(live, 2, "beta", GroupState.UNAVAILABLE, preferred=False)
    assert host.run(TEST_UNIT_READY).status == Status.GOOD
    assert host.run(TEST_UNIT_READY, lun=1).condition == CHANGED
    assert host.run(TEST_UNIT_READY, lun=1).condition == (0x2, 0x04, 0x0C)
    assert portal_groups.port_groups(live)[1].volumes == ("beta",)
    assert portal_groups.port_groups(live, "beta")[1].state == GroupState.UNAVAILABLE
    assert portal_groups.port_groups(live, "alpha")[1].state == GroupState.ACTIVE_OPTIMIZED
    await portal_groups.clear_volume_state(live, 2, "beta")
    assert host.run(TEST_UNIT_READY, lun=1).condition == CHANGED
    assert host.run(TEST_UNIT_READY, lun=1).status == Status.GOOD


async def test_state_set_by_a_host_is_kept_over_a_restart(live: System, store: SqliteStore) -> None:
    await two_groups(live)
    host, other = Host(live.access, port=1), Host(live.access, isid=2, port=2)
    task = await ended(set_states(host, g2=AccessState.STANDBY))
    assert task.status == Status.GOOD
    assert host.run(TEST_UNIT_READY).status == Status.GOOD
    assert other.run(TEST_UNIT_READY).condition == CHANGED
    view = portal_groups.port_groups(live, "alpha")[1]
    assert (view.state, view.by_host) == (GroupState.STANDBY, True)
    await live.stop()
    again = await System.start(store)
    try:
        assert states(Host(again.access, port=1))[2] == AccessState.STANDBY
        await portal_groups.set_volume_state(again, 2, "alpha", GroupState.ACTIVE_OPTIMIZED)
        assert portal_groups.port_groups(again, "alpha")[1].by_host is False
    finally:
        await again.stop()


async def test_state_that_the_store_cannot_keep_is_refused(
    live: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    await two_groups(live)
    host = Host(live.access, port=1)

    async def full(*_: object) -> None:
        raise StoreError("disk full")

    monkeypatch.setattr(live.store, "_commit", full)
    task = await ended(set_states(host, g2=AccessState.STANDBY))
    assert task.condition == (0x4, 0x67, 0x0A)
    assert states(host)[2] == AccessState.ACTIVE_OPTIMIZED


async def test_group_that_is_offline_does_not_listen(live: System) -> None:
    _, second = await two_groups(live)
    host, _ = await login(live, second)
    await portal_groups.set_state(live, 2, GroupState.OFFLINE)
    assert (await host.receive()).event == 1
    await host.close()
    with pytest.raises(ConnectionRefusedError):
        await RawInitiator.connect(second)
    assert portal_groups.show(live, 2).listening == ()
    assert states(Host(live.access, port=1))[2] == AccessState.OFFLINE
    await portal_groups.set_state(live, 2, GroupState.ACTIVE_NON_OPTIMIZED)
    host, status = await login(live, second)
    assert status == 0
    await host.close()


async def test_last_active_group_stays_active_unless_it_is_forced(live: System) -> None:
    await two_groups(live)
    await portal_groups.set_state(live, 2, GroupState.STANDBY)
    with pytest.raises(Conflict, match="no target port group would be left active"):
        await portal_groups.set_state(live, 1, GroupState.STANDBY)
    with pytest.raises(Conflict, match="for volume alpha"):
        await portal_groups.set_volume_state(live, 1, "alpha", GroupState.UNAVAILABLE)
    await portal_groups.set_volume_state(live, 1, "alpha", GroupState.UNAVAILABLE, force=True)
    await portal_groups.set_state(live, 1, GroupState.STANDBY, force=True)
    assert portal_groups.port_groups(live)[0].state == GroupState.STANDBY


async def test_states_of_what_is_not_there_are_refused(live: System) -> None:
    for error, words, asked in (
        (NotFound, "target port group 5", portal_groups.set_state(live, 5, GroupState.STANDBY)),
        (NotFound, "no volume", portal_groups.set_volume_state(live, 1, "x", preferred=True)),
        (Invalid, "offline for all", set_volume(live, 1, "alpha", GroupState.OFFLINE)),
        (NotFound, "target port group 5", portal_groups.clear_volume_state(live, 5, "alpha")),
    ):  # fmt: skip
        with pytest.raises(error, match=words):
            await asked


async def test_what_is_said_of_a_group_goes_with_its_last_portal_group(live: System) -> None:
    _, second = await two_groups(live)
    await portal_groups.set_state(live, 2, GroupState.STANDBY)
    await portal_groups.set_group(live, 2, 1)
    assert [view.number for view in portal_groups.port_groups(live)] == [1]
    await portal_groups.set_group(live, 2, 2)
    assert portal_groups.port_groups(live)[1].state == GroupState.ACTIVE_OPTIMIZED
    assert second in live.portals


async def test_administrator_may_keep_states_to_himself(live: System) -> None:
    await two_groups(live)
    host = Host(live.access)
    await live.change_record({"hosts_set_states": False})
    assert host.run(TEST_UNIT_READY).condition == (0x6, 0x3F, 0x03)
    assert set_states(host, g2=AccessState.STANDBY).condition == (0x5, 0x24, 0x00)
    assert "hosts_set_states = false" in export(live)


# --- documents


async def test_export_applies_to_itself_without_a_change_and_brings_everything_back(
    live: System,
) -> None:
    _, second = await two_groups(live)
    await portal_groups.set_state(live, 2, GroupState.STANDBY, preferred=True)
    await portal_groups.set_volume_state(live, 2, "alpha", GroupState.UNAVAILABLE)
    await hosts.add(live, "h1", [INITIATOR], portal_groups=[2])
    text = export(live)
    assert await apply(live, text) == ()
    await hosts.remove(live, "h1")
    await portal_groups.remove(live, second)
    await portal_groups.set_state(live, 1, GroupState.ACTIVE_NON_OPTIMIZED)
    kinds = {(action.verb.value, action.kind) for action in await apply(live, text)}
    assert kinds == {
        ("add", "portal_group"),
        ("add", "target_port_group"),
        ("remove", "target_port_group"),
        ("add", "host"),
    }
    assert export(live) == text
    assert second in live.portals


async def test_document_that_does_not_speak_of_portals_leaves_them(live: System) -> None:
    _, second = await two_groups(live)
    await apply(live, '[system]\nmode = "direct"\n', prune=False)
    assert second in live.portals


async def test_document_without_a_volumes_states_leaves_what_hosts_have_set(live: System) -> None:
    await two_groups(live)
    await ended(set_states(Host(live.access), g2=AccessState.STANDBY))
    said = "\n".join(line for line in export(live).splitlines() if "access" not in line)
    said = said.replace('state = "standby"\n', "").replace("by_host = true\n", "")
    await apply(live, said)
    record = live.store.get(VolumeRecord, "alpha")
    assert record is not None
    assert record.access[2].by_host


async def test_document_that_takes_a_portal_group_from_a_limited_host_is_refused(
    live: System,
) -> None:
    first, _ = await two_groups(live)
    await hosts.add(live, "h1", [INITIATOR], portal_groups=[2])
    before = live.portals
    wanted = f'[portal_group.1]\nportals = ["{first}"]\n'
    keep = export(live).partition("[portal_group.1]")[0] + wanted
    hosts_part = '[host.h1]\ninitiators = ["' + INITIATOR + '"]\nportal_groups = [2]\n'
    with pytest.raises((Conflict, NotFound)):
        await apply(live, keep + hosts_part)
    assert live.portals == before
