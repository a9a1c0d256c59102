"""A system of devices in memory for tests of copies: back ends that carry out EXTENDED COPY, that
refuse it, lose the connection or restart, behind the same interface as the live system."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field, replace

from daiko.backend.lu_facts import LuFacts
from daiko.backend.memory import MemoryDevice
from daiko.command_control.decision import Place
from daiko.command_control.function_table import (
    CopyLimits,
    FunctionCell,
    FunctionTable,
    Known,
    ReachCell,
)
from daiko.command_control.naming import DeviceAddress
from daiko.command_control.plan import Function
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.devices import Tracking
from daiko.copy_manager.request import CopyRequest
from daiko.copy_manager.settings import CopySettings, Retries
from daiko.device.awaitable import read, write
from daiko.device.block import BlockDevice, Buffer
from daiko.device.error import Unreachable
from daiko.device.layer.change_tracking import ChangeTracking
from daiko.device.layer.fault import Fault
from daiko.device.layer.timing import CommandTimes
from daiko.mapping.extent import DeviceId, Extent, Piece
from daiko.mapping.mapping_table import MappingTable
from daiko.scsi.alias import parse_change_aliases
from daiko.scsi.block_data import Capacity
from daiko.scsi.copy_parameters import ExtendedCopy, parse_extended_copy
from daiko.scsi.cscd import AliasCscd, IdentificationCscd
from daiko.scsi.inquiry import StandardInquiry
from daiko.scsi.opcode import Opcode, Status
from daiko.scsi.segment import BlockToBlock
from daiko.scsi.sense import copy_target_not_reachable
from daiko.state.record import JobRecord

GENEROUS = CopyLimits(
    max_cscds=64,
    max_segments=64,
    max_list_bytes=8192,
    concurrent=4,
    no_list_id=True,
    cscd_types=(0xE4, 0xE6),
    aliases=True,
)
LIO = CopyLimits(
    max_cscds=2,
    max_segments=1,
    max_list_bytes=1024,
    max_segment_bytes=256 << 20,
    concurrent=1,
    no_list_id=True,
)

QUICK = CopySettings(
    transfer_bytes=8 * 512,
    buffer_bytes=64 * 512,
    transfers_in_flight=4,
    retries=Retries((0.0,) * 4),
    host_retries=Retries((0.0,) * 4),
    confirm_seconds=0.0,
    progress_seconds=0.001,
)
"""Small transfers, no waiting."""


@dataclass(frozen=True)
class Reply:
    """What a second command is answered with."""

    status: int
    data: bytes = b""
    sense: bytes = b""


GOOD = Reply(Status.GOOD)
Script = Callable[[ExtendedCopy], Reply | Exception | None]
"""What to answer to a copy command instead of carrying it out; None: carry it out."""


@dataclass
class FakeController:
    """A second controller as its commands are seen from outside."""

    rig: Rig
    name: str
    generation: int = 1
    script: Script = lambda _: None
    received: list[ExtendedCopy] = field(default_factory=list)
    """Every EXTENDED COPY that arrived."""
    aliases: dict[int, str] = field(default_factory=dict)
    """Alias value -> iSCSI name; emptied when the nexus is lost."""
    allowed: list[float | None] = field(default_factory=list)
    """The time limit of each, in seconds."""
    alias_commands: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    is_down: bool = False
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first copy has arrived."""
    gate: asyncio.Event | None = None
    """Copies wait for it."""

    async def execute(
        self,
        lun: int,
        cdb: bytes,
        data_out: Buffer = b"",
        read_length: int = 0,
        timeout: float | None = None,
    ) -> Reply:
        await asyncio.sleep(0)
        if self.is_down:
            raise Unreachable("no connection")
        if cdb[0] == Opcode.TEST_UNIT_READY:
            return GOOD
        if cdb[0] == Opcode.MAINTENANCE_OUT:
            self.alias_commands += 1
            for alias in parse_change_aliases(data_out):
                self.aliases[alias.value] = alias.name
            return GOOD
        assert cdb[0] == Opcode.EXTENDED_COPY
        parameters = parse_extended_copy(data_out)
        self.received.append(parameters)
        self.allowed.append(timeout)
        self.arrived.set()
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            if self.gate is not None:
                await self.gate.wait()
            return await self._copy(parameters)
        finally:
            self.in_flight -= 1

    async def _copy(self, parameters: ExtendedCopy) -> Reply:
        scripted = self.script(parameters)
        if isinstance(scripted, Exception):
            raise scripted
        if scripted is not None:
            return scripted
        for segment in parameters.segments:
            assert isinstance(segment, BlockToBlock)
            source = self._device(parameters, segment.source)
            destination = self._device(parameters, segment.destination)
            if source is None or destination is None:
                return Reply(Status.CHECK_CONDITION, sense=copy_target_not_reachable(0).fixed())
            data = await read(source, segment.source_lba, segment.blocks)
            await write(destination, segment.destination_lba, data)
        return GOOD

    def _device(self, parameters: ExtendedCopy, cscd_id: int) -> BlockDevice | None:
        cscd = parameters.cscd(cscd_id)
        if isinstance(cscd, IdentificationCscd):
            return self.rig.disks[self.rig.by_naa[cscd.designator.data]]
        assert isinstance(cscd, AliasCscd)
        iqn = self.aliases.get(cscd.alias)
        if iqn is None:
            return None
        backend = next(name for name, other in self.rig.iqns.items() if other == iqn)
        return self.rig.disks[DeviceId(backend, cscd.lun >> 48 & 0x3FFF)]

    def lose_nexus(self) -> None:
        """The connection was lost and is there again."""
        self.generation += 1
        self.aliases.clear()


class Rig:
    """Devices in memory behind the interface that the copy manager needs."""

    def __init__(self) -> None:
        self.disks: dict[DeviceId, Fault] = {}
        self.controllers: dict[str, FakeController] = {}
        self.iqns: dict[str, str] = {}
        self.by_naa: dict[bytes, DeviceId] = {}
        self.volumes: dict[str, Place] = {}
        self.tracked: dict[str, list[ChangeTracking]] = {}
        self.timed: dict[str, list[CommandTimes]] = {}
        """What wants to know how long commands of hosts take."""
        self.functions: dict[str, FunctionCell] = {}
        self.reach: dict[tuple[str, str], ReachCell] = {}
        self.addresses: dict[DeviceId, DeviceAddress] = {}

    # --- building -------------------------------------------------------------------------------

    def attach(
        self,
        name: str,
        blocks: int = 1024,
        *,
        luns: int = 1,
        limits: CopyLimits | None = GENEROUS,
        reaches: tuple[str, ...] = (),
        internal: bool = False,
        block_size: int = 512,
    ) -> None:
        """A back end with `luns` LUs of `blocks` blocks; `limits` None: it cannot copy."""
        iqn = "" if internal else f"iqn.2026-01.test:{name}"
        if not internal:
            self.controllers[name] = FakeController(self, name)
            self.iqns[name] = iqn
            self.functions[name] = FunctionCell(
                limits is not None, Known.PROBED, 1.0, "probed in a test", limits
            )
        for lun in range(luns):
            device = DeviceId(name, lun)
            self.disks[device] = Fault(MemoryDevice(blocks, block_size))
            naa = bytes((0x60,)) + name.encode().ljust(14, b"\0")[:14] + bytes((lun,))
            self.by_naa[naa] = device
            self.addresses[device] = DeviceAddress(
                device,
                block_size,
                (bytes((1, 3, 0, 16)) + naa,),
                iqn,
                () if internal else ("192.0.2.1:3260",),
                lun,
                limits is not None,
            )
        for other in reaches:
            self.reach[name, other] = ReachCell(True, Known.PROBED, 1.0, "probed in a test")

    def volume(self, name: str, *extents: tuple[str, int, int]) -> None:
        """A volume over (device, first block, blocks)."""
        built, lba = [], 0
        for device, first, blocks in extents:
            built.append(Extent(lba, blocks, DeviceId.parse(device), first))
            lba += blocks
        block_size = self.addresses[built[0].device].block_size
        self.volumes[name] = Place(name, block_size, lba, MappingTable(built))

    def fill(self, device: str, seed: int = 1) -> bytes:
        """Put a different pattern into every block of a device."""
        disk = self.disks[DeviceId.parse(device)]
        data = b"".join(
            (seed * 1_000_003 + block).to_bytes(8, "big") * (disk.block_size // 8)
            for block in range(disk.blocks)
        )
        disk.below.write(0, data, _expect_done)
        return data

    def content(self, device: str, first: int = 0, blocks: int | None = None) -> bytes:
        """What a device holds, read behind all faults."""
        disk = self.disks[DeviceId.parse(device)]
        got: list[Buffer] = []
        count = disk.blocks - first if blocks is None else blocks
        disk.below.read(first, count, lambda _, data: got.append(data))
        return bytes(got[0])

    def unlist(self, name: str) -> str:
        """Make a back end a machine that nobody attached; returns its iSCSI name."""
        self.addresses = {
            device: address for device, address in self.addresses.items() if device.backend != name
        }
        return self.iqns[name]

    def facts(self, name: str) -> Mapping[int, LuFacts]:
        """What the LUs of a back end say of themselves."""
        return {
            device.lun: LuFacts(
                device.lun,
                StandardInquiry(),
                Capacity(disk.blocks, disk.block_size),
            )
            for device, disk in self.disks.items()
            if device.backend == name
        }

    def limit(self, name: str, **changes: int) -> None:
        """Change the limits of a back end."""
        cell = self.functions[name]
        assert cell.limits is not None
        self.functions[name] = replace(cell, limits=replace(cell.limits, **changes))

    # --- what the copy manager sees -------------------------------------------------------------

    def block_device(self, device: DeviceId) -> BlockDevice:
        return self.disks[device]

    def destination(self, piece: Piece) -> BlockDevice:
        return self.block_device(piece.device)

    def writing(self, pieces: Sequence[Piece]) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def second_controller(self, name: str) -> FakeController:
        return self.controllers[name]

    def function_table(self) -> FunctionTable:
        return FunctionTable.of(
            [
                (name, function, cell)
                for name, cell in self.functions.items()
                for function in Function
            ],
            [(*where, cell) for where, cell in self.reach.items()],
        )

    def directory(self) -> Mapping[DeviceId, DeviceAddress]:
        return self.addresses

    def place(self, name: str) -> Place:
        if name in self.volumes:
            return self.volumes[name]
        device = DeviceId.parse(name if "/" in name else f"{name}/0")
        if device not in self.disks:
            raise LookupError(f"there is no volume or device {name}")
        return Place.of_device(self.addresses[device], self.disks[device].blocks)

    def track(self, volume: str) -> ChangeTracking:
        if volume not in self.volumes:
            raise LookupError(f"{volume} is no volume")
        place = self.volumes[volume]
        tracking = ChangeTracking(MemoryDevice(place.blocks, place.block_size))
        self.tracked.setdefault(volume, []).append(tracking)
        return tracking

    def untrack(self, volume: str, tracking: Tracking) -> None:
        assert isinstance(tracking, ChangeTracking)
        self.tracked[volume].remove(tracking)

    def time_commands(self, place: str, times: CommandTimes) -> Callable[[], None]:
        if place not in self.volumes:
            raise LookupError(f"{place} is no volume")
        self.timed.setdefault(place, []).append(times)
        return lambda: self.timed[place].remove(times)


def _expect_done(error: Exception | None) -> None:
    assert error is None


async def run_job(manager: CopyManager, request: CopyRequest) -> JobRecord:
    async with asyncio.timeout(20):
        return await manager.wait((await manager.submit(request)).id)


def executors(record: JobRecord) -> list[tuple[str, int]]:
    return [(step.executor, step.blocks) for step in record.steps]


__all__ = [
    "GENEROUS",
    "GOOD",
    "LIO",
    "QUICK",
    "FakeController",
    "Reply",
    "Rig",
    "executors",
    "run_job",
]
