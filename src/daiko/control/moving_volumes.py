"""The live system as migrations see it: the volume that moves, its new place, and the rounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from functools import partial
from typing import ClassVar, Final

from daiko.command_control.plan import Function
from daiko.control.paired_volumes import LiveVolume, PairCopies
from daiko.control.publication import DeviceSource, Publication, PublishedVolume, with_all_commands
from daiko.copy_manager.pace import FULL, Pace
from daiko.copy_manager.request import MIGRATION, CopyRange, CopyRequest
from daiko.device.absorbing import Absorbing
from daiko.device.block import BlockDevice
from daiko.device.layer.read_gate import ReadGate
from daiko.mapping.extent import DeviceId, Extent
from daiko.mapping.move import Move
from daiko.mapping.range_set import RangeSet
from daiko.pair.write_path import PairedDevice
from daiko.state.migration_record import MigrationRecord
from daiko.state.record import OF_MIGRATION
from daiko.target.logical_unit import LogicalUnit
from daiko.virtual_lu.virtual_lu import VirtualLu

_ELSEWHERE: Final = DeviceId("", 0)
"""Stands for the devices of blocks that stay where they are."""


class LiveMovingVolume(LiveVolume):
    """A published volume that moves."""

    who: ClassVar[str] = "a migration"

    def __init__(self, volume: PublishedVolume, generation: Callable[[str], int]) -> None:
        super().__init__(volume, generation)
        self._gate = ReadGate(volume.device)
        self._unit: LogicalUnit = volume.unit
        self._earlier_ended = asyncio.Event()
        self._give_up: Callable[[], None] = lambda: None

    def put(self, layer: PairedDevice) -> None:
        super().put(layer)
        self._volume.put_under(self._gate)
        # Before the migration is in the store: a job that is planned from now on goes through it,
        # and one that was planned before is planned again.
        self.protect(False)
        tasks = self._unit.task_set
        self._give_up = tasks.await_end(
            [task for _, task in tasks.tasks()], self._earlier_ended.set
        )

    def take(self, layer: PairedDevice) -> None:
        self._give_up()
        super().take(layer)
        self._volume.take_off(self._gate)

    async def settled(self) -> None:
        """`MovingVolume.settled`."""
        await self._earlier_ended.wait()

    async def hold_reads(self) -> None:
        """`MovingVolume.hold_reads`."""
        drained: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gate.shut(partial(_resolve, drained))
        await drained

    def let_reads_go(self) -> None:
        """`MovingVolume.let_reads_go`."""
        self._gate.open()


class NewPlace:
    """Where a volume moves to, as the side of a pair that is copied to. Blocks that stay where they
    are do not lie here: what is written to them is written by the volume itself."""

    def __init__(
        self,
        record: MigrationRecord,
        volume: PublishedVolume,
        device_of: DeviceSource,
        generation: Callable[[str], int],
        publication: Publication,
    ) -> None:
        """Raises LookupError, ValueError where a device is not there as it was."""
        self._record = record
        self._block_size = volume.record.block_size
        self._naa = volume.record.naa
        move = Move(record.moved, record.room.table)
        self._table = move.beside(volume.table.blocks, _ELSEWHERE)
        self._device_of = device_of
        self._generation = generation
        self._publication = publication
        self._resets = 0
        self._layer: PairedDevice | None = None
        self._device = self._build()

    @property
    def name(self) -> str:
        return self._record.to

    @property
    def naa(self) -> str:
        return self._naa

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def blocks(self) -> int:
        return self._table.blocks

    @property
    def device(self) -> BlockDevice:
        return self._device

    @property
    def generations(self) -> tuple[int, ...]:
        """With the resets that were told: what the device had not flushed may be gone."""
        devices = self._record.room.devices
        return (*(self._generation(device.backend) for device in devices), self._resets)

    def put(self, layer: PairedDevice) -> None:
        self._layer = layer
        self._publication.watchers.append(self)

    def take(self, layer: PairedDevice) -> None:
        self._publication.watchers.remove(self)

    def protect(self, protected: bool) -> None:
        """No host sees it."""

    def backend_changed(self, name: str) -> None:
        """`DeviceWatcher.backend_changed`."""
        if name in self._record.room.backends:
            self._device = self._build()
            if self._layer is not None:
                self._layer.below = self._device

    def device_was_reset(self, device: DeviceId) -> None:
        """`DeviceWatcher.device_was_reset`."""
        self._resets += device in self._record.room.devices

    def _build(self) -> BlockDevice:
        devices: dict[DeviceId, BlockDevice] = {
            device: with_all_commands(self._device_of(device))
            for device in self._record.room.devices
        }
        devices[_ELSEWHERE] = Absorbing(self._table.blocks, self._block_size)
        return VirtualLu(self._table, devices, self._block_size)


class MigrationCopies:
    """Rounds of migrations as jobs of the copy manager: from the volume to the devices that it
    moves to."""

    def __init__(self, copies: PairCopies, record: Callable[[str], MigrationRecord]) -> None:
        self._copies = copies
        self._record = record

    def job_of(self, pair: str) -> int | None:
        """The number of the job that copies for the migration of a volume now."""
        return self._copies.job_of(pair)

    async def set_pace(self, pair: str, pace: Pace) -> None:
        """As `surroundings.Copies.set_pace`."""
        await self._copies.set_pace(pair, pace)

    async def copy(
        self,
        pair: str,
        source: str,
        destination: str,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        """As `surroundings.Copies.copy`. Of the ranges, what stays where it lies counts as
        copied."""
        record = self._record(pair)
        move = Move(record.moved, record.room.table)
        done = RangeSet()
        for first, blocks in ranges:
            done.add(first, blocks)
        for extent in _moving(move, ranges):
            done.remove(extent.lba, extent.blocks)
        request = moving_request(record, ranges, pace)
        if request is None:
            yield done
            return
        async with aclosing(self._copies.carry_out(pair, request)) as confirmed:
            async for found in confirmed:
                found.update(done)
                yield found


def moving_request(
    record: MigrationRecord, ranges: Sequence[tuple[int, int]], pace: Pace = FULL
) -> CopyRequest | None:
    """The copy of what moves of these runs of blocks of the volume; None where nothing does."""
    move = Move(record.moved, record.room.table)
    spans = tuple(
        CopyRange(extent.lba, extent.blocks, extent.device_lba, destination=str(extent.device))
        for extent in _moving(move, ranges)
    )
    if not spans:
        return None
    return CopyRequest(
        type=MIGRATION,
        function=Function.VOLUME_COPY,
        source=record.volume,
        destination=record.to,
        ranges=spans,
        asked_by=OF_MIGRATION + record.volume,
        pace=pace,
    )


def _moving(move: Move, ranges: Sequence[tuple[int, int]]) -> Iterator[Extent]:
    for first, blocks in ranges:
        yield from move.new(first, blocks)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
