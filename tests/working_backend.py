"""A second controller in this process whose medium works as slowly as a test wants: a real target
over a real logical unit, whose device holds its completions back. It notes what commands it got.

    async with BackEnd() as backend:
        controller = await backend.connect()
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from daiko.backend.memory import MemoryDevice
from daiko.backend.second_controller import SecondController
from daiko.device.layer.delay import Delay
from daiko.device.layer.fault import Fault
from daiko.initiator.settings import InitiatorSettings
from daiko.scsi.opcode import Opcode, Status
from daiko.target.access import Access
from daiko.target.logical_unit import Identity, LogicalUnit
from daiko.target.portal import Target
from daiko.target.task import Task

IQN = "iqn.2026-11.com.example:second"
INITIATOR = "iqn.2026-11.com.example:first"
BLOCKS = 8192
SIZE = 512
QUICK = InitiatorSettings(
    tick=0.05, grace=60.0, reconnect_first=0.02, reconnect_longest=0.1, logout_timeout=0.5,
    busy_first=0.001, busy_longest=0.01, busy_patience=0.05,
)  # fmt: skip


class Recorder(Access):
    """Notes the CDBs that come, and refuses some operation codes as its unit would if it had them
    not."""

    def __init__(self) -> None:
        super().__init__()
        self.cdbs: list[bytes] = []
        self.sense_for: dict[int, bytes] = {}
        """Operation code -> sense data with which it is refused; none: it is BUSY."""

    def submit(self, task: Task) -> None:
        cdb = bytes(task.cdb)
        self.cdbs.append(cdb)
        if cdb[0] in self.sense_for:
            sense = self.sense_for[cdb[0]]
            task.complete(Status.CHECK_CONDITION if sense else Status.BUSY, (), sense)
            return
        super().submit(task)

    def count(self, opcode: Opcode) -> int:
        """How many of these came."""
        return sum(cdb[0] == opcode for cdb in self.cdbs)


class BackEnd:
    """One target with one unit for each number in `naas`."""

    def __init__(self, *naas: int, blocks: int = BLOCKS) -> None:
        self.access = Recorder()
        self.memory = [MemoryDevice(blocks) for _ in naas or (1,)]
        self.faults = [Fault(memory) for memory in self.memory]
        self.devices = [Delay(fault, 0.0) for fault in self.faults]
        self.units = [
            LogicalUnit(Identity(f"lu{naa}", naa_of(naa)), device)
            for naa, device in zip(naas or (1,), self.devices, strict=True)
        ]
        self.access.publish({"*": dict(enumerate(self.units))})
        self.portal = "127.0.0.1:0"
        self._target: Target | None = None
        self._controllers: list[SecondController] = []

    async def start(self) -> None:
        """Listen; always at the same portal."""
        self._target = Target(IQN, self.access)
        self.portal = await self._target.listen(self.portal)

    async def stop(self) -> None:
        """End all sessions, and listen no more. What the units do goes on."""
        target, self._target = self._target, None
        if target is not None:
            await target.stop(0.1)

    async def connect(self, **options: object) -> SecondController:
        """A first controller's view of it, open."""
        controller = self.controller(**options)
        await controller.open()
        return controller

    def controller(self, **options: object) -> SecondController:
        """The same, not open yet."""
        made = SecondController("sd1", IQN, [self.portal], INITIATOR, settings=QUICK)
        for name, value in options.items():
            setattr(made, name, value)
        self._controllers.append(made)
        return made

    def hold(self, lun: int = 0) -> None:
        """From now on the medium does not go on, until `let_go`."""
        self.devices[lun].seconds = None

    def let_go(self, lun: int = 0) -> None:
        """The medium works at once."""
        self.devices[lun].seconds = 0.0
        self.devices[lun].release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for controller in self._controllers:
            await controller.close()
        await self.stop()


def naa_of(number: int) -> bytes:
    """Of a unit."""
    return bytes((0x60, *bytes(14), number))


async def until(is_so: Callable[[], bool]) -> None:
    """Return when it is so. What is waited for happens in other processes, or in this event loop
    without an event of its own."""
    async with asyncio.timeout(60):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.001)
