"""Sessions of one target whose memory for data is short: who waits, what their windows do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio

from daiko.iscsi.bhs import RESERVED_TAG
from daiko.iscsi.pdu import (
    DataIn,
    NopIn,
    ReadyToTransfer,
    ScsiResponse,
    TaskManagementRequest,
)
from daiko.scsi.opcode import Status
from daiko.target import data_budget, session
from daiko.target.data_budget import LEAST, DataBudget
from daiko.target.portal import Target
from target.memory_access import BLOCK, IQN, MemoryAccess, serving
from target.raw_initiator import RawInitiator, read_10, write_10

LARGE = 512
"""Blocks: as much as one session may have without asking."""


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.fixture
def access() -> MemoryAccess:
    return MemoryAccess()


@pytest_asyncio.fixture
async def served(access: MemoryAccess) -> AsyncIterator[tuple[Target, str]]:
    async with serving(access) as (target, portal):
        # With three sessions there is less left than any of them may add to its first share.
        target.budget = DataBudget(4 * LEAST)
        yield target, portal


async def logged_in(portal: str, number: int, **keys: str) -> RawInitiator:
    made = await RawInitiator.connect(portal)
    assert (await made.login(IQN, isid=bytes(5) + bytes([number]), keys=keys)).status == 0
    return made


async def answers(host: RawInitiator, count: int) -> list[Any]:
    """The next answers to commands; pings are passed over."""
    found: list[Any] = []
    while len(found) < count:
        pdu = await host.receive()
        if isinstance(pdu, DataIn | ScsiResponse):
            found.append(pdu)
    return found


@asynccontextmanager
async def crowded(portal: str, **keys: str) -> AsyncIterator[tuple[RawInitiator, RawInitiator]]:
    """A host, one of two others that are there, and too little memory for a larger share."""
    async with (
        await logged_in(portal, 1) as other,
        await logged_in(portal, 2),
        await logged_in(portal, 3, **keys) as host,
    ):
        yield host, other


async def test_lone_host_gets_no_more_than_half_and_everything_in_the_end(
    served: tuple[Target, str], access: MemoryAccess
) -> None:
    target, portal = served
    access.hold = True
    async with await logged_in(portal, 1) as host:
        for tag in range(64):
            host.command(read_10(0, 64), read=64 * BLOCK, tag=tag)
        await until(lambda: target.budget.granted == target.budget.total // 2)
        assert sum(task.expected_in for task in access.submitted) <= target.budget.granted
        access.release()
        assert len({pdu.initiator_task_tag for pdu in await answers(host, 64)}) == 64
    await until(lambda: target.budget.granted == 0)


async def test_window_of_who_waits_shrinks_and_opens_again(
    served: tuple[Target, str], access: MemoryAccess
) -> None:
    target, portal = served
    async with crowded(portal) as (host, other):
        # The large one waits for memory of others; small ones pass, by the host's own share.
        host.command(read_10(0, 2 * LARGE), read=2 * LARGE * BLOCK, tag=100, lun=1 << 48)
        for tag in range(40):
            host.command(read_10(0, 1), read=BLOCK, tag=tag)
        small = await answers(host, 40)
        assert {pdu.initiator_task_tag for pdu in small} == set(range(40))
        assert {pdu.max_cmd_sn for pdu in small} == {session.WINDOW}, "no place is given back"
        assert target.budget.is_short
        await other.close()
        pdus = []
        while not pdus or pdus[-1].max_cmd_sn != session.WINDOW + 41:
            pdus.append(await host.receive())
        # The window is whole again, and is said to be by a message that asks for no answer.
        (ping,) = [pdu for pdu in pdus if isinstance(pdu, NopIn)]
        assert (ping.initiator_task_tag, ping.target_transfer_tag) == (RESERVED_TAG, RESERVED_TAG)
        assert not target.budget.is_short


async def test_window_never_closes(served: tuple[Target, str], access: MemoryAccess) -> None:
    _, portal = served
    async with crowded(portal) as (host, other):
        host.command(read_10(0, 2 * LARGE), read=2 * LARGE * BLOCK, tag=1000, lun=1 << 48)
        for tag in range(2 * session.WINDOW):
            host.command(read_10(0, 1), read=BLOCK, tag=tag)
            (answer,) = await answers(host, 1)
            assert answer.initiator_task_tag == tag
            assert answer.max_cmd_sn - answer.exp_cmd_sn >= session.NARROW - 1
        await other.close()
        assert (await answers(host, 1))[0].initiator_task_tag == 1000


async def test_waiting_command_can_be_aborted_and_ends_the_wait(
    served: tuple[Target, str], access: MemoryAccess
) -> None:
    target, portal = served
    async with crowded(portal) as (host, _):
        host.command(read_10(0, 2 * LARGE), read=2 * LARGE * BLOCK, tag=5)
        await until(lambda: target.budget.is_short)
        host.send(TaskManagementRequest(1, 0, 6, 5, cmd_sn=host.cmd_sn))
        assert (await host.receive()).response == 0
        assert not target.budget.is_short


async def test_data_that_waits_is_bounded_by_task_set_full(
    served: tuple[Target, str], access: MemoryAccess
) -> None:
    _, portal = served
    async with crowded(portal, FirstBurstLength="262144") as (host, _):
        data = bytes(LARGE * BLOCK // 2)
        host.command(write_10(0, 2 * LARGE), write=2 * LARGE * BLOCK, tag=99)
        for tag in range(8):
            host.command(write_10(0, LARGE // 2), write=len(data), data=data, tag=tag)
        full = await answers(host, 6)
        assert [pdu.status for pdu in full] == [Status.TASK_SET_FULL] * 6
        assert {pdu.initiator_task_tag for pdu in full} == {2, 3, 4, 5, 6, 7}


async def test_host_that_holds_memory_and_sends_nothing_is_ended_for_others(
    served: tuple[Target, str], access: MemoryAccess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_budget, "STALL_SECONDS", 0.05)
    target, portal = served
    async with await logged_in(portal, 1) as hog, await logged_in(portal, 2) as host:
        hog.command(write_10(0, 2 * LARGE), write=2 * LARGE * BLOCK, tag=1)
        assert isinstance(await hog.receive(), ReadyToTransfer)
        assert target.budget.granted == 3 * LEAST
        host.command(read_10(0, 2 * LARGE), read=2 * LARGE * BLOCK, tag=2)
        assert (await answers(host, 1))[0].initiator_task_tag == 2
        assert await hog.is_closed()
        assert len(target.sessions) == 1


async def test_drops_are_no_progress(served: tuple[Target, str], access: MemoryAccess) -> None:
    target, portal = served
    async with await logged_in(portal, 1) as host:
        (own,) = target.sessions
        assert own.progress() is None, "nobody waits for the host"
        host.command(write_10(0, LARGE), write=LARGE * BLOCK, tag=1)
        asked = await host.receive()
        before = own.progress()
        assert before is not None
        sent = 0
        for number, size in enumerate([512] * 8 + [65536]):
            host.data_out(
                1, asked.target_transfer_tag, sent, bytes(size), final=False, data_sn=number
            )
            sent += size
            (task,) = own.tasks.values()
            await until(lambda: task.received == sent)  # noqa: B023
            assert (own.progress() != before) is (sent >= 65536)


async def test_what_a_lost_session_left_at_the_device_stays_counted(
    served: tuple[Target, str], access: MemoryAccess
) -> None:
    target, portal = served
    access.hold = True
    async with await logged_in(portal, 1) as host:
        host.command(read_10(0, 64), read=64 * BLOCK, tag=1)
        host.command(read_10(0, 64), read=64 * BLOCK, tag=2)
        await until(lambda: len(access.submitted) == 2)
        held = target.budget.granted
    await until(lambda: not target.sessions)
    assert target.budget.granted == held >= LEAST
    one, two = access.submitted
    one.complete(0, (bytes(64 * BLOCK),))
    assert target.budget.granted == held
    two.complete(0, (bytes(64 * BLOCK),))
    assert target.budget.granted == 0
