"""Reservations of the LUs that a host's copy reads and writes: before it, and while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from copy_rig import FakeController
from copy_target import ALICE, CopyTarget, backup, cscd, parameters, sense_of
from daiko.scsi import persistent_reservation as layouts
from daiko.scsi.opcode import Status
from daiko.scsi.persistent_reservation import ReservationType, ReserveOutList
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import ForwardedSense
from daiko.state.record import JobState
from daiko.state.sqlite import SqliteStore
from target.fake import FakeTask, Host

ALPHA, VAULT = 0, 1
WE, EA = ReservationType.WRITE_EXCLUSIVE, ReservationType.EXCLUSIVE_ACCESS
CONFLICT = ForwardedSense(Status.RESERVATION_CONFLICT, b"")
THIRD_PARTY_DEVICE_FAILURE = (0xA, 0x0D, 0x01)


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[CopyTarget]:
    store = SqliteStore.open(tmp_path / "store")
    target = await CopyTarget.start(store)
    yield target
    await target.stop()
    await store.close()


@pytest.fixture
def other(target: CopyTarget) -> Host:
    """Another port of the same initiator: another I_T nexus."""
    return Host(target.access, ALICE, isid=9)


def out(host: Host, lun: int, action: str, key: int, new_key: int = 0, type: int = 0) -> FakeTask:
    data = ReserveOutList(key, new_key).pack()
    cdb = getattr(layouts, action).pack(type=type, parameter_list_length=len(data))
    return host.start(cdb, data, lun=lun)


def take(host: Host, lun: int, type: ReservationType) -> None:
    assert out(host, lun, "Register", 0, 9).status == Status.GOOD
    assert out(host, lun, "Reserve", 9, type=type).status == Status.GOOD


def long_copy(target: CopyTarget) -> tuple[FakeTask, FakeController]:
    """40 segments from alpha to vault, one at a time, the first of which waits at sd1."""
    sd1 = target.rig.controllers["sd1"]
    sd1.gate = asyncio.Event()
    target.rig.limit("sd1", max_segments=1, concurrent=1)
    segments = [BlockToBlock(0, 1, 10, 10 * n, 10 * n) for n in range(40)]
    return target.begin(parameters([cscd("alpha"), cscd("vault")], segments)), sd1


@pytest.mark.parametrize(
    ("lun", "type", "side"),
    [(VAULT, WE, "destination"), (VAULT, EA, "destination"), (ALPHA, EA, "source")],
)
async def test_copy_from_or_to_what_is_reserved_writes_nothing(
    target: CopyTarget, other: Host, lun: int, type: ReservationType, side: str
) -> None:
    take(other, lun, type)
    before = target.contents()
    receiver = VAULT if lun == ALPHA else ALPHA
    task = await target.send(backup(), lun=receiver)
    assert task.condition == THIRD_PARTY_DEVICE_FAILURE
    sense = sense_of(task)
    assert (sense.segment, sense.information) == (0, None)
    assert getattr(sense, side) == CONFLICT
    assert target.contents() == before
    assert target.manager.jobs() == ()


async def test_copy_out_of_what_others_may_read_is_made(target: CopyTarget, other: Host) -> None:
    take(other, ALPHA, WE)
    assert (await target.send(backup(), lun=VAULT)).status == Status.GOOD


async def test_second_segment_is_refused_by_its_number(target: CopyTarget, other: Host) -> None:
    take(other, VAULT, WE)
    segments = [BlockToBlock(0, 0, 8, 0, 100), BlockToBlock(0, 1, 8, 0, 0)]
    before = target.contents()
    task = await target.send(parameters([cscd("alpha"), cscd("vault")], segments))
    assert task.condition == THIRD_PARTY_DEVICE_FAILURE
    assert sense_of(task).segment == 1
    assert target.contents() == before


async def test_copy_stops_when_its_destination_is_reserved_meanwhile(
    target: CopyTarget, other: Host
) -> None:
    task, sd1 = long_copy(target)
    await sd1.arrived.wait()
    take(other, VAULT, WE)
    out(other, VAULT, "Release", 9, type=WE)  # too late: it has been stopped
    sd1.gate.set()
    await target.ended(task)
    assert task.condition == THIRD_PARTY_DEVICE_FAILURE
    sense = sense_of(task)
    assert sense.destination == CONFLICT
    assert sense.segment is not None
    assert 0 < sense.segment < 40
    assert sense.segment == len(sd1.received)
    (record,) = target.manager.jobs()
    assert record.state is JobState.CANCELLED


async def test_copy_goes_on_when_what_it_reads_is_reserved_for_writing(
    target: CopyTarget, other: Host
) -> None:
    task, sd1 = long_copy(target)
    await sd1.arrived.wait()
    take(other, ALPHA, WE)
    sd1.gate.set()
    assert (await target.ended(task)).status == Status.GOOD


async def test_preempt_and_abort_at_the_destination_ends_the_copy_first(
    target: CopyTarget, other: Host
) -> None:
    assert out(target.alice, VAULT, "Register", 0, 1).status == Status.GOOD
    assert out(other, VAULT, "Register", 0, 9).status == Status.GOOD
    task, sd1 = long_copy(target)
    await sd1.arrived.wait()
    fence = out(other, VAULT, "PreemptAndAbort", 9, 1, type=WE)
    assert fence.answers == 0
    sd1.gate.set()
    await target.ended(fence)
    assert (fence.status, task.status) == (Status.GOOD, Status.TASK_ABORTED)
    assert len(sd1.received) < 40
    assert target.manager.jobs()[0].state is JobState.CANCELLED


async def test_preempt_of_the_registration_alone_lets_the_copy_go_on(
    target: CopyTarget, other: Host
) -> None:
    out(target.alice, VAULT, "Register", 0, 1)
    out(other, VAULT, "Register", 0, 9)
    task, sd1 = long_copy(target)
    await sd1.arrived.wait()
    assert out(other, VAULT, "Preempt", 9, 1, type=WE).status == Status.GOOD
    sd1.gate.set()
    assert (await target.ended(task)).status == Status.GOOD
