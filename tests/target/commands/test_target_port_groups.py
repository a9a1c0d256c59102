"""REPORT and SET TARGET PORT GROUPS: what is told, set and refused, and who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from daiko.backend.memory import MemoryDevice
from daiko.scsi import spc, vpd
from daiko.scsi.opcode import Status
from daiko.scsi.sense import FieldPointer
from daiko.scsi.target_port_groups import (
    AccessState,
    SetTargetPortGroup,
    StatusCode,
    TargetPortGroup,
    pack_set_target_port_groups,
    parse_target_port_groups,
)
from daiko.target import asymmetric_access
from daiko.target.access import Access
from daiko.target.asymmetric_access import GroupAccess, OwnAccess, TargetPortGroups
from daiko.target.logical_unit import LogicalUnit
from target.fake import FakeTask, Host, SlowDevice, unit_of

CHANGED = (0x6, 0x2A, 0x06)
IN_TRANSITION = (0x2, 0x04, 0x0A)
TEST_UNIT_READY = "00" * 6
READ_BLOCK = "28000000000000000100"
ALL = frozenset(AccessState)
OPTIMIZED, NON_OPTIMIZED = AccessState.ACTIVE_OPTIMIZED, AccessState.ACTIVE_NON_OPTIMIZED
STANDBY, UNAVAILABLE = AccessState.STANDBY, AccessState.UNAVAILABLE


def rig(
    device: MemoryDevice | SlowDevice | None = None, **states: AccessState
) -> tuple[LogicalUnit, Host, Host]:
    """A unit at ports 1 and 2 (group 1) and 3 (group 2), a host at port 1 and one at port 3."""
    groups = TargetPortGroups()
    groups.replace(
        {1: 1, 2: 1, 3: 2},
        {int(name[1:]): GroupAccess(state) for name, state in states.items()},
    )
    unit = unit_of(device, port_groups=groups)
    access = Access()
    access.publish({"*": {0: unit}})
    return unit, Host(access, isid=1, port=1), Host(access, isid=1, port=3)


def report(host: Host, extended: int = 0, length: int = 255) -> tuple[TargetPortGroup, ...]:
    cdb = spc.ReportTargetPortGroups.pack(parameter_data_format=extended, allocation_length=length)
    data = host.run(cdb).data_in
    return parse_target_port_groups(data, extended_header=bool(extended))


def wanted(**states: int) -> bytes:
    return pack_set_target_port_groups(
        [SetTargetPortGroup(state, int(name[1:])) for name, state in states.items()]
    )


def start(host: Host, data: bytes, length: int | None = None) -> FakeTask:
    cdb = spc.SetTargetPortGroups.pack(
        parameter_list_length=len(data) if length is None else length
    )
    return host.start(cdb, data)


def ask(host: Host, **states: int) -> FakeTask:
    task = start(host, wanted(**states))
    assert task.answers == 1
    return task


# ---------------------------------------------------------------------- REPORT TARGET PORT GROUPS


@pytest.mark.parametrize("extended", [0, 1])
def test_every_group_is_reported_with_its_ports_and_state(extended: int) -> None:
    _, host, _ = rig(g2=STANDBY)
    assert report(host, extended) == (
        TargetPortGroup(1, (1, 2), OPTIMIZED, ALL),
        TargetPortGroup(2, (3,), STANDBY, ALL, status_code=StatusCode.IMPLICIT),
    )


def test_extended_header_tells_how_long_a_transition_takes() -> None:
    _, host, _ = rig()
    cdb = spc.ReportTargetPortGroups.pack(parameter_data_format=1, allocation_length=255)
    data = host.run(cdb).data_in
    assert data[4:8] == bytes((0x10, asymmetric_access.TRANSITION_SECONDS, 0, 0))


def test_report_is_cut_at_the_allocation_length() -> None:
    _, host, _ = rig()
    cdb = spc.ReportTargetPortGroups.pack(allocation_length=6)
    whole = host.run(spc.ReportTargetPortGroups.pack(allocation_length=255)).data_in
    assert host.run(cdb).data_in == whole[:6]


@pytest.mark.parametrize("kind", range(2, 8))
def test_unknown_parameter_data_format_is_refused(kind: int) -> None:
    _, host, _ = rig()
    task = host.run(spc.ReportTargetPortGroups.pack(parameter_data_format=kind))
    assert task.condition == (0x5, 0x24, 0x00)
    assert task.sense is not None
    assert task.sense.field == FieldPointer(1, 7, in_cdb=True)


def test_preferred_group_is_marked() -> None:
    unit, host, _ = rig()
    unit.asymmetric_access.groups.replace({1: 1, 3: 2}, {2: GroupAccess(preferred=True)})
    assert [group.preferred for group in report(host)] == [False, True]
    unit.asymmetric_access.follow({1: OwnAccess(preferred=True), 2: OwnAccess(preferred=False)})
    assert host.run(TEST_UNIT_READY).condition == CHANGED
    assert [group.preferred for group in report(host)] == [True, False]


def test_pages_name_the_port_and_the_group_that_the_host_came_through() -> None:
    _, _, host = rig()
    data = host.run("12018300ff00").data_in
    found = {
        (each.association, each.type): each.data for each in vpd.parse_device_identification(data)
    }
    assert found[1, 4] == (3).to_bytes(4, "big")
    assert found[1, 5] == (2).to_bytes(4, "big")
    assert found[1, 8].rstrip(b"\0") == b"iqn.2026-11.test:target,t,0x0003"
    assert found[2, 8].rstrip(b"\0") == b"iqn.2026-11.test:target"


def test_standard_inquiry_says_implicit_and_explicit_and_several_ports() -> None:
    _, host, _ = rig()
    data = host.run("120000006000").data_in
    assert data[5] >> 4 & 3 == 3
    assert data[6] >> 4 & 1


# ---------------------------------------------------------------------- SET TARGET PORT GROUPS


@pytest.mark.parametrize("state", [NON_OPTIMIZED, STANDBY, UNAVAILABLE])
def test_state_set_by_a_host_holds_and_the_others_hear_of_it(state: AccessState) -> None:
    _, host, other = rig()
    assert ask(host, g2=state).status == Status.GOOD
    assert host.run(TEST_UNIT_READY).status == Status.GOOD
    assert other.run(TEST_UNIT_READY).condition == CHANGED
    first, second = report(host)
    assert (first.state, first.status_code) == (OPTIMIZED, StatusCode.NOTHING)
    assert (second.state, second.status_code) == (state, StatusCode.EXPLICIT)


def test_host_may_set_the_state_of_its_own_port() -> None:
    _, host, other = rig(g2=STANDBY)
    assert other.run(TEST_UNIT_READY).condition == (0x2, 0x04, 0x0B)
    assert ask(other, g2=OPTIMIZED, g1=STANDBY).status == Status.GOOD
    assert other.run(TEST_UNIT_READY).status == Status.GOOD
    assert host.run(TEST_UNIT_READY).condition == CHANGED
    assert host.run(TEST_UNIT_READY).condition == (0x2, 0x04, 0x0B)


def test_state_is_of_one_unit_alone() -> None:
    groups = TargetPortGroups()
    groups.replace({1: 1, 3: 2}, {})
    units = [unit_of(port_groups=groups), unit_of(port_groups=groups)]
    access = Access()
    access.publish({"*": dict(enumerate(units))})
    host = Host(access)
    ask(host, g2=STANDBY)
    states = [unit.asymmetric_access.state(2) for unit in units]
    assert states == [STANDBY, OPTIMIZED]


def test_hosts_that_may_not_set_states_find_no_way_to() -> None:
    unit, host, other = rig()
    unit.asymmetric_access.groups.hosts_set_states = False
    unit.asymmetric_access.follow()
    assert host.run(TEST_UNIT_READY).condition == (0x6, 0x3F, 0x03)
    assert host.run("120000006000").data_in[5] >> 4 & 3 == 1
    assert ask(host, g2=STANDBY).condition == (0x5, 0x24, 0x00)
    assert "SET_TARGET_PORT_GROUPS" not in {row.name for row in unit.rows}
    assert other.run(TEST_UNIT_READY).condition == (0x6, 0x3F, 0x03)
    assert other.run(TEST_UNIT_READY).status == Status.GOOD
    unit.asymmetric_access.groups.hosts_set_states = True
    unit.asymmetric_access.follow()
    assert ask(host, g2=STANDBY).condition == (0x6, 0x3F, 0x03)
    assert ask(host, g2=STANDBY).status == Status.GOOD


def test_states_that_hold_already_are_no_change() -> None:
    _, host, other = rig(g2=STANDBY)
    assert ask(host, g1=OPTIMIZED, g2=STANDBY).status == Status.GOOD
    assert other.run(spc.ReportTargetPortGroups.pack(allocation_length=8)).status == Status.GOOD


@pytest.mark.parametrize("data", [b"", bytes(4)], ids=["nothing", "header-alone"])
def test_list_without_a_descriptor_changes_nothing(data: bytes) -> None:
    _, host, other = rig()
    assert start(host, data).status == Status.GOOD
    assert other.run(TEST_UNIT_READY).status == Status.GOOD


@pytest.mark.parametrize("length", [1, 3, 5, 7, 10])
def test_list_that_ends_inside_a_descriptor_is_refused(length: int) -> None:
    _, host, _ = rig()
    assert start(host, bytes(length)).condition == (0x5, 0x1A, 0x00)


def test_list_of_which_less_arrives_than_was_said_is_refused() -> None:
    _, host, _ = rig()
    assert start(host, wanted(g2=STANDBY), 12).condition == (0x5, 0x1A, 0x00)


@pytest.mark.parametrize(
    ("states", "byte", "bit"),
    [
        pytest.param({"g2": 0xF}, 4, 3, id="transitioning"),
        pytest.param({"g2": 0xE}, 4, 3, id="offline"),
        pytest.param({"g2": 0x4}, 4, 3, id="obsolete"),
        pytest.param({"g2": STANDBY, "g7": STANDBY}, 10, None, id="no-such-group"),
        pytest.param({"g0": STANDBY}, 6, None, id="group-0"),
        pytest.param({"g1": STANDBY, "g2": UNAVAILABLE}, 4, 3, id="no-group-left-active"),
        pytest.param({"g1": UNAVAILABLE, "g2": STANDBY}, 4, 3, id="nor-standby"),
    ],
)
def test_what_cannot_be_set_is_refused_as_a_whole(
    states: dict[str, int], byte: int, bit: int | None
) -> None:
    _, host, other = rig()
    task = ask(host, **states)
    assert task.condition == (0x5, 0x26, 0x00)
    assert task.sense is not None
    assert task.sense.field == FieldPointer(byte, bit)
    assert other.run(TEST_UNIT_READY).status == Status.GOOD
    assert [group.state for group in report(host)] == [OPTIMIZED, OPTIMIZED]


def test_two_states_for_one_group_are_refused() -> None:
    _, host, _ = rig()
    data = wanted(g2=STANDBY) + wanted(g2=UNAVAILABLE)[4:]
    assert start(host, data).condition == (0x5, 0x26, 0x00)
    assert start(host, wanted(g2=STANDBY) + wanted(g2=STANDBY)[4:]).status == Status.GOOD


def test_group_that_is_offline_is_the_administrators() -> None:
    _, host, _ = rig(g2=AccessState.OFFLINE)
    assert ask(host, g2=OPTIMIZED).condition == (0x5, 0x26, 0x00)
    assert report(host)[1].state == AccessState.OFFLINE


def test_administrators_change_is_told_to_every_host() -> None:
    unit, host, other = rig()
    unit.asymmetric_access.groups.replace({1: 1, 2: 1, 3: 2}, {2: GroupAccess(NON_OPTIMIZED)})
    unit.asymmetric_access.follow()
    assert host.run(TEST_UNIT_READY).condition == CHANGED
    assert other.run(TEST_UNIT_READY).condition == CHANGED
    unit.asymmetric_access.follow()
    assert host.run(TEST_UNIT_READY).status == Status.GOOD


# ---------------------------------------------------------------------- transition


async def test_group_that_loses_its_state_is_in_transition_until_its_commands_have_ended() -> None:
    device = SlowDevice()
    _, host, other = rig(device)
    under_way = other.start(READ_BLOCK)
    task = start(host, wanted(g2=STANDBY))
    assert task.answers == 0
    assert other.run(TEST_UNIT_READY).condition == IN_TRANSITION
    assert report(host)[1].state == AccessState.TRANSITIONING
    assert ask(host, g2=UNAVAILABLE).condition == IN_TRANSITION
    assert ask(other, g2=OPTIMIZED).condition == IN_TRANSITION
    device.step()
    assert under_way.status == Status.GOOD
    assert task.status == Status.GOOD
    assert other.run(TEST_UNIT_READY).condition == CHANGED
    assert other.run(TEST_UNIT_READY).condition == (0x2, 0x04, 0x0B)


async def test_commands_through_groups_that_stay_active_are_not_waited_for() -> None:
    device = SlowDevice()
    _, host, _ = rig(device)
    under_way = host.start(READ_BLOCK)
    assert ask(host, g2=STANDBY).status == Status.GOOD
    assert under_way.answers == 0
    device.step()


async def test_change_to_another_active_state_waits_for_nothing() -> None:
    device = SlowDevice()
    _, host, other = rig(device)
    other.start(READ_BLOCK)
    assert ask(host, g2=NON_OPTIMIZED).status == Status.GOOD
    device.step()


async def test_change_whose_commands_do_not_end_fails_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asymmetric_access, "TRANSITION_SECONDS", 0)
    device = SlowDevice()
    _, host, other = rig(device)
    under_way = other.start(READ_BLOCK)
    task = start(host, wanted(g2=STANDBY))
    for _ in range(3):  # turns of the loop: the time is up in the next one
        await asyncio.sleep(0)
    assert task.condition == (0x4, 0x67, 0x0A)
    assert report(host)[1].state == OPTIMIZED
    device.step()
    assert under_way.status == Status.GOOD
    assert other.run(TEST_UNIT_READY).status == Status.GOOD
    assert ask(host, g2=STANDBY).status == Status.GOOD


class Keeper:
    """Keeps what a host sets when it is told to, or fails to."""

    def __init__(self) -> None:
        self.asked: list[tuple[dict[int, AccessState], Callable[[bool], None]]] = []

    def keep_states(
        self, unit: LogicalUnit, states: Mapping[int, AccessState], done: Callable[[bool], None]
    ) -> None:
        self.asked.append((dict(states), done))


def test_states_hold_once_they_are_kept() -> None:
    unit, host, other = rig()
    keeper = unit.asymmetric_access.keeper = Keeper()
    task = start(host, wanted(g2=STANDBY))
    assert task.answers == 0
    assert other.run(TEST_UNIT_READY).condition == IN_TRANSITION
    ((states, done),) = keeper.asked
    assert states == {2: STANDBY}
    unit.asymmetric_access.follow({2: OwnAccess(STANDBY, by_host=True)})
    done(True)
    assert task.status == Status.GOOD
    assert host.run(TEST_UNIT_READY).status == Status.GOOD
    assert other.run(TEST_UNIT_READY).condition == CHANGED


def test_states_that_cannot_be_kept_do_not_hold() -> None:
    unit, host, other = rig()
    keeper = unit.asymmetric_access.keeper = Keeper()
    task = start(host, wanted(g2=STANDBY))
    keeper.asked[0][1](False)
    assert task.condition == (0x4, 0x67, 0x0A)
    assert other.run(TEST_UNIT_READY).status == Status.GOOD


# ---------------------------------------------------------------------- several ports


def test_one_initiator_at_two_ports_is_two_nexuses() -> None:
    """RFC 7143, 4.2.7.1: the same name and ISID at another portal group is another I_T nexus."""
    device = SlowDevice()
    _, host, other = rig(device)
    assert host.nexus.identity != other.nexus.identity
    at_one, at_three = host.start(READ_BLOCK), other.start(READ_BLOCK)
    # ABORT TASK SET is of one nexus, LOGICAL UNIT RESET of all.
    responses = host.manage(2)
    device.step()
    assert responses == [0]
    assert at_one.status is None
    device.step()
    assert at_three.status == Status.GOOD
    assert other.manage(5) == [0]
    assert host.run(TEST_UNIT_READY).condition == (0x6, 0x29, 0x03)
    assert other.run(TEST_UNIT_READY).condition == (0x6, 0x29, 0x03)
