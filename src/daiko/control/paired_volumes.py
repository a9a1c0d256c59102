"""The live system as pairs see it (`pair/surroundings.py` says what they need)."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import ClassVar

from daiko.command_control.plan import Function
from daiko.control.publication import PublishedVolume, WrittenThrough
from daiko.copy_manager.copy_manager import CopyManager
from daiko.copy_manager.error import CopyRefused, JobNotRunning
from daiko.copy_manager.pace import Pace
from daiko.copy_manager.request import PAIR, CopyRange, CopyRequest
from daiko.device.block import BlockDevice
from daiko.mapping.extent import DeviceId
from daiko.mapping.mapping_table import MappingTable
from daiko.mapping.range_set import RangeSet
from daiko.pair.peer_door import PeerDoor
from daiko.pair.surroundings import RoundFailed
from daiko.pair.write_path import PairedDevice
from daiko.state.record import OF_PAIR, TERMINAL, JobRecord, JobState
from daiko.state.store import StoreError


class LiveVolume:
    """A published volume as a side of a pair."""

    who: ClassVar[str] = "a pair"
    """Has to know what is written to it."""

    def __init__(self, volume: PublishedVolume, generation: Callable[[str], int]) -> None:
        """`generation(backend)` is that of the connection to a back end; 0 for own disks."""
        self._volume = volume
        self._generation = generation
        self._layer: PairedDevice | None = None

    @property
    def name(self) -> str:
        return self._volume.record.name

    @property
    def naa(self) -> str:
        return self._volume.record.naa

    @property
    def block_size(self) -> int:
        return self._volume.record.block_size

    @property
    def blocks(self) -> int:
        return self._volume.table.blocks

    @property
    def device(self) -> BlockDevice:
        return self._volume.device

    @property
    def generations(self) -> tuple[int, ...]:
        return tuple(self._generation(device.backend) for device in self._volume.table.devices)

    def door(self, site: str) -> PeerDoor:
        """`followed.FollowedVolume.door`."""
        return self._volume.door(site)

    def put(self, layer: PairedDevice) -> None:
        self._layer = layer
        self._volume.put_under(layer)

    def take(self, layer: PairedDevice) -> None:
        self._layer = self._volume.written_through = None
        self._volume.take_off(layer)

    def protect(self, protected: bool) -> None:
        """While it is protected only the pair writes to it, and to its devices directly."""
        self._volume.unit.protect(protected)
        self._volume.written_through = (
            None
            if protected or self._layer is None
            else WrittenThrough(
                self._layer, f"{self.who} has to know what is written to {self.name}"
            )
        )


class PairCopies:
    """Rounds of pairs as jobs of the copy manager."""

    def __init__(self, copy_manager: CopyManager, table: Callable[[str], MappingTable]) -> None:
        """`table(volume)`. Raises LookupError."""
        self._copy_manager = copy_manager
        self._table = table
        self._jobs: dict[str, int] = {}

    def job_of(self, pair: str) -> int | None:
        """The number of the job that copies for a pair now."""
        return self._jobs.get(pair)

    async def set_pace(self, pair: str, pace: Pace) -> None:
        """As `surroundings.Copies.set_pace`."""
        job = self._jobs.get(pair)
        if job is not None:
            with suppress(JobNotRunning):
                await self._copy_manager.set_pace(job, pace)

    async def copy(
        self,
        pair: str,
        source: str,
        destination: str,
        ranges: Sequence[tuple[int, int]],
        pace: Pace,
    ) -> AsyncGenerator[RangeSet, None]:
        """As `surroundings.Copies.copy`."""
        request = CopyRequest(
            type=PAIR,
            function=Function.VOLUME_COPY,
            source=source,
            destination=destination,
            ranges=tuple(CopyRange(first, blocks, first) for first, blocks in ranges),
            asked_by=OF_PAIR + pair,
            pace=pace,
        )
        async with aclosing(self.carry_out(pair, request)) as confirmed:
            async for blocks in confirmed:
                yield blocks

    async def carry_out(self, pair: str, request: CopyRequest) -> AsyncGenerator[RangeSet, None]:
        """As `copy`, a request whose source is a volume."""
        manager = self._copy_manager
        submitting = asyncio.ensure_future(manager.submit(request))
        try:
            record = await asyncio.shield(submitting)
        except (CopyRefused, StoreError) as refused:
            raise RoundFailed(str(refused)) from refused
        except asyncio.CancelledError:
            # In the store or not: it must neither copy nor be left there.
            with suppress(CopyRefused, StoreError, JobNotRunning):
                await manager.cancel((await submitting).id)
            raise
        job = self._jobs[pair] = record.id
        try:
            version, confirmed = -1, 0
            while record.state not in TERMINAL:
                version = (await manager.changed(job, version)).version
                record = manager.job(job)
                if record.confirmed_blocks > confirmed:
                    confirmed = record.confirmed_blocks
                    yield confirmed_of(record, self._table(request.source))
        finally:
            self._jobs.pop(pair, None)
            with suppress(JobNotRunning):
                await manager.cancel(job)
        if record.state is not JobState.DONE:
            raise RoundFailed(f"job {job} {record.state}: {record.error}")


def confirmed_of(record: JobRecord, table: MappingTable) -> RangeSet:
    """The blocks of the source volume that a job has confirmed. Its steps name blocks of devices;
    `table` is the volume's."""
    extents: dict[DeviceId, list[tuple[int, int, int]]] = {}
    found = RangeSet()
    for step in record.steps:
        if not step.confirmed:
            continue
        device = DeviceId.parse(step.source)
        if device not in extents:
            extents[device] = sorted(
                (table.locate(first)[1], first, blocks) for first, blocks in table.ranges_on(device)
            )
        # A step lies in one extent, or in extents that follow one another on both sides.
        on = extents[device]
        place = bisect_right(on, (step.source_lba, table.blocks, 0)) - 1
        lies_at, volume_lba, _ = on[max(place, 0)]
        start = volume_lba + step.source_lba - lies_at
        for first, blocks in step.confirmed:
            found.add(start + first, blocks)
    return found
