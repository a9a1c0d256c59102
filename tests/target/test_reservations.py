"""Reservations as they live at a unit: durable, told to the right hosts, ending commands."""

from __future__ import annotations

import pytest

from daiko.iscsi.bhs import TaskManagementFunction as Function
from daiko.scsi import persistent_reservation as layouts
from daiko.scsi.opcode import Status
from daiko.scsi.persistent_reservation import FullStatus, MoveList
from daiko.target.registrations import Registrations
from target.fake import Host, MemoryKeeper, SlowDevice, unit_of
from target.reserving import (
    BAD_CDB,
    BAD_LIST,
    BLOCK,
    CONFLICT,
    EA,
    EA_AR,
    GOOD,
    LOST,
    POWER_ON,
    PREEMPTED,
    READ,
    RELEASED,
    RESERVE_6,
    WE,
    WE_RO,
    WRITE,
    attentions,
    full_status,
    generation,
    hosts_of,
    keys,
    move,
    out,
    pointer,
    port_of,
    read,
    register,
    reservation,
    reserve,
    status,
    writes,
)

# --- who may write --------------------------------------------------------------------------------


def test_reservation_keeps_others_out_until_it_is_released() -> None:
    a, b = hosts_of(unit_of())
    register(a, 1)
    assert writes(b).status == GOOD
    reserve(a, 1, WE)
    assert writes(b).status == CONFLICT
    assert b.run(READ).status == GOOD
    assert writes(a).status == GOOD
    assert status(out(a, "Release", 1, type=WE)) == GOOD
    assert writes(b).status == GOOD


def test_new_session_of_a_host_is_kept_out_too_and_that_of_the_holder_is_not() -> None:
    a, b = hosts_of(unit_of())
    register(a, 1)
    reserve(a, 1, EA)
    a.access.nexus_lost(a.nexus)
    again = Host(a.access, "iqn.2026-11.test:a")
    assert writes(again).status == GOOD
    assert Host(a.access, "iqn.2026-11.test:a", isid=7).run(READ).status == CONFLICT
    assert writes(b).status == CONFLICT


def test_unit_attention_is_reported_before_the_conflict() -> None:
    a, b = hosts_of(unit_of())
    register(a, 1)
    register(b, 2)
    reserve(a, 1, WE)
    out(a, "Preempt", 1, 2, type=WE)
    task = writes(b)
    assert task.condition == (0x6, *LOST)
    assert writes(b).status == CONFLICT


@pytest.mark.parametrize("function", [Function.LOGICAL_UNIT_RESET, Function.TARGET_WARM_RESET])
def test_resets_touch_no_registration(function: Function) -> None:
    a, b = hosts_of(unit_of())
    register(a, 1)
    reserve(a, 1, WE)
    assert b.manage(function) == [0]
    attentions(a), attentions(b)
    assert (keys(a), reservation(a)) == ((1,), (1, WE))
    assert writes(b).status == CONFLICT


# --- PERSISTENT RESERVE IN -----------------------------------------------------------------------


def test_everybody_can_read_who_is_registered_and_who_holds() -> None:
    a, b = hosts_of(unit_of())
    register(a, 0x11)
    register(b, 0x22)
    reserve(a, 0x11, WE_RO)
    other = Host(a.access, "iqn.2026-11.test:other")
    assert keys(other) == (0x11, 0x22)
    assert generation(other) == 2
    assert reservation(other) == (0x11, WE_RO)
    assert full_status(other) == (
        FullStatus(0x11, port_of(a), 1, WE_RO),
        FullStatus(0x22, port_of(b), 1),
    )


def test_all_registrants_hold_with_the_key_0() -> None:
    a, b = hosts_of(unit_of())
    register(a, 1)
    register(b, 2)
    reserve(a, 1, EA_AR)
    assert reservation(b) == (0, EA_AR)
    assert [each.type for each in full_status(b)] == [EA_AR, EA_AR]


@pytest.mark.parametrize("action", ["ReadKeys", "ReadReservation", "ReadFullStatus"])
@pytest.mark.parametrize("length", [0, 3, 8, 15, 100])
def test_answer_is_cut_to_the_allocation_length_and_says_how_long_it_is(
    action: str, length: int
) -> None:
    (a,) = hosts_of(unit_of(), 1)
    register(a, 1)
    reserve(a, 1, WE)
    whole = read(a, action)
    assert read(a, action, length) == whole[:length]
    assert int.from_bytes(whole[4:8], "big") == len(whole) - 8


@pytest.mark.parametrize(
    ("keeper", "aptpl", "expected"),
    [
        pytest.param(None, False, "00081cc0ea010000", id="nothing is kept"),
        pytest.param(
            MemoryKeeper(is_lasting=False), False, "00081cc0ea010000", id="a store for once"
        ),
        pytest.param(MemoryKeeper(), False, "00081dc0ea010000", id="could be kept"),
        pytest.param(MemoryKeeper(), True, "00081dc1ea010000", id="is kept"),
    ],
)
def test_capabilities_say_whether_registrations_are_kept(
    keeper: MemoryKeeper | None, aptpl: bool, expected: str
) -> None:
    (a,) = hosts_of(unit_of(keeper=keeper), 1)
    task = out(a, "Register", 0, 1, aptpl=aptpl)
    if keeper is not None and keeper.waiting:
        keeper.settle()
    assert task.status == GOOD
    assert read(a, "ReportCapabilities").hex() == expected


# --- what is told, and to whom -------------------------------------------------------------------


def test_release_tells_the_other_registrants_only() -> None:
    a, b, c = hosts_of(unit_of(), 3)
    register(a, 1)
    register(b, 2)
    reserve(a, 1, WE_RO)
    out(a, "Release", 1, type=WE_RO)
    assert (attentions(a), attentions(b), attentions(c)) == ([], [RELEASED], [])


def test_clear_and_preempt_tell_who_lost_something() -> None:
    a, b, c = hosts_of(unit_of(), 3)
    for host, key in ((a, 1), (b, 2), (c, 3)):
        register(host, key)
    reserve(a, 1, WE_RO)
    assert status(out(b, "Preempt", 2, 1, type=EA)) == GOOD
    assert (attentions(a), attentions(b), attentions(c)) == ([LOST], [], [RELEASED])
    assert status(out(c, "Clear", 3)) == GOOD
    assert (attentions(a), attentions(b), attentions(c)) == ([], [PREEMPTED], [])


def test_nexus_out_of_session_is_told_when_it_logs_in() -> None:
    a, b = hosts_of(unit_of())
    register(a, 1)
    register(b, 2)
    b.access.nexus_lost(b.nexus)
    out(a, "Preempt", 1, 2, type=WE)
    other_port = Host(a.access, "iqn.2026-11.test:b", isid=9)
    assert attentions(other_port) == []
    b_again = Host.__new__(Host)
    b_again.access, b_again._tag = a.access, 0
    b_again.nexus = type(b.nexus)(b.nexus.initiator_name, b.nexus.isid, b.nexus.target_name)
    a.access.nexus_started(b_again.nexus)
    assert attentions(b_again) == [POWER_ON, LOST]
    a.access.nexus_lost(b_again.nexus)
    a.access.nexus_started(b_again.nexus)
    assert attentions(b_again) == [POWER_ON]


# --- PREEMPT AND ABORT ---------------------------------------------------------------------------


def slow(count: int = 2) -> tuple[SlowDevice, list[Host]]:
    device = SlowDevice()
    hosts = hosts_of(unit_of(device), count)
    for number, host in enumerate(hosts, 1):
        register(host, number)
    return device, hosts


def test_preempt_and_abort_ends_after_the_preempted_commands_have() -> None:
    device, (a, b, c) = slow(3)
    theirs, others = writes(b), writes(c)
    task = out(a, "PreemptAndAbort", 1, 2, type=WE)
    assert (task.answers, theirs.answers) == (0, 0)
    assert writes(b).condition == (0x6, *LOST)
    device.step()
    assert (task.status, theirs.status, others.answers) == (GOOD, Status.TASK_ABORTED, 0)
    device.step()
    assert others.status == GOOD


def test_plain_preempt_lets_the_commands_come_to_their_end() -> None:
    device, (a, b) = slow()
    theirs = writes(b)
    task = out(a, "Preempt", 1, 2, type=WE)
    assert (task.status, theirs.answers) == (GOOD, 0)
    device.step()
    assert theirs.status == GOOD


def test_command_that_waits_for_its_data_is_aborted_at_once() -> None:
    _, (a, b) = slow()
    theirs = b.start(WRITE, BLOCK, slow_data=True)
    task = out(a, "PreemptAndAbort", 1, 2, type=WE)
    assert (task.status, theirs.status) == (GOOD, Status.TASK_ABORTED)


def test_write_of_a_lost_session_that_is_at_the_device_is_waited_for() -> None:
    device, (a, b) = slow()
    writes(b)
    b.access.nexus_lost(b.nexus)
    task = out(a, "PreemptAndAbort", 1, 2, type=WE)
    assert task.answers == 0
    device.step()
    assert task.status == GOOD


def test_own_commands_are_aborted_when_the_own_key_is_named_but_not_the_command_itself() -> None:
    device, (a, b) = slow()
    reserve(a, 1, WE)
    own, theirs = writes(a), writes(b)
    assert theirs.status == CONFLICT
    task = out(a, "PreemptAndAbort", 1, 1, type=EA)
    assert task.answers == 0
    device.step()
    assert task.status == GOOD
    assert own.answers == 1
    assert own.status is None  # aborted by its own initiator: no status
    assert reservation(a) == (1, EA)


def test_key_0_aborts_the_commands_of_all_registrants() -> None:
    device, (a, b, c) = slow(3)
    reserve(c, 3, EA_AR)
    theirs = [writes(b), writes(c)]
    task = out(a, "PreemptAndAbort", 1, 0, type=WE)
    device.step()
    assert task.answers == 0
    device.step()
    assert task.status == GOOD
    assert [each.status for each in theirs] == [Status.TASK_ABORTED] * 2


# --- kept through a restart ----------------------------------------------------------------------


def test_status_waits_until_the_registration_is_on_stable_storage() -> None:
    keeper = MemoryKeeper()
    a, b = hosts_of(unit_of(keeper=keeper))
    task = out(a, "Register", 0, 1, aptpl=True)
    assert task.answers == 0
    assert keys(b) == ()
    behind = out(b, "Register", 0, 2, aptpl=True)
    keeper.settle()
    assert (task.status, behind.answers) == (GOOD, 0)
    keeper.settle()
    assert behind.status == GOOD
    assert keys(b) == (1, 2)


def test_reservation_is_there_after_a_restart_with_generation_0() -> None:
    keeper = MemoryKeeper()
    a, b = hosts_of(unit_of(keeper=keeper))
    for task in (
        out(a, "Register", 0, 1, aptpl=True),
        out(b, "Register", 0, 2, aptpl=True),
        out(a, "Reserve", 1, type=WE_RO),
    ):
        keeper.settle()
        assert task.status == GOOD
    a, b = hosts_of(unit_of(keeper=keeper.after_restart()))
    other = Host(a.access, "iqn.2026-11.test:other")
    assert (keys(a), reservation(a), generation(a)) == ((1, 2), (1, WE_RO), 0)
    assert [writes(host).status for host in (a, b, other)] == [GOOD, GOOD, CONFLICT]


def test_nothing_is_kept_after_the_last_aptpl_bit_was_0() -> None:
    keeper = MemoryKeeper()
    a, b = hosts_of(unit_of(keeper=keeper))
    out(a, "Register", 0, 1, aptpl=True)
    keeper.settle()
    task = out(b, "Register", 0, 2)
    keeper.settle()
    assert task.status == GOOD
    assert keeper.registrations == Registrations()
    assert register(a, 3, 1) == GOOD
    assert not keeper.waiting


def test_what_cannot_be_stored_has_not_happened() -> None:
    keeper = MemoryKeeper()
    a, b = hosts_of(unit_of(keeper=keeper))
    out(a, "Register", 0, 1, aptpl=True)
    keeper.settle()
    task = out(a, "Reserve", 1, type=EA)
    keeper.settle(is_kept=False)
    assert task.condition == (0x4, 0x44, 0x00)
    assert reservation(a) == (0, None)
    assert writes(b).status == GOOD
    again = out(a, "Reserve", 1, type=EA)
    keeper.settle()
    assert again.status == GOOD


def test_command_that_is_aborted_before_its_turn_changes_nothing() -> None:
    keeper = MemoryKeeper()
    a, b = hosts_of(unit_of(keeper=keeper))
    out(a, "Register", 0, 1, aptpl=True)
    waiting = out(b, "Register", 0, 2, aptpl=True)
    responses = b.manage(Function.ABORT_TASK, tag=waiting.tag)
    assert responses == []
    keeper.settle()
    assert responses == [0]
    assert (waiting.answers, waiting.status) == (1, None)
    assert keys(a) == (1,)


def test_command_of_a_session_that_is_lost_before_its_turn_changes_nothing() -> None:
    keeper = MemoryKeeper()
    a, b = hosts_of(unit_of(keeper=keeper))
    out(a, "Register", 0, 1, aptpl=True)
    persistent, plain = out(b, "Register", 0, 2), b.start(RESERVE_6)
    b.access.nexus_lost(b.nexus)
    keeper.settle()
    assert (persistent.answers, plain.answers) == (1, 1)
    assert keys(a) == (1,)


@pytest.mark.parametrize("keeper", [None, MemoryKeeper(is_lasting=False)])
def test_aptpl_is_refused_where_nothing_can_be_kept(keeper: MemoryKeeper | None) -> None:
    a, b = hosts_of(unit_of(keeper=keeper))
    task = out(a, "Register", 0, 1, aptpl=True)
    assert task.condition == BAD_LIST
    assert pointer(task) == (False, 20, 0)
    register(a, 1)
    reserve(a, 1, WE)
    moving = move(a, MoveList(1, 2, port_of(b), 1, aptpl=True))
    assert (moving.condition, pointer(moving)) == (BAD_LIST, (False, 17, 0))
    ignored = out(a, "Release", 1, type=WE, aptpl=True)
    assert ignored.status == GOOD


# --- what is refused from the bytes --------------------------------------------------------------


@pytest.mark.parametrize("action", ["Reserve", "Release", "Preempt", "PreemptAndAbort"])
@pytest.mark.parametrize(
    ("scope", "type", "where"),
    [(1, 1, (True, 2, 7)), (0, 0, (True, 2, 3)), (0, 2, (True, 2, 3)), (0, 9, (True, 2, 3))],
)
def test_scope_and_type_that_there_are_not_are_refused(
    action: str, scope: int, type: int, where: tuple[bool, int, int]
) -> None:
    (a,) = hosts_of(unit_of(), 1)
    register(a, 1)
    task = out(a, action, 1, 1, scope=scope, type=type)
    assert (task.condition, pointer(task)) == (BAD_CDB, where)


def test_scope_and_type_are_ignored_where_they_mean_nothing() -> None:
    a, b = hosts_of(unit_of())
    assert status(out(a, "Register", 0, 1, scope=5, type=2)) == GOOD
    reserve(a, 1, WE)
    assert status(move(a, MoveList(1, 2, port_of(b), 1), scope=3, type=9)) == GOOD
    assert status(out(b, "Clear", 2, scope=1, type=15)) == GOOD


@pytest.mark.parametrize("length", [0, 23, 25, 1 << 20])
def test_list_of_another_length_is_refused(length: int) -> None:
    (a,) = hosts_of(unit_of(), 1)
    cdb = layouts.Register.pack(parameter_list_length=length)
    assert a.run(cdb, bytes(min(length, 64))).condition == (0x5, 0x1A, 0x00)


def test_list_of_which_less_comes_than_announced_is_refused() -> None:
    (a,) = hosts_of(unit_of(), 1)
    cdb = layouts.Register.pack(parameter_list_length=24)
    assert a.run(cdb, bytes(23)).condition == (0x5, 0x1A, 0x00)


# --- an administrator's order --------------------------------------------------------------------


def test_administrator_clears_everything_and_registrants_are_told() -> None:
    keeper = MemoryKeeper()
    unit = unit_of(keeper=keeper)
    a, b = hosts_of(unit)
    out(a, "Register", 0, 1, aptpl=True)
    keeper.settle()
    out(a, "Reserve", 1, type=EA)
    keeper.settle()
    said: list[bool] = []
    unit.reservations.clear(said.append)
    keeper.settle(is_kept=False)
    assert (said, writes(b).status) == ([False], CONFLICT)
    unit.reservations.clear(said.append)
    keeper.settle()
    assert said == [False, True]
    assert (attentions(a), attentions(b)) == ([PREEMPTED], [])
    assert writes(b).status == GOOD
    assert (keys(b), keeper.registrations) == ((), Registrations())


def test_administrator_ends_a_reserve() -> None:
    unit = unit_of()
    a, b = hosts_of(unit)
    a.run(RESERVE_6)
    unit.reservations.clear(lambda _: None)
    assert writes(b).status == GOOD


def test_units_successor_goes_on_where_it_was() -> None:
    unit = unit_of()
    a, b = hosts_of(unit)
    register(a, 1)
    register(b, 2)
    reserve(a, 1, WE)
    b.access.nexus_lost(b.nexus)
    out(a, "Preempt", 1, 2, type=WE)
    successor = unit_of()
    successor.reservations.take_over(unit.reservations)
    a.access.publish({"*": {0: successor}})
    attentions(a)
    assert (keys(a), reservation(a)) == ((1,), (1, WE))
    other = Host(a.access, "iqn.2026-11.test:b")
    assert writes(other).status == CONFLICT
