"""Writes of the copy manager to devices under volumes: what a COMPARE AND WRITE must know of.

The copy manager writes to devices, not through logical units. A command of a host that has blocks
of a volume for itself (`target/exclusion.py`) would not see these writes come. So whoever writes to
a device enters them at the units of the volumes that lie there: for one request at a time where
this controller writes, for the time of the second command where another one does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from daiko.control.publication import Publication, PublishedVolume
from daiko.device.block import BlockDevice, Buffer, Done
from daiko.device.error import DeviceError
from daiko.device.layer.layer import Layer
from daiko.mapping.extent import Piece
from daiko.target.logical_unit import LogicalUnit

Leave = Callable[[], None]


class Overlap(NamedTuple):
    """Blocks of a device that are blocks of a volume."""

    volume: str
    volume_lba: int
    device_lba: int
    blocks: int


class Entering(Layer):
    """A device under volumes: each write through this layer is entered at their units."""

    def __init__(
        self, below: BlockDevice, overlaps: Sequence[Overlap], publication: Publication
    ) -> None:
        super().__init__(below)
        self._overlaps = overlaps
        self._publication = publication

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        blocks = len(data) // self.block_size
        overlaps = _within(self._overlaps, lba, blocks)

        def begin(leave: Leave) -> None:
            def finished(error: DeviceError | None) -> None:
                leave()
                done(error)

            through = self._through(overlaps)
            if through:
                self._write_through(through, lba, data, finished, fua)
            else:
                self.below.write(lba, data, finished, fua)

        enter(overlaps, self._publication, begin)

    def _through(self, overlaps: Sequence[Overlap]) -> Sequence[tuple[Overlap, Layer]]:
        """The blocks that may be written through a layer of their volume only, in the order in
        which they lie on the device."""
        found = []
        for overlap in sorted(overlaps, key=lambda each: each.device_lba):
            volume = _volume(self._publication, overlap.volume)
            if volume is not None and volume.written_through is not None:
                found.append((overlap, volume.written_through.layer))
        return found

    def _write_through(
        self,
        through: Sequence[tuple[Overlap, Layer]],
        lba: int,
        data: Buffer,
        done: Done,
        fua: bool,
    ) -> None:
        size, end = self.block_size, lba + len(data) // self.block_size
        parts: list[tuple[BlockDevice, int, int, int]] = []
        at = lba
        for overlap, layer in through:
            if overlap.device_lba > at:
                parts.append((self.below, at, at, overlap.device_lba))
            at = overlap.device_lba + overlap.blocks
            parts.append((layer, overlap.volume_lba, overlap.device_lba, at))
        if at < end:
            parts.append((self.below, at, at, end))
        left, failure = len(parts), None

        def one_done(error: DeviceError | None) -> None:
            nonlocal left, failure
            left -= 1
            failure = failure or error
            if not left:
                done(failure)

        view = memoryview(data)
        for device, at, first, last in parts:
            piece = view[(first - lba) * size : (last - lba) * size]
            device.write(at, piece, one_done, fua)

    def copy_from(
        self, lba: int, source: BlockDevice, source_lba: int, blocks: int, done: Done
    ) -> bool:
        """Only where it can begin at once: else the caller reads, and its write waits. And not
        where a layer has to see what is written."""
        entered: list[Leave] = []
        is_late = False

        def begin(leave: Leave) -> None:
            if is_late:
                leave()
            else:
                entered.append(leave)

        count = blocks * source.block_size // self.block_size
        overlaps = _within(self._overlaps, lba, count)
        if self._through(overlaps):
            return False
        enter(overlaps, self._publication, begin)
        is_late = True
        if not entered:
            return False

        def finished(error: DeviceError | None) -> None:
            entered[0]()
            done(error)

        if self.below.copy_from(lba, source, source_lba, blocks, finished):
            return True
        entered[0]()
        return False

    def close(self) -> None:
        """The device below is not this layer's."""


@asynccontextmanager
async def entered(overlaps: Sequence[Overlap], publication: Publication) -> AsyncIterator[None]:
    """While this lasts, blocks are written by somebody else."""
    begun: asyncio.Future[Leave] = asyncio.get_running_loop().create_future()

    def begin(leave: Leave) -> None:
        if begun.cancelled():
            leave()
        else:
            begun.set_result(leave)

    enter(overlaps, publication, begin)
    leave = await begun
    try:
        yield
    finally:
        leave()


def enter(
    overlaps: Sequence[Overlap], publication: Publication, begin: Callable[[Leave], None]
) -> None:
    """Call `begin(leave)` once nobody has any of the blocks alone. The ranges are entered one after
    the other in one order for all, so that no two wait for each other."""
    waiting = sorted(overlaps, reverse=True)
    leaves: list[Leave] = []

    def leave_all() -> None:
        for leave in leaves:
            leave()

    def go_on() -> None:
        while waiting:
            overlap = waiting.pop()
            unit = _unit(publication, overlap.volume)
            if unit is not None:
                unit.alone.enter(overlap.volume_lba, overlap.blocks, one_entered)
                return
        begin(leave_all)

    def one_entered(leave: Leave) -> None:
        leaves.append(leave)
        go_on()

    go_on()


def overlaps_of(pieces: Sequence[Piece], publication: Publication) -> list[Overlap]:
    """The blocks of volumes that lie in pieces of devices."""
    found = []
    for piece in pieces:
        for volume in publication.volumes_on(piece.device.backend):
            for start, length in volume.table.ranges_on(piece.device):
                at = volume.table.locate(start)[1]
                found += _within(
                    [Overlap(volume.record.name, start, at, length)], piece.lba, piece.blocks
                )
    return found


def _within(overlaps: Sequence[Overlap], lba: int, blocks: int) -> list[Overlap]:
    """The parts of overlaps that lie in a range of the device."""
    found = []
    for volume, volume_lba, device_lba, length in overlaps:
        low = max(lba, device_lba)
        high = min(lba + blocks, device_lba + length)
        if low < high:
            found.append(Overlap(volume, volume_lba + low - device_lba, low, high - low))
    return found


def _unit(publication: Publication, volume: str) -> LogicalUnit | None:
    """None where the volume has gone since."""
    found = _volume(publication, volume)
    return None if found is None else found.unit


def _volume(publication: Publication, name: str) -> PublishedVolume | None:
    """None where the volume has gone since."""
    try:
        return publication.volume(name)
    except KeyError:
        return None
