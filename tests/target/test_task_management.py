"""Task management over a socket of the target port."""

from __future__ import annotations

import pytest

from daiko.iscsi.bhs import (
    RESERVED_TAG,
    AsyncEvent,
    TaskManagementFunction,
)
from daiko.iscsi.pdu import (
    AsyncMessage,
    ReadyToTransfer,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
)
from daiko.scsi.sense import parse_sense
from daiko.target import session as session_module
from target.memory_access import BLOCK, IQN, MemoryAccess
from target.raw_initiator import (
    RawInitiator,
    alive,
    logged_in,
    read_10,
    write_10,
)


@pytest.mark.parametrize(
    ("function", "response"),
    [
        (TaskManagementFunction.ABORT_TASK_SET, 0),
        (TaskManagementFunction.LOGICAL_UNIT_RESET, 0),
        (TaskManagementFunction.TARGET_WARM_RESET, 0),
        (TaskManagementFunction.TASK_REASSIGN, 4),
        (TaskManagementFunction.QUERY_TASK, 5),
        (0, 5),
    ],
)
async def test_task_management_is_answered(
    host: RawInitiator, access: MemoryAccess, function: int, response: int
) -> None:
    access.hold = True
    host.command(read_10(0, 1), read=BLOCK, tag=1)
    host.send(TaskManagementRequest(function, 0, 2, cmd_sn=host.cmd_sn))
    answer: TaskManagementResponse = await host.receive()
    assert (answer.initiator_task_tag, answer.response) == (2, response)
    assert access.managed == ([(function, 0, RESERVED_TAG)] if response == 0 else [])
    assert await alive(host)


async def test_aborted_task_has_no_answer_and_frees_its_place(
    host: RawInitiator, access: MemoryAccess
) -> None:
    access.hold = True
    host.command(read_10(0, 1), read=BLOCK, tag=1)
    host.command(read_10(0, 1), read=BLOCK, tag=3)
    host.send(TaskManagementRequest(1, 0, 2, 1, cmd_sn=host.cmd_sn))
    answer: TaskManagementResponse = await host.receive()
    assert (answer.response, answer.max_cmd_sn) == (0, 1 + session_module.WINDOW)
    access.release()
    assert (await host.receive()).initiator_task_tag == 3


@pytest.mark.parametrize(
    ("reference", "own", "response"),
    [
        pytest.param(0, 5, 1, id="received-and-ended"),
        pytest.param(1, 5, 0, id="the-next"),
        pytest.param(3, 5, 0, id="one-to-come"),
        pytest.param(5, 5, 1, id="not-before-the-function"),
        pytest.param(1 + session_module.WINDOW, 2000, 1, id="beyond-the-window"),
    ],
)
async def test_abort_of_a_command_that_has_not_come(
    host: RawInitiator, access: MemoryAccess, reference: int, own: int, response: int
) -> None:
    """RFC 7143, 11.6.1: a number that has its turn yet counts as received."""
    host.send(TaskManagementRequest(1, 0, 2, 77, cmd_sn=own, ref_cmd_sn=reference))
    answer: TaskManagementResponse = await host.receive()
    assert answer.response == response
    for cmd_sn in range(1, 5):
        host.command(read_10(0, 1), read=BLOCK, tag=cmd_sn, cmd_sn=cmd_sn)
    expected = [cmd_sn for cmd_sn in range(1, 5) if response or cmd_sn != reference]
    assert [(await host.receive()).initiator_task_tag for _ in expected] == expected
    assert len(access.submitted) == len(expected)
    host.cmd_sn = 5
    assert await alive(host)


async def test_set_function_ends_commands_that_came_early(
    host: RawInitiator, access: MemoryAccess
) -> None:
    """Commands 2 and 4 wait for number 1 when the reset comes, which is older than 4 only."""
    for cmd_sn in (2, 4):
        host.command(write_10(0, 1), write=BLOCK, data=bytes(BLOCK), tag=cmd_sn, cmd_sn=cmd_sn)
    host.send(
        TaskManagementRequest(
            TaskManagementFunction.LOGICAL_UNIT_RESET, 0, 9, cmd_sn=3, ref_cmd_sn=0
        )
    )
    assert (await host.receive()).response == 0
    host.command(read_10(0, 1), read=BLOCK, tag=1, cmd_sn=1)
    host.command(read_10(0, 1), read=BLOCK, tag=3, cmd_sn=3)
    assert [(await host.receive()).initiator_task_tag for _ in range(3)] == [1, 3, 4]
    assert [task.tag for task in access.submitted] == [1, 3, 4]


@pytest.mark.parametrize(
    ("level", "function", "response"),
    [
        ("1", TaskManagementFunction.QUERY_TASK, 5),
        ("1", TaskManagementFunction.I_T_NEXUS_RESET, 5),
        ("2", TaskManagementFunction.QUERY_TASK, 7),
        ("2", TaskManagementFunction.QUERY_TASK_SET, 0),
        ("2", TaskManagementFunction.I_T_NEXUS_RESET, 0),
        ("2", TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT, 0),
        ("2", TaskManagementFunction.TASK_REASSIGN, 4),
    ],
)
async def test_functions_of_rfc_7144_need_protocol_level_2(
    portal: str, access: MemoryAccess, level: str, function: int, response: int
) -> None:
    access.hold = True
    async with await logged_in(portal, iSCSIProtocolLevel=level) as host:
        assert host.keys["iSCSIProtocolLevel"] == level
        host.command(read_10(0, 1), read=BLOCK, tag=1)
        host.send(TaskManagementRequest(function, 0, 2, 1, cmd_sn=host.cmd_sn))
        answer: TaskManagementResponse = await host.receive()
        assert answer.response == response


async def test_aborted_write_drops_the_data_still_on_its_way(
    host: RawInitiator, access: MemoryAccess
) -> None:
    host.command(write_10(0, 1), write=BLOCK, tag=1)
    r2t: ReadyToTransfer = await host.receive()
    host.send(TaskManagementRequest(1, 0, 2, 1, cmd_sn=host.cmd_sn))
    assert (await host.receive()).response == 0
    host.data_out(1, r2t.target_transfer_tag, 0, b"x" * BLOCK, final=True)
    assert await alive(host)
    assert not any(access.store[:BLOCK])


async def test_abort_of_an_unknown_task_says_so(host: RawInitiator) -> None:
    host.send(TaskManagementRequest(1, 0, 2, 0x55, cmd_sn=host.cmd_sn))
    assert (await host.receive()).response == 1


async def test_abort_of_a_command_that_waits_for_room(
    host: RawInitiator, access: MemoryAccess
) -> None:
    access.hold = True
    host.command(read_10(0, 1), read=session_module.ROOM, tag=1)
    host.command(read_10(0, 1), read=BLOCK, tag=3)
    host.send(TaskManagementRequest(1, 0, 2, 3, cmd_sn=host.cmd_sn))
    assert (await host.receive()).response == 0
    assert access.managed == []
    access.release()
    assert (await host.receive()).initiator_task_tag == 1
    assert await alive(host)


async def test_broken_data_of_a_command_that_waits_for_room_ends_it(
    portal: str, access: MemoryAccess
) -> None:
    access.hold = True
    async with await logged_in(portal, InitialR2T="No") as host:
        host.command(read_10(0, 1), read=session_module.ROOM, tag=1)
        host.command(write_10(0, 2), write=2 * BLOCK, tag=2, final=False)
        host.data_out(2, RESERVED_TAG, 0, bytes(BLOCK), final=True, data_sn=7)
        answer: ScsiResponse = await host.receive()
        assert (answer.initiator_task_tag, answer.status) == (2, 2)
        assert parse_sense(answer.sense).asc == 0x4B
        assert access.managed == []
        access.release()
        assert (await host.receive()).initiator_task_tag == 1
        assert len(access.submitted) == 1


async def test_reset_of_a_unit_drops_its_commands_that_wait_for_room(
    host: RawInitiator, access: MemoryAccess
) -> None:
    access.hold = True
    host.command(read_10(0, 1), read=session_module.ROOM, tag=1)
    host.command(read_10(0, 1), read=BLOCK, tag=2)
    host.command(bytes(6), tag=3, lun=1 << 48)
    host.send(TaskManagementRequest(5, 0, 9, cmd_sn=host.cmd_sn))
    answer: TaskManagementResponse = await host.receive()
    assert (answer.initiator_task_tag, answer.response) == (9, 0)
    access.release()
    assert (await host.receive()).initiator_task_tag == 3
    assert await alive(host)


async def test_cold_reset_ends_the_sessions_of_all_initiators(
    host: RawInitiator, portal: str, access: MemoryAccess
) -> None:
    async with await RawInitiator.connect(portal) as other:
        await other.login(IQN, name="iqn.other")
        host.send(TaskManagementRequest(7, 0, 2, cmd_sn=host.cmd_sn))
        assert (await host.receive()).response == 0
        for one in (host, other):
            announced: AsyncMessage = await one.receive()
            assert announced.event == AsyncEvent.ALL_CONNECTIONS_DROPPED
            assert await one.is_closed()
    assert set(access.lost) == set(access.started)
