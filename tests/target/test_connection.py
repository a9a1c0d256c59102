"""The target port over a socket: login, commands, data, numbering, task management, the end."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio

from daiko.iscsi.bhs import (
    FINAL,
    OVERFLOW,
    RESERVED_TAG,
    STATUS,
    UNDERFLOW,
    AsyncEvent,
    LogoutResponseCode,
    TaskManagementFunction,
)
from daiko.iscsi.error import LoginStatus, RejectReason
from daiko.iscsi.pdu import (
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutRequest,
    LogoutResponse,
    NopIn,
    NopOut,
    ReadyToTransfer,
    Reject,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    TextResponse,
)
from daiko.iscsi.text_key import format_text, parse_text
from daiko.scsi.opcode import Status
from daiko.scsi.sense import parse_sense
from daiko.target import portal as portal_module
from daiko.target import session as session_module
from daiko.target.portal import Target
from target.memory_access import BLOCK, IQN, MemoryAccess, serving
from target.raw_initiator import INITIATOR, ISID, RawInitiator, read_10, write_10


@pytest.fixture
def access() -> MemoryAccess:
    return MemoryAccess()


@pytest_asyncio.fixture
async def served(access: MemoryAccess) -> AsyncIterator[tuple[Target, str]]:
    async with serving(access) as made:
        yield made


@pytest_asyncio.fixture
async def target(served: tuple[Target, str]) -> Target:
    return served[0]


@pytest_asyncio.fixture
async def portal(served: tuple[Target, str]) -> str:
    return served[1]


@pytest_asyncio.fixture
async def host(portal: str) -> AsyncIterator[RawInitiator]:
    """Logged in with the target's defaults."""
    async with await RawInitiator.connect(portal) as made:
        assert (await made.login(IQN)).status == 0
        yield made


async def logged_in(portal: str, isid: bytes = ISID, **keys: str) -> RawInitiator:
    made = await RawInitiator.connect(portal)
    assert (await made.login(IQN, keys=keys, isid=isid)).status == 0
    return made


async def until(condition: Callable[[], bool]) -> None:
    """Let the event loop turn until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


async def alive(host: RawInitiator) -> bool:
    """A ping comes back."""
    host.send(NopOut(initiator_task_tag=0x7777, cmd_sn=host.cmd_sn, data=b"still there?"))
    answer = await host.receive()
    return isinstance(answer, NopIn) and answer.data == b"still there?"


# --- login


async def test_normal_login_starts_a_nexus(host: RawInitiator, access: MemoryAccess) -> None:
    (nexus,) = access.started
    assert nexus.identity == (INITIATOR, ISID, IQN, 1)
    assert nexus.peer_address[1] == host.writer.get_extra_info("sockname")[1]
    assert host.keys["TargetPortalGroupTag"] == "1"


@pytest.mark.parametrize(
    ("target_name", "fields", "status"),
    [
        pytest.param("iqn.other", {}, LoginStatus.NOT_FOUND, id="no-such-target"),
        pytest.param(IQN, {"name": "iqn.evil"}, LoginStatus.AUTHORIZATION_FAILURE, id="host"),
        pytest.param(IQN, {"tsih": 99}, LoginStatus.SESSION_DOES_NOT_EXIST, id="no-such-session"),
        pytest.param(None, {"tsih": 99}, LoginStatus.SESSION_DOES_NOT_EXIST, id="discovery-tsih"),
    ],
)
async def test_login_refused_is_answered_and_closed(
    portal: str,
    access: MemoryAccess,
    target_name: str | None,
    fields: dict[str, Any],
    status: LoginStatus,
) -> None:
    access.allowed = lambda name: name == INITIATOR
    async with await RawInitiator.connect(portal) as host:
        response = await host.login(target_name, **fields)
        assert (response.status, response.transit) == (status, False)
        assert await host.is_closed()
    assert access.started == []


async def test_second_connection_of_a_session_is_refused(portal: str) -> None:
    async with await RawInitiator.connect(portal) as first:
        tsih = (await first.login(IQN)).tsih
        async with await RawInitiator.connect(portal) as second:
            response = await second.login(IQN, tsih=tsih, cid=1)
            assert response.status == LoginStatus.TOO_MANY_CONNECTIONS
        assert await alive(first)


async def test_same_initiator_port_again_reinstates_the_session(
    portal: str, target: Target, access: MemoryAccess
) -> None:
    async with await RawInitiator.connect(portal) as first:
        await first.login(IQN)
        access.hold = True
        first.command(read_10(0, 1), read=BLOCK)
        async with await RawInitiator.connect(portal) as second:
            response = await second.login(IQN)
            assert response.status == 0
            assert await first.is_closed()
            assert access.lost == [access.started[0]]
            assert access.started[0].identity == access.started[1].identity
            assert len(target.sessions) == 1
            assert await alive(second)


async def test_other_initiator_port_has_a_session_of_its_own(portal: str, target: Target) -> None:
    async with await RawInitiator.connect(portal) as first:
        one = await first.login(IQN)
        async with await RawInitiator.connect(portal) as second:
            two = await second.login(IQN, isid=bytes.fromhex("800000000002"))
            assert one.tsih != two.tsih
            assert len(target.sessions) == 2
            assert await alive(first)
            assert await alive(second)


async def test_login_in_many_small_pdus_reaches_the_same_result(portal: str) -> None:
    async with await RawInitiator.connect(portal) as host:
        text = format_text({"InitiatorName": INITIATOR, "TargetName": IQN}.items())
        for at in range(0, len(text), 5):
            more = at + 5 < len(text)
            host.send(
                host.login_request(
                    {}, data=text[at : at + 5], continued=more, transit=not more,
                    next_stage=0 if more else 3,
                )
            )  # fmt: skip
            response: LoginResponse = await host.receive()
            assert response.status == 0
        assert response.transit
        assert await alive(host)


# --- reads


@pytest.mark.parametrize("digests", ["None", "CRC32C"])
async def test_read_comes_as_one_data_in_with_status(
    portal: str, access: MemoryAccess, digests: str
) -> None:
    access.store[BLOCK : 3 * BLOCK] = bytes(range(256)) * 4
    async with await logged_in(portal, HeaderDigest=digests, DataDigest=digests) as host:
        host.command(read_10(1, 2), read=2 * BLOCK, tag=5)
        answer: DataIn = await host.receive()
        assert answer == DataIn(
            FINAL | STATUS, 0, 0, 5, RESERVED_TAG, answer.stat_sn, 2, 1 + session_module.WINDOW,
            0, 0, 0, bytes(range(256)) * 4,
        )  # fmt: skip


async def test_long_read_is_cut_by_segment_and_burst(portal: str, access: MemoryAccess) -> None:
    access.store[: 40 * BLOCK] = bytes(index % 251 for index in range(40 * BLOCK))
    async with await logged_in(
        portal, MaxRecvDataSegmentLength="4096", MaxBurstLength="8192"
    ) as host:
        host.command(read_10(0, 40), read=40 * BLOCK)
        data = b""
        for number in range(5):
            pdu: DataIn = await host.receive()
            assert (pdu.data_sn, pdu.buffer_offset) == (number, number * 4096)
            assert bool(pdu.flags & FINAL) is (number in (1, 3, 4))
            assert bool(pdu.flags & STATUS) is (number == 4)
            data += pdu.data
        assert data == access.store[: 40 * BLOCK]


@pytest.mark.parametrize(
    ("expected", "flags", "count"),
    [
        pytest.param(BLOCK, 0, 0, id="exact"),
        pytest.param(3 * BLOCK, UNDERFLOW, 2 * BLOCK, id="underflow"),
        pytest.param(100, OVERFLOW, BLOCK - 100, id="overflow"),
    ],
)
async def test_read_residual(host: RawInitiator, expected: int, flags: int, count: int) -> None:
    host.command(read_10(0, 1), read=expected)
    pdu: DataIn = await host.receive()
    assert pdu.flags == FINAL | STATUS | flags
    assert pdu.residual == count
    assert len(pdu.data) == min(expected, BLOCK)


async def test_read_without_the_r_bit_overflows(host: RawInitiator) -> None:
    host.command(read_10(0, 1))
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual) == (0, OVERFLOW, BLOCK)


async def test_failed_read_carries_sense(host: RawInitiator) -> None:
    host.command(read_10(0xFFFFFF, 1), read=BLOCK)
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual) == (2, UNDERFLOW, BLOCK)
    sense = parse_sense(pdu.sense)
    assert (sense.key, sense.asc, sense.ascq) == (5, 0x21, 0)


@pytest.mark.parametrize(
    ("sizes", "pdus"),
    [
        pytest.param([100, 0, 300, 624], [1024], id="small-are-joined"),
        pytest.param([9000, 3, 5000], [9000, 3, 5000], id="large-are-not"),
    ],
)
async def test_data_in_several_buffers_comes_without_a_gap(
    host: RawInitiator, access: MemoryAccess, sizes: list[int], pdus: list[int]
) -> None:
    access.hold = True
    host.command(read_10(0, 1), read=sum(sizes))
    assert await alive(host)
    (task,) = access.submitted
    buffers = [bytes([65 + number]) * size for number, size in enumerate(sizes)]
    task.complete(0, buffers)
    answers = [await host.receive() for _ in pdus]
    assert [len(answer.data) for answer in answers] == pdus
    assert b"".join(answer.data for answer in answers) == b"".join(buffers)
    assert [bool(answer.flags & STATUS) for answer in answers][-1]


async def test_data_before_a_check_condition_is_sent_with_its_count(
    host: RawInitiator, access: MemoryAccess
) -> None:
    access.hold = True
    host.command(read_10(0, 1), read=BLOCK)
    assert await alive(host)
    access.submitted[0].complete(2, (bytes(100),), b"sense data")
    data: DataIn = await host.receive()
    assert (data.flags, len(data.data)) == (FINAL, 100)
    response: ScsiResponse = await host.receive()
    assert (response.status, response.sense, response.exp_data_sn) == (2, b"sense data", 1)
    assert (response.flags, response.residual) == (UNDERFLOW, BLOCK - 100)


async def test_task_completed_twice_is_answered_once(
    host: RawInitiator, access: MemoryAccess
) -> None:
    host.command(read_10(0, 1), read=BLOCK)
    assert (await host.receive()).status == 0
    access.submitted[0].complete(0, (bytes(BLOCK),))
    assert await alive(host)


# --- writes


async def test_write_with_immediate_data(host: RawInitiator, access: MemoryAccess) -> None:
    host.command(write_10(2, 2), write=2 * BLOCK, data=b"i" * 2 * BLOCK)
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual, pdu.exp_data_sn) == (0, 0, 0, 0)
    assert access.store[2 * BLOCK : 4 * BLOCK] == b"i" * 2 * BLOCK
    assert not access.store[4 * BLOCK]


async def test_write_with_unsolicited_data_and_r2ts(portal: str, access: MemoryAccess) -> None:
    data = bytes(index % 253 for index in range(64 * BLOCK))
    async with await logged_in(
        portal, InitialR2T="No", FirstBurstLength="8192", MaxBurstLength="8192",
        MaxOutstandingR2T="2",
    ) as host:  # fmt: skip
        host.command(write_10(0, 64), write=len(data), data=data[:1024], final=False, tag=9)
        host.data_out(9, RESERVED_TAG, 1024, data[1024:4096], final=False)
        host.data_out(9, RESERVED_TAG, 4096, data[4096:8192], final=True, data_sn=1)
        asked: list[ReadyToTransfer] = [await host.receive(), await host.receive()]
        at = 8192
        stat_sn = asked[0].stat_sn
        for number in range(3):
            r2t = asked.pop(0)
            assert (r2t.r2t_sn, r2t.buffer_offset, r2t.desired_length) == (number, at, 8192)
            assert r2t.stat_sn == stat_sn
            middle = at + 5000
            host.data_out(9, r2t.target_transfer_tag, at, data[at:middle], final=False)
            at += 8192
            host.data_out(
                9, r2t.target_transfer_tag, middle, data[middle:at], final=True, data_sn=1
            )
            if number == 0:
                asked.append(await host.receive())
        pdu: ScsiResponse = await host.receive()
        assert (pdu.status, pdu.exp_data_sn, pdu.stat_sn) == (0, 3, stat_sn)
        assert access.store[: len(data)] == data


async def test_large_write_is_received_in_place_with_digests(
    portal: str, access: MemoryAccess
) -> None:
    size = 200_192
    data = bytes(index % 241 for index in range(size))
    async with await logged_in(
        portal, HeaderDigest="CRC32C", DataDigest="CRC32C", ImmediateData="No"
    ) as host:
        host.command(write_10(0, size // BLOCK), write=size)
        r2t: ReadyToTransfer = await host.receive()
        assert r2t.desired_length == size
        host.data_out(0x10, r2t.target_transfer_tag, 0, data[:99_999], final=False)
        host.data_out(0x10, r2t.target_transfer_tag, 99_999, data[99_999:], final=True, data_sn=1)
        assert (await host.receive()).status == 0
        assert access.store[:size] == data


@pytest.mark.parametrize(
    ("blocks", "expected", "flags", "count"),
    [
        pytest.param(1, 3 * BLOCK, UNDERFLOW, 2 * BLOCK, id="unit-wants-less"),
        pytest.param(3, BLOCK, OVERFLOW, 2 * BLOCK, id="unit-wants-more"),
        pytest.param(0, BLOCK, UNDERFLOW, BLOCK, id="unit-wants-nothing"),
    ],
)
async def test_write_residual(
    host: RawInitiator, access: MemoryAccess, blocks: int, expected: int, flags: int, count: int
) -> None:
    data = b"w" * expected
    host.command(write_10(8, blocks), write=expected, data=data)
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual) == (0, flags, count)
    written = min(blocks * BLOCK, expected)
    assert access.store[8 * BLOCK : 12 * BLOCK] == data[:written].ljust(4 * BLOCK, b"\0")


async def test_refused_write_asks_for_no_data(host: RawInitiator) -> None:
    host.command(write_10(0xFFFFFF, 1), write=BLOCK)
    pdu: ScsiResponse = await host.receive()
    assert (pdu.status, pdu.flags, pdu.residual) == (2, UNDERFLOW, BLOCK)


async def test_unsolicited_data_of_a_refused_write_is_dropped(
    portal: str, access: MemoryAccess
) -> None:
    async with await logged_in(portal, InitialR2T="No") as host:
        host.command(write_10(0xFFFFFF, 1), write=BLOCK, final=False)
        assert (await host.receive()).status == 2
        host.data_out(0x10, RESERVED_TAG, 0, bytes(BLOCK), final=True)
        assert await alive(host)


# --- numbering


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


# --- pings, text, task management


async def test_ping_is_cut_to_what_the_initiator_takes(portal: str) -> None:
    async with await logged_in(portal, MaxRecvDataSegmentLength="512") as host:
        host.send(NopOut(initiator_task_tag=1, cmd_sn=host.cmd_sn, data=b"p" * 1000))
        answer: NopIn = await host.receive()
        assert answer.data == b"p" * 512


async def test_numbered_ping_takes_a_command_number(host: RawInitiator) -> None:
    host.send(NopOut(immediate=False, initiator_task_tag=1, cmd_sn=host.take_cmd_sn()))
    answer: NopIn = await host.receive()
    assert (answer.exp_cmd_sn, answer.max_cmd_sn) == (2, 1 + session_module.WINDOW)


async def test_silent_initiator_is_pinged_then_closed(
    host: RawInitiator, target: Target, access: MemoryAccess
) -> None:
    (role,) = target.connections
    role._watch()
    ping: NopIn = await host.receive()
    assert (ping.initiator_task_tag, ping.data) == (RESERVED_TAG, b"")
    host.send(NopOut(target_transfer_tag=ping.target_transfer_tag, cmd_sn=host.cmd_sn))
    assert await alive(host)
    role._watch()
    role._watch()
    assert isinstance(await host.receive(), NopIn)
    role._watch()
    assert await host.is_closed()
    assert access.lost == access.started


async def test_ping_keeps_to_the_times_that_are_set(portal: str, target: Target) -> None:
    target.ping_interval, target.ping_timeout = 0.01, 3600.0
    async with await logged_in(portal) as patient:
        assert isinstance(await patient.receive(), NopIn)
        target.ping_timeout = 0.01
        async with await logged_in(portal, isid=bytes(6)) as hasty:
            assert isinstance(await hasty.receive(), NopIn)
            assert await hasty.is_closed()
        assert await alive(patient)


async def test_send_targets_in_a_normal_session_names_its_own_target(
    host: RawInitiator, portal: str
) -> None:
    host.text({"SendTargets": ""})
    answer: TextResponse = await host.receive()
    assert answer.final
    assert parse_text(answer.data) == [("TargetName", IQN), ("TargetAddress", f"{portal},1")]
    host.text({"SendTargets": "All"})
    answer = await host.receive()
    assert parse_text(answer.data) == [("SendTargets", "Reject")]


async def test_initiator_may_declare_its_segment_length_again(host: RawInitiator) -> None:
    host.text({"MaxRecvDataSegmentLength": "512"})
    assert (await host.receive()).data == b""
    host.command(read_10(0, 2), read=2 * BLOCK)
    assert [len((await host.receive()).data) for _ in range(2)] == [512, 512]


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


async def test_connection_without_login_gives_way_to_a_newer_one(
    host: RawInitiator, portal: str, target: Target
) -> None:
    target.login_room.maximum = 1
    async with await RawInitiator.connect(portal) as older:
        await until(lambda: len(target.login_room) == 1)
        async with await RawInitiator.connect(portal) as newer:
            assert await older.is_closed()
            assert (await newer.login(IQN, isid=bytes(6))).status == 0
            assert len(target.login_room) == 0
    assert await alive(host)


async def test_session_beyond_the_most_is_refused(
    host: RawInitiator, portal: str, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_module, "MAXIMUM_SESSIONS", 1)
    async with await RawInitiator.connect(portal) as one_too_many:
        response = await one_too_many.login(IQN, isid=bytes(6))
        assert response.status == LoginStatus.OUT_OF_RESOURCES
    async with await RawInitiator.connect(portal) as again:
        assert (await again.login(IQN)).status == 0, "it takes the place of its own session"
        assert len(target.sessions) == 1


async def test_two_logins_for_the_last_place_do_not_both_get_it(
    portal: str, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_module, "MAXIMUM_SESSIONS", 1)
    async with await RawInitiator.connect(portal) as one, await RawInitiator.connect(portal) as two:
        for host, isid in ((one, bytes(6)), (two, bytes(5) + b"\1")):
            response = await host.login(IQN, isid=isid, transit=False, next_stage=0)
            assert response.status == 0
        answers = []
        for host, isid in ((one, bytes(6)), (two, bytes(5) + b"\1")):
            host.send(host.login_request({}, isid=isid))
            answers.append((await host.receive()).status)
    assert answers == [LoginStatus.SUCCESS, LoginStatus.OUT_OF_RESOURCES]


async def test_connection_that_does_not_log_in_is_closed(portal: str, target: Target) -> None:
    async with await RawInitiator.connect(portal) as silent:
        await until(lambda: len(target.connections) == 1)
        (role,) = target.connections
        role._login_too_slow()
        assert await silent.is_closed()


# --- the end


@pytest.mark.parametrize(
    ("reason", "cid", "response", "ends"),
    [
        pytest.param(0, 0, LogoutResponseCode.CLOSED, True, id="session"),
        pytest.param(1, 0, LogoutResponseCode.CLOSED, True, id="connection"),
        pytest.param(1, 5, LogoutResponseCode.CID_NOT_FOUND, False, id="other-connection"),
        pytest.param(2, 0, LogoutResponseCode.RECOVERY_NOT_SUPPORTED, False, id="recovery"),
    ],
)
async def test_logout(
    host: RawInitiator, access: MemoryAccess, reason: int, cid: int, response: int, ends: bool
) -> None:
    host.send(LogoutRequest(reason, 4, cid, host.cmd_sn))
    answer: LogoutResponse = await host.receive()
    assert (answer.response, answer.initiator_task_tag) == (response, 4)
    if ends:
        assert await host.is_closed()
        assert access.lost == access.started
    else:
        assert await alive(host)


async def test_answer_after_the_connection_was_lost_is_dropped(
    portal: str, target: Target, access: MemoryAccess
) -> None:
    access.hold = True
    host = await logged_in(portal)
    host.command(read_10(0, 1), read=BLOCK, tag=1)
    assert await alive(host)
    (task,) = access.submitted
    await host.close()
    await until(lambda: not target.sessions)
    assert access.lost == access.started
    assert task.aborted
    task.complete(0, (bytes(BLOCK),))


async def test_stop_finishes_tasks_takes_up_no_more_and_says_so(
    access: MemoryAccess,
) -> None:
    async with serving(access) as (target, portal), await RawInitiator.connect(portal) as host:
        await host.login(IQN)
        access.hold = True
        host.command(read_10(0, 1), read=BLOCK, tag=1)
        assert await alive(host)
        stopping = asyncio.create_task(target.stop())
        await asyncio.sleep(0)
        with pytest.raises(OSError):  # noqa: PT011
            await RawInitiator.connect(portal)
        host.command(read_10(0, 1), read=BLOCK, tag=2)
        assert await alive(host)
        access.release()
        assert (await host.receive()).initiator_task_tag == 1
        asked: AsyncMessage = await host.receive()
        assert asked.event == AsyncEvent.LOGOUT_REQUESTED
        assert asked.parameter3 == portal_module.LEAVE_SECONDS
        host.send(LogoutRequest(0, 3, 0, host.cmd_sn))
        assert isinstance(await host.receive(), LogoutResponse)
        assert await host.is_closed()
        assert len(access.submitted) == 1
        await host.close()
        await stopping


async def test_stop_tells_who_does_not_log_out_that_the_connection_is_dropped(
    access: MemoryAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(portal_module, "LEAVE_SECONDS", 0)
    async with serving(access) as (target, portal), await RawInitiator.connect(portal) as host:
        await host.login(IQN)
        stopping = asyncio.create_task(target.stop())
        events = [(await host.receive()).event for _ in range(2)]
        assert events == [AsyncEvent.LOGOUT_REQUESTED, AsyncEvent.ALL_CONNECTIONS_DROPPED]
        assert await host.is_closed()
        await host.close()
        await stopping


async def test_host_that_is_none_any_more_is_asked_to_log_out(
    host: RawInitiator, portal: str, target: Target, access: MemoryAccess
) -> None:
    async with await RawInitiator.connect(portal) as other:
        assert (await other.login(IQN, name="iqn.other")).status == 0
        access.allowed = lambda name: name == "iqn.other"
        target.check_sessions()
        assert (await host.receive()).event == AsyncEvent.LOGOUT_REQUESTED
        assert await alive(other)


# --- discovery


async def test_discovery_lists_the_target_at_the_address_that_was_reached(
    access: MemoryAccess,
) -> None:
    target = Target(IQN, access)
    bound = await target.listen("0.0.0.0:0")
    portal = "127.0.0.1:" + bound.rsplit(":", 1)[1]
    async with await RawInitiator.connect(portal) as host:
        assert (await host.login(None)).status == 0
        assert "TargetPortalGroupTag" not in host.keys
        for value in ("All", IQN):
            host.text({"SendTargets": value})
            answer: TextResponse = await host.receive()
            assert parse_text(answer.data) == [
                ("TargetName", IQN), ("TargetAddress", f"{portal},1"),
            ]  # fmt: skip
        host.text({"SendTargets": "iqn.other"})
        assert (await host.receive()).data == b""
        host.send(LogoutRequest(0, 4, 0, host.cmd_sn))
        assert (await host.receive()).response == 0
        assert await host.is_closed()
    assert access.started == []
    await target.stop()


async def test_discovery_hides_a_target_from_a_host_that_may_not_use_it(
    portal: str, access: MemoryAccess
) -> None:
    access.allowed = lambda name: False
    async with await RawInitiator.connect(portal) as host:
        await host.login(None)
        for value in ("All", IQN):
            host.text({"SendTargets": value})
            assert (await host.receive()).data == b""


async def test_discovery_session_takes_no_scsi_command(portal: str) -> None:
    async with await RawInitiator.connect(portal) as host:
        await host.login(None)
        host.command(read_10(0, 1), read=BLOCK)
        answer: Reject = await host.receive()
        assert answer.reason == RejectReason.PROTOCOL_ERROR
        host.cmd_sn -= 1
        host.text({"SendTargets": "All"})
        assert (await host.receive()).final


async def test_discovery_session_answers_pings_and_logouts_like_any_other(portal: str) -> None:
    async with await RawInitiator.connect(portal) as host:
        await host.login(None, keys={"DataDigest": "CRC32C"})
        assert await alive(host)
        host.send(NopOut(immediate=False, initiator_task_tag=1, cmd_sn=host.take_cmd_sn()))
        assert (await host.receive()).exp_cmd_sn == 2
        for reason, cid, response in ((1, 9, 1), (2, 0, 2)):
            host.send(LogoutRequest(reason, 4, cid, host.cmd_sn))
            assert (await host.receive()).response == response
        host.text({"MaxConnections": "2"})
        assert (await host.receive()).reason == RejectReason.PROTOCOL_ERROR
        host.send(NopOut(immediate=False, initiator_task_tag=1, cmd_sn=77777))
        assert await alive(host)
        ping = NopOut(initiator_task_tag=5, data=b"data")
        host.send_bytes(ping.pack() + ping.data + b"bad!")
        assert (await host.receive()).reason == RejectReason.DATA_DIGEST_ERROR
        assert await alive(host)
        text = TextRequest(initiator_task_tag=5, cmd_sn=host.cmd_sn, data=b"SendTargets=All\0")
        host.send_bytes(text.pack() + bytes(text.data) + b"bad!")
        assert (await host.receive()).reason == RejectReason.DATA_DIGEST_ERROR
        assert await host.is_closed()


async def test_text_continued_by_both_sides_is_one_exchange(access: MemoryAccess) -> None:
    async with serving(access) as (target, portal):
        for _ in range(40):
            await target.listen("127.0.0.1:0")
        async with await RawInitiator.connect(portal) as host:
            await host.login(None, keys={"MaxRecvDataSegmentLength": "512"})
            host.send(
                TextRequest(False, True, 0, 7, RESERVED_TAG, host.take_cmd_sn(), data=b"SendTar")
            )
            answer: TextResponse = await host.receive()
            assert (answer.final, answer.continued, answer.data) == (False, False, b"")
            host.send(
                TextRequest(
                    True, False, 0, 7, answer.target_transfer_tag, host.take_cmd_sn(),
                    data=b"gets=All\0",
                )
            )  # fmt: skip
            text = b""
            while not (answer := await host.receive()).final:
                assert answer.continued
                assert answer.target_transfer_tag != RESERVED_TAG
                text += answer.data
                host.send(
                    TextRequest(True, False, 0, 7, answer.target_transfer_tag, host.take_cmd_sn())
                )
            pairs = parse_text(text + bytes(answer.data))
            assert len(text) > 512
            assert pairs == [
                ("TargetName", IQN), *(("TargetAddress", f"{p},1") for p in target.portals),
            ]  # fmt: skip


# --- additional headers


async def test_extended_cdb_arrives_whole(host: RawInitiator, access: MemoryAccess) -> None:
    tail = bytes(range(16))
    ahs = struct.pack(">HBx", 1 + len(tail), 1) + tail
    host.command(b"\0" * 16, ahs=ahs)
    assert (await host.receive()).status == 0
    assert access.submitted[0].cdb == bytes(16) + tail


async def test_bidirectional_read_length_arrives(host: RawInitiator, access: MemoryAccess) -> None:
    ahs = struct.pack(">HBxI", 5, 2, 4096)
    host.command(b"\x53", ahs=ahs, write=BLOCK, read=1)
    answer: ScsiResponse = await host.receive()
    (task,) = access.submitted
    assert (task.expected_out, task.expected_in) == (BLOCK, 4096)
    assert (answer.flags, answer.residual, answer.bidirectional_residual) == (
        UNDERFLOW | UNDERFLOW << 2, BLOCK, 4096,
    )  # fmt: skip
