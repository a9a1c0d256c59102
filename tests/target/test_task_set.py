"""Order among tasks and their abortion, over a device that answers when it is told to."""

from __future__ import annotations

import pytest

from daiko.device.error import Unreachable
from daiko.iscsi.bhs import TaskManagementFunction, TaskManagementResponseCode
from daiko.scsi.opcode import Status
from daiko.target.access import Access
from daiko.target.event import Event
from daiko.target.mode_settings import CONTROL
from daiko.target.task import TaskAttribute
from target.fake import Host, SlowDevice, host_of, unit_of

READ = "88" + "00" + "00" * 8 + "00000001" + "0000"
WRITE = "8a" + "00" + "00" * 8 + "00000001" + "0000"
TEST_UNIT_READY = "00" * 6
INQUIRY = "120000002400"
SIMPLE, ORDERED = TaskAttribute.SIMPLE, TaskAttribute.ORDERED
HEAD = TaskAttribute.HEAD_OF_QUEUE
COMPLETE = [TaskManagementResponseCode.FUNCTION_COMPLETE]


def test_simple_tasks_are_all_at_the_device_together() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    for _ in range(5):
        host.start(READ)
    assert device.waiting == ["read"] * 5


def test_ordered_task_waits_for_older_and_holds_back_newer() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    first, second = host.start(READ), host.start(READ)
    ordered = host.start(WRITE, bytes(512), attribute=ORDERED)
    later = [host.start(READ), host.start(READ)]
    assert device.waiting == ["read", "read"]
    device.step()
    assert first.answers == 1
    assert device.waiting == ["read"]
    device.step()
    assert second.answers == 1
    assert device.waiting == ["write"]
    device.step()
    assert ordered.status == Status.GOOD
    assert device.waiting == ["read", "read"]
    device.step()
    device.step()
    assert [task.status for task in later] == [Status.GOOD] * 2


def test_ordered_tasks_of_two_hosts_keep_their_order() -> None:
    device = SlowDevice()
    access = Access()
    access.publish({"*": {0: unit_of(device)}})
    one, two = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    one.start(READ, attribute=ORDERED)
    two.start(WRITE, bytes(512), attribute=ORDERED)
    one.start(READ, attribute=ORDERED)
    seen = []
    while device.waiting:
        assert len(device.waiting) == 1
        seen += device.waiting
        device.step()
    assert seen == ["read", "write", "read"]


def test_head_of_queue_task_passes_the_waiting_and_holds_back_newer() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    host.start(READ)
    host.start(WRITE, bytes(512), attribute=ORDERED)
    host.start(READ, attribute=HEAD)
    simple = host.start(READ)
    assert device.waiting == ["read", "read"]
    for expected in (["read"], ["write"], ["read"]):
        device.step()
        assert device.waiting == expected
    device.step()
    assert simple.status == Status.GOOD


def test_ordered_task_on_an_idle_unit_begins_at_once() -> None:
    host = host_of(unit_of())
    assert host.start(READ, attribute=ORDERED).status == Status.GOOD
    assert host.start(READ).status == Status.GOOD


def test_gate_is_open_again_after_the_last_barrier() -> None:
    unit = unit_of()
    host = host_of(unit)
    host.start(READ, attribute=ORDERED)
    host.start(READ, attribute=HEAD)
    assert not unit.task_set.is_gated
    assert not unit.task_set.is_watched


@pytest.mark.parametrize("cdb", [INQUIRY, "030000001200", "a0" + "00" * 5 + "00000400" + "0000"])
def test_command_that_answers_at_once_passes_a_barrier(cdb: str) -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    host.start(READ)
    host.start(READ, attribute=ORDERED)
    assert host.start(TEST_UNIT_READY).answers == 0
    assert host.run(cdb).status == Status.GOOD


def test_thousands_of_waiting_tasks_that_complete_inline_need_no_deep_stack() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    host.start(READ)
    host.start(TEST_UNIT_READY, attribute=ORDERED)
    waiting = [host.start(TEST_UNIT_READY) for _ in range(3000)]
    device.step()
    assert all(task.status == Status.GOOD for task in waiting)


def test_aca_task_is_refused_and_leaves_nothing_behind() -> None:
    unit = unit_of()
    host = host_of(unit)
    task = host.start(READ, attribute=TaskAttribute.ACA)
    assert task.condition == (0x5, 0x49, 0x00)
    assert not next(iter(unit.nexuses)).tasks


# ---------------------------------------------------------------------- task management


def test_abort_task_waits_for_the_device_and_hides_the_answer() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = host.start(WRITE, bytes(512))
    response = host.manage(TaskManagementFunction.ABORT_TASK, tag=task.tag)
    assert response == []
    assert task.answers == 0
    device.step()
    assert response == COMPLETE
    assert task.answers == 1
    assert task.status is None


def test_abort_task_that_waits_for_data_ends_it_at_once() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = host.start(WRITE, bytes(512), slow_data=True)
    assert host.manage(TaskManagementFunction.ABORT_TASK, tag=task.tag) == COMPLETE
    assert task.answers == 1
    assert device.waiting == []


def test_abort_task_that_waits_in_the_task_set_never_begins() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    host.start(READ)
    waiting = host.start(WRITE, bytes(512), attribute=ORDERED)
    after = host.start(READ)
    assert host.manage(TaskManagementFunction.ABORT_TASK, tag=waiting.tag) == COMPLETE
    assert waiting.answers == 1
    assert device.waiting == ["read", "read"]
    device.step()
    device.step()
    assert after.status == Status.GOOD


def test_abort_task_unknown_tag_does_not_exist() -> None:
    host = host_of(unit_of())
    answer = host.manage(TaskManagementFunction.ABORT_TASK, tag=77)
    assert answer == [TaskManagementResponseCode.TASK_DOES_NOT_EXIST]


def test_abort_task_whose_device_fails_completes_the_function_too() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = host.start(READ)
    response = host.manage(TaskManagementFunction.ABORT_TASK, tag=task.tag)
    device.fail(Unreachable("gone"))
    assert response == COMPLETE
    assert task.status is None


def test_two_abort_functions_for_one_task_are_both_answered() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    task = host.start(READ)
    first = host.manage(TaskManagementFunction.ABORT_TASK, tag=task.tag)
    second = host.manage(TaskManagementFunction.ABORT_TASK_SET)
    device.step()
    assert (first, second) == (COMPLETE, COMPLETE)


def two_hosts(device: SlowDevice) -> tuple[Host, Host]:
    access = Access()
    access.publish({"*": {0: unit_of(device)}})
    return Host(access, "iqn.a:1"), Host(access, "iqn.a:2", 2)


def test_abort_task_set_leaves_other_hosts_alone() -> None:
    device = SlowDevice()
    one, two = two_hosts(device)
    mine, theirs = one.start(READ), two.start(READ)
    response = one.manage(TaskManagementFunction.ABORT_TASK_SET)
    device.step()
    assert response == COMPLETE
    assert mine.status is None
    device.step()
    assert theirs.status == Status.GOOD


def test_clear_task_set_ends_the_others_with_task_aborted() -> None:
    device = SlowDevice()
    one, two = two_hosts(device)
    mine, theirs = one.start(READ), two.start(READ)
    fetching = two.start(WRITE, bytes(512), slow_data=True)
    response = one.manage(TaskManagementFunction.CLEAR_TASK_SET)
    assert fetching.status == Status.TASK_ABORTED
    device.step()
    assert response == []
    device.step()
    assert response == COMPLETE
    assert mine.status is None
    assert theirs.status == Status.TASK_ABORTED
    assert not theirs.aborted


def test_without_tas_the_others_get_no_status_but_a_unit_attention() -> None:
    device = SlowDevice()
    one, two = two_hosts(device)
    unit = next(iter(one.nexus.units.values())).unit
    unit.set_mode(unit.mode.with_fields(CONTROL, tas=0))
    mine, theirs = one.start(READ), two.start(READ)
    fetching = two.start(WRITE, bytes(512), slow_data=True)
    response = one.manage(TaskManagementFunction.CLEAR_TASK_SET)
    device.step()
    device.step()
    assert response == COMPLETE
    assert [task.status for task in (mine, theirs, fetching)] == [None] * 3
    assert two.run(TEST_UNIT_READY).condition == (0x6, 0x2F, 0x00)
    assert two.run(TEST_UNIT_READY).condition is None
    assert one.run(TEST_UNIT_READY).condition is None


def test_without_tas_a_reset_is_told_as_the_reset_alone() -> None:
    one, two = two_hosts(SlowDevice())
    unit = next(iter(one.nexus.units.values())).unit
    unit.set_mode(unit.mode.with_fields(CONTROL, tas=0))
    two.start(WRITE, bytes(512), slow_data=True)
    assert one.manage(TaskManagementFunction.LOGICAL_UNIT_RESET) == COMPLETE
    assert two.run(TEST_UNIT_READY).condition == (0x6, 0x29, 0x03)
    assert two.run(TEST_UNIT_READY).condition is None


def test_logical_unit_reset_ends_all_tasks_and_tells_every_host() -> None:
    device = SlowDevice()
    one, two = two_hosts(device)
    one.start(READ)
    two.start(READ)
    response = one.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    device.step()
    device.step()
    assert response == COMPLETE
    for host in (one, two):
        assert host.run(TEST_UNIT_READY).condition == (0x6, 0x29, 0x03)
        assert host.run(TEST_UNIT_READY).status == Status.GOOD


@pytest.mark.parametrize(
    "function",
    [TaskManagementFunction.TARGET_WARM_RESET, TaskManagementFunction.TARGET_COLD_RESET],
    ids=lambda function: function.name.lower(),
)
def test_target_reset_touches_only_units_that_the_host_sees(
    function: TaskManagementFunction,
) -> None:
    seen, hidden = SlowDevice(), SlowDevice()
    access = Access()
    access.publish({"iqn.a:1": {0: unit_of(seen)}, "iqn.a:2": {0: unit_of(hidden)}})
    one, two = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    mine, theirs = one.start(READ), two.start(READ)
    response = one.manage(function)
    seen.step()
    assert response == COMPLETE
    hidden.step()
    assert mine.status is None
    assert theirs.status == Status.GOOD
    assert one.run(TEST_UNIT_READY).condition == (0x6, 0x29, 0x02)
    assert two.run(TEST_UNIT_READY).status == Status.GOOD


def test_nexus_reset_ends_own_tasks_and_tells_only_this_host() -> None:
    device = SlowDevice()
    one, two = two_hosts(device)
    mine, theirs = one.start(READ), two.start(READ)
    response = one.manage(TaskManagementFunction.I_T_NEXUS_RESET)
    device.step()
    device.step()
    assert response == COMPLETE
    assert (mine.status, theirs.status) == (None, Status.GOOD)
    assert one.run(TEST_UNIT_READY).condition == (0x6, 0x29, 0x07)
    assert two.run(TEST_UNIT_READY).status == Status.GOOD


def test_query_functions_say_what_is_there() -> None:
    device = SlowDevice()
    host = host_of(unit_of(device))
    succeeded = [TaskManagementResponseCode.FUNCTION_SUCCEEDED]
    assert host.manage(TaskManagementFunction.QUERY_TASK_SET) == COMPLETE
    task = host.start(READ)
    assert host.manage(TaskManagementFunction.QUERY_TASK, tag=task.tag) == succeeded
    assert host.manage(TaskManagementFunction.QUERY_TASK, tag=99) == COMPLETE
    assert host.manage(TaskManagementFunction.QUERY_TASK_SET) == succeeded
    assert host.manage(TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT) == COMPLETE
    next(iter(host.nexus.units.values())).unit.announce(Event.MODE_PARAMETERS_CHANGED)
    assert host.manage(TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT) == succeeded


@pytest.mark.parametrize(
    ("function", "lun", "response"),
    [
        pytest.param(2, 5, TaskManagementResponseCode.LUN_DOES_NOT_EXIST, id="unknown LUN"),
        pytest.param(3, 0, TaskManagementResponseCode.FUNCTION_COMPLETE, id="clear ACA"),
        pytest.param(
            8,
            0,
            TaskManagementResponseCode.REASSIGN_NOT_SUPPORTED,
            id="task reassign",
        ),
        pytest.param(0, 0, TaskManagementResponseCode.FUNCTION_NOT_SUPPORTED, id="function 0"),
        pytest.param(99, 0, TaskManagementResponseCode.FUNCTION_NOT_SUPPORTED, id="function 99"),
    ],
)
def test_function_without_tasks_is_answered_by_code(
    function: int, lun: int, response: TaskManagementResponseCode
) -> None:
    assert host_of(unit_of()).manage(function, lun=lun) == [response]


# ---------------------------------------------------------------------- loss of a session


def test_tasks_of_a_lost_session_hold_back_the_next_of_the_same_initiator() -> None:
    device = SlowDevice()
    access = Access()
    unit = unit_of(device)
    access.publish({"*": {0: unit}})
    host, other = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    old = host.start(WRITE, b"o" * 512)
    waiting = host.start(WRITE, b"w" * 512, attribute=ORDERED)
    access.nexus_lost(host.nexus)
    assert waiting.answers == 1
    again = Host(access, "iqn.a:1", isid=9)
    new = again.start(WRITE, b"n" * 512)
    assert other.start(READ).answers == 0
    assert device.waiting == ["write", "read"]
    device.step()
    assert old.status is None
    assert device.waiting == ["read", "write"]
    device.step()
    device.step()
    assert new.status == Status.GOOD
    assert not unit.task_set.is_gated
    assert not unit.task_set.is_watched


def test_head_of_queue_task_waits_for_the_lost_session_of_its_own_initiator_only() -> None:
    device = SlowDevice()
    access = Access()
    unit = unit_of(device)
    access.publish({"*": {0: unit}})
    host, other = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    host.start(WRITE, b"o" * 512)
    access.nexus_lost(host.nexus)
    again = Host(access, "iqn.a:1", isid=9)
    first = again.start(WRITE, b"1" * 512, attribute=HEAD)
    second = again.start(WRITE, b"2" * 512, attribute=HEAD)
    later = again.start(WRITE, b"3" * 512)
    theirs = other.start(READ, attribute=HEAD)
    assert device.waiting == ["write", "read"], "only what does not come after the lost session"
    held_back = other.start(READ)
    device.step()
    assert device.waiting == ["read", "write", "write"], "the last HEAD OF QUEUE task is first"
    device.step()
    assert theirs.status == Status.GOOD
    device.step()
    assert (first.answers, second.answers, later.answers) == (0, 1, 0)
    device.step()
    assert first.status == Status.GOOD
    assert device.waiting == ["write", "read"]
    device.step()
    device.step()
    assert later.status == held_back.status == Status.GOOD
    assert not unit.task_set.is_gated


def test_head_of_queue_task_that_waits_can_be_aborted() -> None:
    device = SlowDevice()
    access = Access()
    unit = unit_of(device)
    access.publish({"*": {0: unit}})
    host = Host(access, "iqn.a:1")
    host.start(WRITE, b"o" * 512)
    access.nexus_lost(host.nexus)
    again = Host(access, "iqn.a:1", isid=9)
    waiting = again.start(READ, attribute=HEAD)
    assert again.manage(TaskManagementFunction.ABORT_TASK, tag=waiting.tag) == COMPLETE
    assert waiting.answers == 1
    device.step()
    assert not unit.task_set.is_gated


def test_session_lost_without_tasks_leaves_no_trace() -> None:
    access = Access()
    unit = unit_of()
    access.publish({"*": {0: unit}})
    host = Host(access)
    access.nexus_lost(host.nexus)
    access.nexus_lost(host.nexus)
    assert not unit.nexuses
    assert not unit.task_set.is_gated
    assert access.sessions() == ()


@pytest.mark.parametrize(
    "function",
    [
        TaskManagementFunction.LOGICAL_UNIT_RESET,
        TaskManagementFunction.CLEAR_TASK_SET,
        TaskManagementFunction.TARGET_WARM_RESET,
    ],
)
def test_write_of_a_lost_session_is_waited_for_by_what_ends_all_tasks(
    function: TaskManagementFunction,
) -> None:
    device = SlowDevice()
    access = Access()
    access.publish({"*": {0: unit_of(device)}})
    gone, host = Host(access, "iqn.a:1"), Host(access, "iqn.a:2")
    gone.start(WRITE, bytes(512))
    access.nexus_lost(gone.nexus)
    responses = host.manage(function)
    assert responses == []
    device.step()
    assert responses == COMPLETE
