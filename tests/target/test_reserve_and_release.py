"""RESERVE and RELEASE: they end with the session, and exclude persistent reservations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from daiko.iscsi.bhs import TaskManagementFunction as Function
from daiko.scsi import persistent_reservation as layouts
from daiko.scsi.persistent_reservation import ReservationType
from target.fake import Host, unit_of
from target.reserving import (
    CONFLICT,
    EA,
    EA_AR,
    GOOD,
    READ,
    RELEASE_6,
    RELEASE_10,
    RESERVE_6,
    RESERVE_10,
    WE,
    WE_RO,
    attentions,
    hosts_of,
    register,
    reservation,
    reserve,
    writes,
)

BOTH = pytest.mark.parametrize(
    ("take", "give"), [(RESERVE_6, RELEASE_6), (RESERVE_10, RELEASE_10)], ids=["6", "10"]
)


def statuses(hosts: Sequence[Host], cdb: bytes) -> list[int | None]:
    return [host.run(cdb).status for host in hosts]


@BOTH
def test_reserve_keeps_others_out_until_its_holder_releases(take: bytes, give: bytes) -> None:
    a, b = hosts_of(unit_of())
    assert a.run(take).status == GOOD
    assert a.run(take).status == GOOD
    assert b.run(take).status == CONFLICT
    assert (b.run(READ).status, writes(b).status, writes(a).status) == (CONFLICT, CONFLICT, GOOD)
    assert b.run(give).status == GOOD  # and does nothing
    assert writes(b).status == CONFLICT
    assert a.run(give).status == GOOD
    assert writes(b).status == GOOD


def test_reserve_ends_with_the_session() -> None:
    a, b = hosts_of(unit_of())
    a.run(RESERVE_6)
    a.access.nexus_lost(a.nexus)
    assert writes(b).status == GOOD


@pytest.mark.parametrize(
    "function",
    [Function.LOGICAL_UNIT_RESET, Function.TARGET_WARM_RESET, Function.TARGET_COLD_RESET],
)
def test_reserve_ends_with_a_reset_by_anyone(function: Function) -> None:
    a, b = hosts_of(unit_of())
    a.run(RESERVE_6)
    assert b.manage(function) == [0]
    attentions(b)
    assert writes(b).status == GOOD


def test_reserve_ends_with_the_holders_own_nexus_reset() -> None:
    a, b = hosts_of(unit_of())
    a.run(RESERVE_6)
    assert b.manage(Function.I_T_NEXUS_RESET) == [0]
    attentions(b)
    assert writes(b).status == CONFLICT
    assert a.manage(Function.I_T_NEXUS_RESET) == [0]
    assert writes(b).status == GOOD


def test_reserve_ends_when_the_unit_is_taken_from_its_holder() -> None:
    unit = unit_of()
    a, b = hosts_of(unit)
    a.run(RESERVE_6)
    a.access.publish({"iqn.2026-11.test:b": {0: unit}})
    attentions(b)
    assert writes(b).status == GOOD


def test_the_two_kinds_exclude_each_other() -> None:
    a, b = hosts_of(unit_of())
    a.run(RESERVE_6)
    for host in (a, b):
        assert register(host, 1) == CONFLICT
        assert host.run(layouts.ReadKeys.pack(allocation_length=99)).status == CONFLICT
    a.run(RELEASE_6)
    register(a, 1)
    assert statuses((a, b), RESERVE_6) == [CONFLICT, CONFLICT]
    assert statuses((a, b), RELEASE_6) == [CONFLICT, CONFLICT]


@pytest.mark.parametrize(
    ("type", "expected"),
    [
        (WE, [GOOD, CONFLICT, CONFLICT]),
        (EA, [GOOD, CONFLICT, CONFLICT]),
        (WE_RO, [GOOD, GOOD, CONFLICT]),
        (EA_AR, [GOOD, GOOD, CONFLICT]),
    ],
)
@BOTH
def test_who_may_do_everything_anyway_may_reserve_without_effect(
    take: bytes, give: bytes, type: ReservationType, expected: list[int]
) -> None:
    a, b, c = hosts_of(unit_of(), 3)
    register(a, 1)
    register(b, 2)
    reserve(a, 1, type)
    assert statuses((a, b, c), take) == expected
    assert statuses((a, b, c), give) == expected
    assert reservation(c)[1] is type
    unit = next(iter(a.nexus.units.values())).unit
    assert unit.reservations.reserved_by is None


def test_reserve_that_came_first_conflicts_for_a_registration_whose_data_comes_later() -> None:
    a, b = hosts_of(unit_of())
    data = layouts.ReserveOutList(0, 1).pack()
    cdb = layouts.Register.pack(parameter_list_length=len(data))
    task = b.start(cdb, data, slow_data=True)
    a.run(RESERVE_6)
    task.deliver()
    assert task.status == CONFLICT
