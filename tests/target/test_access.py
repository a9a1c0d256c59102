"""Masking, publication while hosts are in session, LUN fields, unit attentions."""

from __future__ import annotations

import pytest

from daiko.device.error import Unreachable
from daiko.iscsi.bhs import TaskManagementFunction
from daiko.scsi import sbc
from daiko.scsi.opcode import Status
from daiko.target import access as access_module
from daiko.target.access import Access
from daiko.target.event import Event
from daiko.target.logical_unit import LogicalUnit
from daiko.target.nexus import Nexus
from daiko.target.unit_attention import UnitAttentions
from target.fake import FakeTask, Host, SlowDevice, unit_of

TEST_UNIT_READY = "00" * 6
NO_UNIT = (0x5, 0x25, 0x00)
LUNS_CHANGED = (0x6, 0x3F, 0x0E)
POWER_ON = (0x6, 0x29, 0x00)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("iqn.a:host", True),
        ("IQN.A:HOST", True),
        ("iqn.a:other", False),
        ("", False),
        ("*", False),
    ],
)
def test_only_initiators_of_the_table_may_log_in(name: str, allowed: bool) -> None:
    access = Access()
    access.publish({"iqn.A:host": {0: unit_of()}})
    assert access.authorize(name, "iqn.t") is allowed


def test_star_lets_any_initiator_in_but_not_over_a_named_one() -> None:
    access = Access()
    named, rest = unit_of(), unit_of()
    access.publish({"*": {0: rest}, "iqn.a:1": {5: named}})
    assert access.authorize("iqn.anyone", "iqn.t")
    one, two = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    assert one.run(TEST_UNIT_READY, lun=0).condition == NO_UNIT
    assert one.run(TEST_UNIT_READY, lun=5).status == Status.GOOD
    assert two.run(TEST_UNIT_READY, lun=0).status == Status.GOOD
    assert two.run(TEST_UNIT_READY, lun=5).condition == NO_UNIT


def test_new_nexus_is_told_once_that_the_unit_is_new_to_it() -> None:
    access = Access()
    access.publish({"*": {0: unit_of()}})
    nexus = Nexus("iqn.a:1", bytes(6), "iqn.t")
    access.nexus_started(nexus)
    first = FakeTask(nexus, bytes(6))
    second = FakeTask(nexus, bytes(6))
    access.submit(first)
    access.submit(second)
    assert (first.condition, second.status) == (POWER_ON, Status.GOOD)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        pytest.param(0x0003_0000_0000_0000, True, id="peripheral"),
        pytest.param(0x4003_0000_0000_0000, True, id="flat"),
        pytest.param(0x0103_0000_0000_0000, False, id="another bus"),
        pytest.param(0x0003_0001_0000_0000, False, id="second level"),
        pytest.param(0x8003_0000_0000_0000, False, id="logical unit addressing"),
        pytest.param(0xC101_0000_0000_0000, False, id="well known unit"),
        pytest.param(0x412C_0000_0000_0000, True, id="flat 300"),
        pytest.param(0x012C_0000_0000_0000, False, id="300 is no peripheral LUN"),
    ],
)
def test_lun_field_forms(field: int, found: bool) -> None:
    access = Access()
    access.publish({"*": {3: unit_of(), 300: unit_of()}})
    host = Host(access)
    task = FakeTask(host.nexus, bytes(6))
    task.lun = field
    access.submit(task)
    assert task.condition == (None if found else NO_UNIT)


@pytest.mark.parametrize("lun", [-1, 16384])
def test_impossible_lun_is_refused_and_nothing_published(lun: int) -> None:
    access = Access()
    access.publish({"*": {0: unit_of()}})
    with pytest.raises(ValueError, match="LUN"):
        access.publish({"*": {lun: unit_of()}})
    assert Host(access).run(TEST_UNIT_READY).status == Status.GOOD


def test_publication_keeps_units_adds_new_and_takes_away_old_at_once() -> None:
    access = Access()
    kept, taken, new = unit_of(), unit_of(), unit_of()
    access.publish({"*": {0: kept, 1: taken}})
    host = Host(access)
    access.publish({"*": {0: kept, 2: new}})
    assert host.run(TEST_UNIT_READY, lun=1).condition == NO_UNIT
    assert host.run(TEST_UNIT_READY, lun=0).condition == LUNS_CHANGED
    assert host.run(TEST_UNIT_READY, lun=0).status == Status.GOOD
    assert host.run(TEST_UNIT_READY, lun=2).condition == POWER_ON
    assert host.run(TEST_UNIT_READY, lun=2).status == Status.GOOD
    assert not taken.nexuses


def test_publication_that_changes_nothing_for_a_host_does_not_disturb_it() -> None:
    access = Access()
    mine, others = unit_of(), unit_of()
    access.publish({"iqn.a:1": {0: mine}, "iqn.a:2": {0: others}})
    host = Host(access, "iqn.a:1")
    access.publish({"iqn.a:1": {0: mine}, "iqn.a:3": {0: others}})
    assert host.run(TEST_UNIT_READY).status == Status.GOOD


def test_another_unit_under_the_same_lun_is_new_to_the_host() -> None:
    access = Access()
    access.publish({"*": {0: unit_of()}})
    host = Host(access)
    access.publish({"*": {0: unit_of()}})
    assert host.run(TEST_UNIT_READY).condition == POWER_ON
    assert host.run(TEST_UNIT_READY).condition == LUNS_CHANGED
    assert host.run(TEST_UNIT_READY).status == Status.GOOD


def test_tasks_of_a_unit_taken_away_end_with_task_aborted() -> None:
    access = Access()
    device = SlowDevice()
    unit = unit_of(device)
    access.publish({"*": {0: unit}})
    host = Host(access)
    at_device = host.start(sbc.Read10.pack(transfer_length=1))
    fetching = host.start(sbc.Write10.pack(transfer_length=1), bytes(512), slow_data=True)
    access.publish({"*": {}})
    assert (at_device.answers, fetching.status) == (0, Status.TASK_ABORTED)
    device.fail(Unreachable("gone"))
    assert at_device.status == Status.TASK_ABORTED
    assert not unit.task_set.is_gated


def test_host_taken_from_the_table_sees_nothing_any_more() -> None:
    access = Access()
    access.publish({"iqn.a:1": {0: unit_of()}})
    host = Host(access, "iqn.a:1")
    access.publish({})
    assert host.run(TEST_UNIT_READY).condition == NO_UNIT
    assert not access.authorize("iqn.a:1", "iqn.t")


def test_sessions_lists_nexuses_until_they_are_lost() -> None:
    access = Access()
    access.publish({"*": {0: unit_of()}})
    one, two = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    assert access.sessions() == (one.nexus, two.nexus)
    access.nexus_lost(one.nexus)
    assert access.sessions() == (two.nexus,)
    assert one.nexus.units == {}


def test_unit_seen_under_two_luns_has_tasks_and_attentions_for_each() -> None:
    access = Access()
    unit = unit_of()
    access.publish({"*": {0: unit, 1: unit}})
    host = Host(access)
    unit.announce(Event.CAPACITY_CHANGED)
    for lun in (0, 1):
        assert host.run(TEST_UNIT_READY, lun=lun).condition == (0x6, 0x2A, 0x09)


# ---------------------------------------------------------------------- unit attentions


def test_same_condition_is_kept_once() -> None:
    pending = UnitAttentions()
    for _ in range(3):
        pending.establish(Event.CAPACITY_CHANGED.sense)
        pending.establish(Event.MODE_PARAMETERS_CHANGED.sense)
    assert pending == [Event.CAPACITY_CHANGED.sense, Event.MODE_PARAMETERS_CHANGED.sense]
    assert pending.take() == Event.CAPACITY_CHANGED.sense


def test_reset_stands_alone() -> None:
    pending = UnitAttentions()
    pending.establish(Event.MODE_PARAMETERS_CHANGED.sense)
    pending.establish(Event.LOGICAL_UNIT_RESET.sense)
    assert pending == [Event.LOGICAL_UNIT_RESET.sense]


def test_power_on_is_not_replaced_by_a_lesser_reset() -> None:
    pending = UnitAttentions()
    pending.establish(Event.POWER_ON_OR_RESET.sense)
    pending.establish(Event.NEXUS_LOSS.sense)
    assert pending == [Event.POWER_ON_OR_RESET.sense]


def test_cleared_kind_is_gone_and_others_stay() -> None:
    pending = UnitAttentions()
    pending.establish(Event.REPORTED_LUNS_CHANGED.sense)
    pending.establish(Event.CAPACITY_CHANGED.sense)
    pending.clear(Event.REPORTED_LUNS_CHANGED)
    assert pending == [Event.CAPACITY_CHANGED.sense]


def many(count: int) -> dict[int, LogicalUnit]:
    return {lun: unit_of() for lun in range(count)}


def test_host_with_very_many_units_has_a_nexus_only_with_those_that_it_uses() -> None:
    access = Access()
    units = many(access_module.FEW + 1)
    access.publish({"*": units})
    host = Host(access, "iqn.a:1")
    assert host.nexus.units == {}
    answer = host.run("a00000000000000100000000")
    assert int.from_bytes(answer.data_in[:4], "big") == 8 * len(units)
    assert host.run(TEST_UNIT_READY, lun=7).condition == POWER_ON
    assert host.run(TEST_UNIT_READY, lun=7).status == Status.GOOD
    assert {itl.lun for itl in host.nexus.units.values()} == {0, 7}
    assert [len(unit.nexuses) for unit in units.values()].count(1) == 2
    assert host.run(TEST_UNIT_READY, lun=len(units)).condition == NO_UNIT
    assert host.manage(TaskManagementFunction.LOGICAL_UNIT_RESET, lun=9) == [0]


def test_publication_tells_a_host_with_very_many_units_where_it_is_in_use() -> None:
    access = Access()
    units = many(access_module.FEW + 2)
    access.publish({"*": units})
    host = Host(access, "iqn.a:1")
    for lun in (3, 4):
        host.run(TEST_UNIT_READY, lun=lun)
    left = {lun: unit for lun, unit in units.items() if lun != 3}
    access.publish({"*": left})
    assert not units[3].nexuses
    assert host.run(TEST_UNIT_READY, lun=3).condition == NO_UNIT
    assert host.run(TEST_UNIT_READY, lun=4).condition == LUNS_CHANGED
    assert host.run(TEST_UNIT_READY, lun=5).condition == POWER_ON
    access.publish({"*": dict(left)})
    assert host.run(TEST_UNIT_READY, lun=4).status == Status.GOOD
    access.publish({"*": {4: units[4], 9: units[9]}})  # few now
    assert {itl.lun for itl in host.nexus.units.values()} == {4, 9}
    assert not units[5].nexuses
    access.nexus_lost(host.nexus)
    assert not any(unit.nexuses for unit in units.values())
