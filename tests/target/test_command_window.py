"""The order of commands over a socket of the target port, and how many it takes up at once."""

from __future__ import annotations

import asyncio

from daiko.iscsi.bhs import (
    STATUS,
)
from daiko.iscsi.pdu import (
    DataIn,
    LogoutRequest,
    NopIn,
    NopOut,
    TaskManagementRequest,
)
from daiko.scsi.opcode import Status
from daiko.target import session as session_module
from daiko.target.portal import Target
from target.memory_access import BLOCK, MemoryAccess
from target.raw_initiator import (
    RawInitiator,
    alive,
    logged_in,
    read_10,
    until,
)


async def test_commands_out_of_order_are_served_in_order(
    host: RawInitiator, access: MemoryAccess
) -> None:
    first = host.take_cmd_sn()
    for tag in (2, 3):
        host.command(read_10(0, 1), read=BLOCK, tag=tag)
    assert await alive(host)
    host.command(read_10(0, 1), read=BLOCK, tag=1, cmd_sn=first)
    answers = [await host.receive() for _ in range(3)]
    assert [answer.initiator_task_tag for answer in answers] == [1, 2, 3]
    assert answers[-1].exp_cmd_sn == first + 3


async def test_duplicate_and_out_of_window_commands_are_ignored(
    host: RawInitiator, access: MemoryAccess
) -> None:
    host.command(read_10(0, 1), read=BLOCK, tag=1)
    assert isinstance(await host.receive(), DataIn)
    for cmd_sn in (1, 0, host.cmd_sn + 200, 0x80000000):
        host.command(read_10(0, 1), read=BLOCK, tag=2, cmd_sn=cmd_sn)
    assert await alive(host)
    assert len(access.submitted) == 1


async def test_other_numbered_requests_are_held_and_served_in_order(host: RawInitiator) -> None:
    first = host.take_cmd_sn()
    host.send(NopOut(immediate=False, initiator_task_tag=1, cmd_sn=host.take_cmd_sn()))
    host.text({"SendTargets": ""}, tag=2)
    pdu = TaskManagementRequest(2, 0, 3, cmd_sn=host.take_cmd_sn(), immediate=False)
    host.send(pdu)
    host.send(LogoutRequest(2, 4, 0, host.take_cmd_sn(), immediate=False))
    assert await alive(host)
    host.command(read_10(0, 1), read=BLOCK, tag=0, cmd_sn=first)
    answers = [await host.receive() for _ in range(5)]
    assert [answer.initiator_task_tag for answer in answers] == [0, 1, 2, 3, 4]
    assert (answers[-1].exp_cmd_sn, answers[-1].max_cmd_sn) == (
        first + 5,
        first + 4 + session_module.WINDOW,
    )


async def test_immediate_command_does_not_wait_for_a_gap(host: RawInitiator) -> None:
    host.command(read_10(0, 1), read=BLOCK, tag=1, cmd_sn=host.cmd_sn + 1)
    host.command(read_10(0, 1), read=BLOCK, tag=2, immediate=True)
    answer: DataIn = await host.receive()
    assert answer.initiator_task_tag == 2
    assert answer.exp_cmd_sn == host.cmd_sn


async def test_window_stands_still_while_commands_are_in_progress(
    host: RawInitiator, access: MemoryAccess
) -> None:
    access.hold = True
    count = session_module.WINDOW // 2
    for tag in range(count):
        host.command(read_10(0, 1), read=BLOCK, tag=tag)
    host.send(NopOut(initiator_task_tag=0x7777, cmd_sn=host.cmd_sn))
    answer: NopIn = await host.receive()
    assert answer.max_cmd_sn == session_module.WINDOW
    assert answer.exp_cmd_sn == 1 + count
    host.command(read_10(0, 1), read=BLOCK, tag=0x999, cmd_sn=answer.max_cmd_sn + 1)
    assert await alive(host)
    assert len(access.submitted) == count
    access.release()
    last = [await host.receive() for _ in range(count)][-1]
    assert last.max_cmd_sn == session_module.WINDOW + count


async def test_unit_that_answers_nothing_leaves_the_window_to_the_others(
    host: RawInitiator, access: MemoryAccess
) -> None:
    """However many commands a host sends to units that are dead, one that works gets its own."""
    window = session_module.WINDOW
    access.hold = True
    full = 0
    for lun in range(12):
        for number in range(window):
            host.command(read_10(0, 1), read=BLOCK, tag=lun << 16 | number, lun=lun << 48)
        host.send(NopOut(initiator_task_tag=0x7777, cmd_sn=host.cmd_sn))
        while not isinstance(answer := await host.receive(), NopIn):
            assert answer.status == Status.TASK_SET_FULL
            full += 1
        assert answer.max_cmd_sn >= answer.exp_cmd_sn  # never closed
    held = [task.lun >> 48 for task in access.submitted]
    assert full + len(held) == 12 * window
    assert [held.count(lun) for lun in range(8)] == [128, 64, 32, 16, 8, 4, 2, 1]
    access.hold = False
    host.command(read_10(0, 1), read=BLOCK, tag=0x7000000, lun=20 << 48)
    assert (await host.receive()).initiator_task_tag == 0x7000000
    access.release()
    answers = {(await host.receive()).initiator_task_tag for _ in held}
    assert answers == {task.tag for task in access.submitted[: len(held)]}


async def test_stat_sn_counts_every_status(host: RawInitiator) -> None:
    numbers = []
    for _ in range(2):
        host.command(read_10(0, 1), read=BLOCK)
        numbers.append((await host.receive()).stat_sn)
        host.command(read_10(0xFFFFFF, 1), read=BLOCK)
        numbers.append((await host.receive()).stat_sn)
        assert await alive(host)
    assert numbers == [1, 2, 4, 5]


# --- memory


async def test_commands_beyond_the_room_of_a_unit_wait_for_it(
    host: RawInitiator, access: MemoryAccess
) -> None:
    access.hold = True
    quarter = session_module.ROOM // 4
    for tag in range(4):
        host.command(read_10(0, 1), read=quarter if tag < 3 else BLOCK, tag=tag)
    assert await alive(host)
    assert [task.tag for task in access.submitted] == [0, 1]
    access.release()
    answers = [await host.receive() for _ in range(4)]
    assert [answer.initiator_task_tag for answer in answers] == [0, 1, 2, 3]


async def test_units_share_the_room_and_each_has_some_however_many_are_dead(
    host: RawInitiator, access: MemoryAccess
) -> None:
    access.hold = True
    large = session_module.ROOM // 8
    for number in range(8):
        for lun in range(10):
            host.command(read_10(0, 1), read=large, tag=lun << 8 | number, lun=lun << 48)
        assert await alive(host)
    taken = [task.lun >> 48 for task in access.submitted]
    assert sum(task.expected_in for task in access.submitted) <= 2 * session_module.ROOM
    assert set(taken) == set(range(10))  # a unit without room may have one command all the same
    for lun in range(10):  # in the order of their unit
        assert [t.tag & 0xFF for t in access.submitted if t.lun == lun << 48] == list(
            range(taken.count(lun))
        )
    access.release()
    answers = [(await host.receive()).initiator_task_tag for _ in range(80)]
    for lun in range(10):
        assert [tag & 0xFF for tag in answers if tag >> 8 == lun] == list(range(8))


async def test_command_larger_than_the_room_goes_alone(
    host: RawInitiator, access: MemoryAccess
) -> None:
    host.command(read_10(0, 1), read=0xFFFFFFFF, tag=1)
    host.command(read_10(0, 1), read=BLOCK, tag=2)
    assert [(await host.receive()).initiator_task_tag for _ in range(2)] == [1, 2]


async def test_host_that_does_not_read_makes_the_target_hold_little(
    portal: str, target: Target, access: MemoryAccess
) -> None:
    blocks = 1024
    async with await logged_in(portal) as host:
        host.writer.transport.pause_reading()  # type: ignore[attr-defined]
        count = 100
        for tag in range(count):
            host.command(read_10(0, blocks), read=blocks * BLOCK, tag=tag)
        (session,) = target.sessions
        await until(lambda: session.connection.is_congested)
        taken = len(access.submitted)
        assert taken < count
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(access.submitted) == taken
        host.writer.transport.resume_reading()  # type: ignore[attr-defined]
        finished = set()
        while len(finished) < count:
            pdu = await host.receive()
            if pdu.flags & STATUS:
                finished.add(pdu.initiator_task_tag)
        assert len(access.submitted) == count
