"""Reservations as they live at a unit: durable, told to the right hosts, ending commands."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from daiko.iscsi.bhs import TaskManagementFunction as Function
from daiko.scsi import persistent_reservation as layouts
from daiko.scsi import sbc
from daiko.scsi.opcode import Status
from daiko.scsi.persistent_reservation import FullStatus, MoveList, ReservationType
from daiko.scsi.transport_id import TransportId
from daiko.target.access import Access
from daiko.target.asymmetric_access import TargetPortGroups
from daiko.target.logical_unit import LogicalUnit
from daiko.target.registrations import Registrations
from target.fake import FakeTask, Host, MemoryKeeper, SlowDevice, unit_of
from target.reserving import (
    CONFLICT,
    GOOD,
    attentions,
    full_status,
    generation,
    keys,
    move,
    out,
    port_of,
    read,
    register,
    reservation,
    reserve,
    status,
)

WE, EA = ReservationType.WRITE_EXCLUSIVE, ReservationType.EXCLUSIVE_ACCESS
WE_RO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
EA_AR = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS
WRITE = sbc.Write10.pack(transfer_length=1)
READ = sbc.Read10.pack(transfer_length=1)
BLOCK = bytes(512)
PREEMPTED, RELEASED, LOST = (0x2A, 0x03), (0x2A, 0x04), (0x2A, 0x05)
POWER_ON = (0x29, 0x00)
BAD_LIST, BAD_CDB = (0x5, 0x26, 0x00), (0x5, 0x24, 0x00)
RESERVE_6, RELEASE_6 = layouts.Reserve6.pack(), layouts.Release6.pack()
RESERVE_10, RELEASE_10 = layouts.Reserve10.pack(), layouts.Release10.pack()


def access_to(*units: LogicalUnit) -> Access:
    access = Access()
    access.publish({"*": dict(enumerate(units))})
    return access


def hosts_of(unit: LogicalUnit, count: int = 2) -> list[Host]:
    access = access_to(unit)
    return [Host(access, f"iqn.2026-11.test:{letter}") for letter in "abcd"[:count]]


def writes(host: Host) -> FakeTask:
    return host.start(WRITE, BLOCK)


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


def pointer(task: FakeTask) -> tuple[bool, int, int | None] | None:
    """(in CDB, byte, bit) of the field that was refused."""
    assert task.sense is not None
    field = task.sense.field
    return None if field is None else (field.in_cdb, field.byte, field.bit)


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


# --- ports that are named ------------------------------------------------------------------------


def test_named_ports_are_registered_also_before_they_log_in() -> None:
    a, b = hosts_of(unit_of())
    stranger = TransportId("iqn.2026-11.test:stranger", bytes.fromhex("0023d0000001"))
    ids = (port_of(b), stranger)
    assert register(a, 9, spec_i_pt=True, transport_ids=ids) == GOOD
    assert [each.transport_id for each in full_status(a)] == [port_of(a), *ids]
    reserve(b, 9, WE_RO)
    assert writes(a).status == GOOD
    late = Host(a.access, stranger.name, isid=0x0023D0000001)
    assert writes(late).status == GOOD


def test_device_that_is_named_stands_for_its_known_ports() -> None:
    access = access_to(unit_of())
    a = Host(access, "iqn.2026-11.test:a")
    Host(access, "iqn.2026-11.test:b", isid=1)
    Host(access, "iqn.2026-11.test:b", isid=2)
    device = TransportId("iqn.2026-11.test:b")
    assert register(a, 9, spec_i_pt=True, transport_ids=(device,)) == GOOD
    assert [each.transport_id.isid for each in full_status(a)[1:]] == [
        (1).to_bytes(6, "big"),
        (2).to_bytes(6, "big"),
    ]


def test_device_without_a_known_port_is_refused() -> None:
    (a,) = hosts_of(unit_of(), 1)
    stranger = (TransportId("iqn.2026-11.test:nobody"),)
    task = out(a, "Register", 0, 9, spec_i_pt=True, transport_ids=stranger)
    assert (task.condition, pointer(task)) == (BAD_LIST, (False, 24, None))
    assert keys(a) == ()


def two_ports() -> tuple[Host, Host, Host]:
    """Host a at the target ports 1 and 2, host b at 2."""
    groups = TargetPortGroups()
    groups.replace({1: 1, 2: 2}, {})
    access = access_to(unit_of(port_groups=groups))
    names = ("iqn.2026-11.test:a", "iqn.2026-11.test:b")
    return Host(access, names[0]), Host(access, names[0], port=2), Host(access, names[1], port=2)


def test_registration_is_of_one_target_port() -> None:
    a1, a2, b = two_ports()
    register(a1, 1)
    reserve(a1, 1, WE_RO)
    assert [writes(host).status for host in (a1, a2, b)] == [GOOD, CONFLICT, CONFLICT]
    assert register(a2, 1) == GOOD
    assert writes(a2).status == GOOD
    assert [each.relative_target_port for each in full_status(b)] == [1, 2]


def test_all_target_ports_are_registered_together() -> None:
    a1, a2, b = two_ports()
    assert register(a1, 1, all_tg_pt=True) == GOOD
    reserve(a2, 1, EA)
    assert [writes(host).status for host in (a1, a2, b)] == [CONFLICT, GOOD, CONFLICT]
    assert [(s.relative_target_port, s.type) for s in full_status(b)] == [(1, None), (2, EA)]


def test_reservation_moves_to_a_port_of_another_target_port() -> None:
    a1, _, b = two_ports()
    register(a1, 1)
    reserve(a1, 1, WE)
    assert status(move(a1, MoveList(1, 2, port_of(b), 2, unreg=True))) == GOOD
    assert full_status(b) == (FullStatus(2, port_of(b), 2, WE),)
    assert [writes(host).status for host in (a1, b)] == [CONFLICT, GOOD]


@pytest.mark.parametrize(
    ("name", "target_port", "byte"),
    [
        pytest.param("iqn.2026-11.test:b", 3, 18, id="target port that there is not"),
        pytest.param("iqn.2026-11.test:nobody", 1, 24, id="device without a known port"),
    ],
)
def test_move_to_what_is_not_known_is_refused(name: str, target_port: int, byte: int) -> None:
    a1, _, _ = two_ports()
    register(a1, 1)
    reserve(a1, 1, WE)
    task = move(a1, MoveList(1, 2, TransportId(name), target_port))
    assert (task.condition, pointer(task)) == (BAD_LIST, (False, byte, None))
    assert reservation(a1) == (1, WE)


def test_move_to_a_device_goes_to_its_one_known_port() -> None:
    a1, _, b = two_ports()
    register(a1, 1)
    reserve(a1, 1, WE)
    assert status(move(a1, MoveList(1, 2, TransportId(b.nexus.initiator_name), 2))) == GOOD
    assert full_status(b)[-1] == FullStatus(2, port_of(b), 2, WE)


# --- RESERVE and RELEASE -------------------------------------------------------------------------

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
