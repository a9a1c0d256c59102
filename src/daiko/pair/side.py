"""One side of a living pair: its volume, its bitmap, and its place in the write path."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from daiko.backend.worker import Workers
from daiko.device.awaitable import flush
from daiko.pair.bitmap_file import Condition
from daiko.pair.differential_bitmap import DifferentialBitmap
from daiko.pair.state import Use
from daiko.pair.surroundings import PairVolume
from daiko.pair.write_path import Flight, Loss, PairedDevice, Way
from daiko.state.pair_record import PairRecord

log = structlog.get_logger(__name__)

_WAYS = {
    Use.TRACKED: Way.TRACK,
    Use.COPIED: Way.COPY,
    Use.MIRRORED: Way.MIRROR,
    Use.JOURNALED: Way.JOURNAL,
    Use.PROTECTED: Way.PROTECT,
}


class Kept(Protocol):
    """What a bitmap is kept for: a pair, or the migration of a volume."""

    @property
    def name(self) -> str: ...

    @property
    def created(self) -> float: ...

    @property
    def granularity(self) -> int:
        """Bytes a region."""
        ...

    @property
    def power_safe(self) -> bool: ...


def stream_of(record: PairRecord) -> bytes:
    """8 bytes that tell the journal's entries of this pair, since it became paired last, from all
    others."""
    told = f"{record.name}\0{record.created!r}\0{record.term}"
    return hashlib.blake2b(told.encode(), digest_size=8).digest()


def _identity(record: Kept, volume: PairVolume) -> bytes:
    """16 bytes that tell the bitmap of this side of this pair from all others."""
    told = f"{record.name}\0{record.created!r}\0{volume.naa}"
    return hashlib.blake2b(told.encode(), digest_size=16).digest()


class Side:
    """A volume as one side of a pair."""

    def __init__(
        self, volume: PairVolume, bitmap: DifferentialBitmap, lost: Callable[[Loss], None]
    ) -> None:
        self.volume = volume
        self.bitmap = bitmap
        self.layer = PairedDevice(volume.device, bitmap, lost)
        self._is_installed = False
        self.is_gone = False
        """The bitmap of a pair that there was had gone: everything counts as different."""

    @classmethod
    def open(
        cls,
        record: Kept,
        volume: PairVolume,
        folder: Path | None,
        *,
        is_new: bool,
        workers: Workers,
        lost: Callable[[Loss], None],
    ) -> Side:
        """Open the bitmap of a side in `folder` (None: it ends with the process), or make that of a
        new pair. Where it is gone, everything is marked. Raises OSError."""
        path = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{record.name}.{volume.name}"
        bitmap = DifferentialBitmap.open(
            path,
            blocks=volume.blocks,
            block_size=volume.block_size,
            granularity=record.granularity,
            identity=_identity(record, volume),
            power_safe=record.power_safe,
            workers=workers,
        )
        side = cls(volume, bitmap, lost)
        if not is_new and bitmap.found.condition is Condition.NEW:
            bitmap.mark_all()
            side.is_gone = True
        return side

    @property
    def note(self) -> str:
        """What an administrator should know of the bitmap as it was found; "" = all is well."""
        if self.is_gone:
            return "it had gone, so everything counts as different"
        found = self.bitmap.found
        return "" if found.condition in (Condition.NEW, Condition.EXACT) else str(found)

    @property
    def marked_bytes(self) -> int:
        """Bytes in regions that may differ from the other side because of writes to this one."""
        return self.bitmap.marked_bytes

    def install(self) -> None:
        """Into the write path of the volume, where it is not yet; changes are held until `use`."""
        if not self._is_installed:
            self.volume.put(self.layer)
            self._is_installed = True

    def hold(self) -> None:
        """Keep changes back until `use`."""
        self.layer.go(Way.HOLD)

    def use(self, use: Use, *, fenced: bool = False) -> None:
        """Let hosts use the side like this from now on. `fenced`: they may not write."""
        way = Way.PROTECT if fenced else _WAYS[use]
        self.volume.protect(way is Way.PROTECT)
        self.layer.go(way)

    async def flush(self) -> None:
        """Bring what was written to stable storage. Raises DeviceError."""
        await flush(self.volume.device)

    async def drained(self) -> None:
        """Wait until every request that was sent so far has come back."""
        await landed(self.layer.flights.begin())

    async def mark_all(self) -> None:
        """Nothing is known of what is equal; on stable storage when this returns. Raises
        OSError."""
        self.bitmap.mark_all()
        await self.bitmap.sync()

    async def take_over(self, other: Side) -> None:
        """Mark here what is marked at the other side, and there no more. Raises OSError."""
        if other.bitmap.regions.set_regions:
            await self.bitmap.mark_regions(other.bitmap.regions)
            for first, regions in other.bitmap.regions.copy().runs():
                other.bitmap.clear(first, first + regions - 1)

    def meet(self, other: Side, lost: Callable[[Loss], None]) -> None:
        """It is one side of a pair that is led here, and this is the other one."""
        self.layer.peer = other.layer
        self.layer.lost = lost

    def part(self) -> None:
        """No other side is known here any more; to be called at rest."""
        self.layer.peer = self.layer.journaled = None
        self.layer.lost = no_loss

    def abandon(self) -> None:
        """It was opened, and comes to nothing: no host has used it."""
        try:
            self.bitmap.abandon()
        except OSError as error:
            log.error("bitmap not taken away", volume=self.volume.name, error=str(error))

    async def close(self) -> None:
        """The controller stops: the bitmap is kept. The layer stays until the volume goes."""
        self.hold()
        await self.drained()
        try:
            await self.bitmap.close()
        except OSError as error:
            log.error("bitmap not kept", volume=self.volume.name, error=str(error))

    def forget(self) -> None:
        """The pair is no more: out of the write path, and away with the bitmap."""
        self.volume.take(self.layer)
        self.volume.protect(False)
        self.layer.go(Way.PASS)
        try:
            self.bitmap.forget()
        except OSError as error:
            # Left behind, it is nobody's: the bitmap of a new pair has another identity.
            log.error("bitmap not taken away", volume=self.volume.name, error=str(error))


def no_loss(loss: Loss) -> None:
    """Of a side that has no other one here: what is mirrored can be lost, and nothing is."""
    raise AssertionError("a side that follows mirrors nothing")


async def landed(flights: Iterable[Flight]) -> None:
    """Wait until all requests of these flights have come back."""
    for flight in flights:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        flight.landed(partial(_set, future))
        await future


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
