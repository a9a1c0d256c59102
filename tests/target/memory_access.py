"""A trivial logical unit behind the port: LUN 0 in memory. Tests of the port need no more.

It stands where `target/access.py` stands in the product, so that the port is tested alone: what
it asks for, what it answers, and when. `hold` keeps the completions of commands back.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from daiko.device.block import Buffer
from daiko.scsi import sense
from daiko.scsi.opcode import Opcode
from daiko.target.nexus import Nexus
from daiko.target.portal import Target
from daiko.target.task import Task

IQN = "iqn.2026-11.example:mem"

BLOCK = 512
_READ_WRITE = {
    Opcode.READ_10: struct.Struct(">xxIxH"),
    Opcode.WRITE_10: struct.Struct(">xxIxH"),
    Opcode.READ_16: struct.Struct(">xxQI"),
    Opcode.WRITE_16: struct.Struct(">xxQI"),
}
_PAGES = {
    0x00: bytes.fromhex("0000000400 80b0b2".replace(" ", "")),
    0x80: b"\0\x80\0\x04TEST",
    0xB0: b"\0\xb0\0\x3c" + bytes(60),
    0xB2: b"\0\xb2\0\x04" + bytes(4),
}


class MemoryAccess:
    def __init__(self, blocks: int = 16384) -> None:
        self.blocks = blocks
        self.store = bytearray(blocks * BLOCK)
        self.view = memoryview(self.store)
        self.allowed: Callable[[str], bool] = lambda name: True
        self.tags: dict[str, frozenset[int]] = {}
        self.started: list[Nexus] = []
        self.lost: list[Nexus] = []
        self.submitted: list[Task] = []
        self.managed: list[tuple[int, int, int]] = []
        self.live: set[Task] = set()
        self.hold = False
        self.held: list[Callable[[], None]] = []
        self.management_waits = False
        """Task management is answered at `release`, as where tasks are at a slow device."""
        self.response = 0
        """To task management."""
        inquiry = bytearray(36)
        inquiry[2:5] = b"\x06\x12\x1f"
        inquiry[7] = 2
        inquiry[8:36] = b"DAIKO   MEMORY          0001"
        self.inquiry = bytes(inquiry)

    # --- what the port asks for

    def portal_group_tags(self, initiator_name: str) -> frozenset[int]:
        return self.tags.get(initiator_name, frozenset())

    def authorize(self, initiator_name: str, target_name: str) -> bool:
        return self.allowed(initiator_name)

    def nexus_started(self, nexus: Nexus) -> None:
        self.started.append(nexus)

    def nexus_lost(self, nexus: Nexus) -> None:
        self.lost.append(nexus)
        for task in [each for each in self.live if each.nexus is nexus and each.fetching]:
            self._complete(task, 0)  # No device holds it.
        self.held.clear()
        self.live.clear()

    def task_management(
        self,
        nexus: Nexus,
        function: int,
        lun: int,
        referenced_tag: int,
        done: Callable[[int], None],
    ) -> None:
        self.managed.append((function, lun, referenced_tag))
        whole = function != 1
        of_unit = function < 6  # TARGET WARM RESET and the like are of all units
        ended = [
            t
            for t in self.live
            if (t.lun == lun or not of_unit) and (whole or t.tag == referenced_tag)
        ]
        for task in ended:
            task.aborted = True
            self._complete(task, 0)
        response = self.response if ended or whole else 1
        if self.management_waits:
            self.held.append(lambda: done(response))
        else:
            done(response)

    def submit(self, task: Task) -> None:
        self.submitted.append(task)
        self.live.add(task)
        if self.hold:
            self.held.append(lambda: self.execute(task))
        else:
            self.execute(task)

    def release(self) -> None:
        """Carry out what was held, in order."""
        self.hold = self.management_waits = False
        held, self.held = self.held, []
        for go_on in held:
            go_on()

    # --- the unit

    def _complete(
        self, task: Task, status: int, data: tuple[Buffer, ...] = (), sense: bytes = b""
    ) -> None:
        self.live.discard(task)
        task.complete(status, data, sense)

    def execute(self, task: Task) -> None:
        if task not in self.live:
            return
        cdb = task.cdb
        opcode = cdb[0]
        if opcode in (Opcode.READ_10, Opcode.READ_16):
            lba, blocks = _READ_WRITE[Opcode(opcode)].unpack_from(cdb)
            if lba + blocks > self.blocks:
                self._complete(task, 2, (), sense.lba_out_of_range().fixed())
                return
            data = bytes(self.view[lba * BLOCK : (lba + blocks) * BLOCK])
            self._complete(task, 0, (data,))
        elif opcode in (Opcode.WRITE_10, Opcode.WRITE_16):
            lba, blocks = _READ_WRITE[Opcode(opcode)].unpack_from(cdb)
            if lba + blocks > self.blocks:
                self._complete(task, 2, (), sense.lba_out_of_range().fixed())
                return

            def write(data: Buffer) -> None:
                self.view[lba * BLOCK : lba * BLOCK + len(data)] = data
                self._complete(task, 0)

            task.fetch(blocks * BLOCK, write)
        elif opcode in (Opcode.TEST_UNIT_READY, Opcode.SYNCHRONIZE_CACHE_10):
            self._complete(task, 0)
        else:
            self._answer(task, opcode, cdb)

    def _answer(self, task: Task, opcode: int, cdb: bytes) -> None:
        if opcode == Opcode.INQUIRY and not cdb[1]:
            room = int.from_bytes(cdb[3:5], "big")
            self._complete(task, 0, (self.inquiry[:room],))
        elif opcode == Opcode.READ_CAPACITY_10:
            self._complete(task, 0, (struct.pack(">II", self.blocks - 1, BLOCK),))
        elif opcode == 0x9E:
            data = struct.pack(">QI20x", self.blocks - 1, BLOCK)
            self._complete(task, 0, (data[: int.from_bytes(cdb[10:14], "big")],))
        elif opcode == Opcode.REPORT_LUNS:
            self._complete(task, 0, (struct.pack(">I4xQ", 8, 0),))
        elif opcode == Opcode.MODE_SENSE_6:
            self._complete(task, 0, (bytes([3, 0, 0, 0]),))
        elif opcode == Opcode.INQUIRY and cdb[2] in _PAGES:
            self._complete(task, 0, (_PAGES[cdb[2]][: int.from_bytes(cdb[3:5], "big")],))
        elif opcode == Opcode.INQUIRY:
            self._complete(task, 2, (), sense.invalid_field_in_cdb(2).fixed())
        else:
            self._complete(task, 2, (), sense.invalid_opcode().fixed())


@asynccontextmanager
async def serving(
    access: MemoryAccess, *, portal: str = "127.0.0.1:0", **options: Any
) -> AsyncIterator[tuple[Target, str]]:
    """A target on a free port of loopback: (target, HOST:PORT)."""
    target = Target(IQN, access, **options)
    portal = await target.listen(portal)
    try:
        yield target, portal
    finally:
        await target.stop(0.5)
