"""Invariant: any command with any data gets one answer, readable, and the unit goes on serving."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from daiko.backend.memory import MemoryDevice
from daiko.command_control.command_table import ROWS
from daiko.device.block import Buffer
from daiko.scsi import persistent_reservation as reserving
from daiko.scsi.block_data import LbaRange, pack_unmap
from daiko.scsi.layout import Layout
from daiko.scsi.mode_page import CachingPage, ControlPage, pack_mode_parameters
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.persistent_reservation import MoveList, ReserveOutList
from daiko.scsi.sbc import CompareAndWrite, Read16, Unmap, Write10, Write16, WriteSame16
from daiko.scsi.sense import parse_sense
from daiko.scsi.spc import ModeSelect6, TestUnitReady
from daiko.scsi.transport_id import TransportId
from daiko.target.access import Access
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.target.nexus import Nexus
from daiko.target.task import Task, TaskAttribute

structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))

# A case: bits 0-2 of the first byte = task attribute, bits 3-4 = LUN (3: none of ours), 16 bytes
# of CDB, 2 bytes: room for data-in; the rest is data-out.
HEAD = 19
BLOCKS = 64
STATUSES = {int(status) for status in Status}


class FuzzTask(Task):
    """A command whose data has all come already."""

    __slots__ = ("answers", "data", "length", "sense", "status")

    def __init__(
        self, nexus: Nexus, lun: int, cdb: bytes, attribute: int, room: int, data: bytes
    ) -> None:
        self.nexus = nexus
        self.lun = lun << 48
        self.tag = 1
        self.cdb = cdb
        self.attribute = TaskAttribute(attribute)
        self.expected_out = len(data)
        self.expected_in = room
        self.aborted = False
        self.fetching = False
        self.data = data
        self.answers = 0
        self.status = -1
        self.sense = b""
        self.length = 0

    def fetch(self, length: int, then: Callable[[Buffer], None]) -> None:
        then(memoryview(self.data)[:length])

    def complete(self, status: int, data: Sequence[Buffer] = (), sense: bytes = b"") -> None:
        self.answers += 1
        self.status = status
        self.sense = sense
        self.length = sum(map(len, data))


def _serve() -> Nexus:
    units = {
        lun: LogicalUnit(
            Identity(f"unit-{lun}", bytes((0x60, *bytes(14), lun))), MemoryDevice(BLOCKS, size)
        )
        for lun, size in ((0, 512), (1, 4096))
    }
    units[2] = LogicalUnit(
        Identity("unit-2", bytes((0x60, *bytes(14), 2))), MemoryDevice(BLOCKS), read_only=True
    )
    ACCESS.publish({"*": units})
    nexus = Nexus("iqn.2026-11.net.daiko:fuzz", bytes(6), "iqn.2026-11.net.daiko:target")
    ACCESS.nexus_started(nexus)
    return nexus


LOOP = asyncio.new_event_loop()
ACCESS = Access()
NEXUS = _serve()
READY = TestUnitReady.pack().ljust(16, b"\0")
START = bytes((Opcode.START_STOP_UNIT, 0, 0, 0, 1)).ljust(16, b"\0")


def _entry(cdb: bytes, data: bytes = b"", lun: int = 0) -> bytes:
    return bytes((1 | lun << 3,)) + cdb.ljust(16, b"\0") + b"\xff\xff" + data


def _reserve_out(layout: Layout, data: bytes, **fields: int) -> bytes:
    return _entry(layout.pack(parameter_list_length=len(data), **fields), data)


def _reservations() -> list[bytes]:
    """What changes them; the only host may lose its place, and the unit still answers it."""
    port = TransportId("iqn.2026-11.net.daiko:other", bytes(6))
    own = ReserveOutList(1, 1).pack()
    ports = ReserveOutList(0, 1, spec_i_pt=True, transport_ids=(port,)).pack()
    return [
        _reserve_out(reserving.RegisterAndIgnoreExistingKey, own),
        _reserve_out(reserving.Register, ports),
        _reserve_out(reserving.Reserve, own, type=5),
        _reserve_out(reserving.Release, own, type=5),
        _reserve_out(reserving.Preempt, own, type=7),
        _reserve_out(reserving.PreemptAndAbort, own, type=1),
        _reserve_out(reserving.RegisterAndMove, MoveList(1, 2, port, 1).pack()),
        _reserve_out(reserving.Clear, own),
        _entry(reserving.ReadFullStatus.pack(allocation_length=512)),
    ]


def corpus() -> list[bytes]:
    block = bytes(range(256)) * 2
    pages = pack_mode_parameters([CachingPage.pack(wce=1), ControlPage.pack()], ten=False)
    ranges = pack_unmap([LbaRange(0, 8), LbaRange(16, 8)])
    return [
        *[_entry(row.layout.pack()) for row in ROWS],
        _entry(Read16.pack(lba=1, transfer_length=4)),
        _entry(Write16.pack(lba=1, transfer_length=1), block),
        _entry(Write10.pack(lba=1, transfer_length=1), block * 8, 1),
        _entry(Write10.pack(lba=1, transfer_length=1), block, 2),
        _entry(WriteSame16.pack(lba=1, transfer_length=9), block),
        _entry(CompareAndWrite.pack(lba=1, transfer_length=1), block + bytes(512)),
        _entry(Unmap.pack(parameter_list_length=len(ranges)), ranges),
        _entry(ModeSelect6.pack(pf=1, parameter_list_length=len(pages)), pages),
        *_reservations(),
        _entry(b"\x12\x01\x83\x00\xff"),
        _entry(b"\x12\x01\xb0\x00\xff"),
        _entry(b"\x1a\x00\x3f\x00\xff"),
        _entry(b"\xa3\x0c\x01\x88\x00\x00\x00\x00\x10\x00"),
    ]


async def _submit(
    lun: int, cdb: bytes, attribute: int = 1, room: int = 0, data: bytes = b""
) -> FuzzTask:
    task = FuzzTask(NEXUS, lun, cdb, attribute, room, data)
    ACCESS.submit(task)
    await _until(lambda: task.answers)
    assert task.answers == 1, f"{task.answers} answers"
    assert task.status in STATUSES
    assert (task.status == Status.CHECK_CONDITION) == bool(task.sense)
    if task.sense:
        assert parse_sense(task.sense).name
    return task


async def _until(is_so: Callable[[], object]) -> None:
    """FORMAT UNIT and SANITIZE go on piece by piece; nothing else takes a turn of the loop."""
    for _ in range(10_000):
        if is_so():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not end")


def check(data: bytes) -> bool:
    return LOOP.run_until_complete(_check(data))


def close() -> None:
    LOOP.close()


async def _check(data: bytes) -> bool:
    data = data.ljust(HEAD, b"\0")
    attribute = (data[0] & 7) % len(TaskAttribute)
    lun = data[0] >> 3 & 3
    room = int.from_bytes(data[17:19], "big")
    task = await _submit(lun, data[1:17], attribute, room, data[HEAD:])
    if lun < 3:
        # Whatever it was, the unit is there for the next command (started again if need be).
        unit = NEXUS.view[lun]
        await _until(lambda: not unit.medium.bars)
        if (await _submit(lun, READY)).status != Status.GOOD:
            await _submit(lun, START)
            assert (await _submit(lun, READY)).status == Status.GOOD
        assert not NEXUS.units[lun << 48].tasks
    return task.status == Status.GOOD
