"""Brings one side of a pair to the same as the other, while hosts write.

First in *rounds*: what is stale is copied by the copy manager, by whoever the plan says (the
controllers that own the data, where they can), and what hosts write meanwhile is for the next
round. When little is left, or rounds do not make it less, it *catches up*: every write goes to both
sides from then on, region after region is copied, and what is left can only shrink. Last it
*settles*: both sides are flushed, and the marks of what is proved are taken away.

The same settling goes on for as long as the pair is paired.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from daiko.copy_manager.pacer import Pacer
from daiko.device.error import DeviceError
from daiko.mapping.range_set import RangeSet
from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.in_flight import InFlight
from daiko.pair.side import Side, landed
from daiko.pair.surroundings import RoundFailed, Workshop
from daiko.pair.write_path import Way


class CopierFailed(Exception):
    """It could not go on, after tries; the message says why."""


class Settler:
    """Proves that what was written to both sides of a pair is on stable storage there; to the
    primary alone, where the other side gets it from a journal (that proves its own).

    A flush proves only what went over the connection that it went over itself. So it is noted by
    which connections the two are reached before anything is written that a later flush is to
    prove."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._generations = self._now()

    async def settle(self, lead: Side) -> bool:
        """Flush the sides, and take the marks of what was mirrored or copied before. False:
        something is stale, also because a connection was lost in between. Raises DeviceError."""
        if not lead.layer.unproved.regions:
            self._generations = self._now()
            return not lead.layer.stale.set_regions
        before, self._generations = self._generations, self._now()
        taken, flights = lead.layer.unproved.take(), lead.layer.flights.begin()
        try:
            await landed(flights)
            await asyncio.gather(*(side.flush() for side in self._sides))
        except asyncio.CancelledError:
            # Nothing is known that was not before: the next settling has to prove it.
            self._generations = before
            lead.layer.unproved.give_back(taken)
            raise
        except DeviceError:
            lead.layer.end_settling(taken, False)
            raise
        lead.layer.end_settling(taken, self._now() == before)
        return not lead.layer.stale.set_regions

    def _now(self) -> list[tuple[int, ...]]:
        return [side.volume.generations for side in self._sides]


class Copier:
    """Copies from one side to the other until both are the same."""

    def __init__(
        self,
        pair: str,
        lead: Side,
        other: Side,
        workshop: Workshop,
        settler: Settler,
        pacer: Pacer,
        go: Callable[[Way], None],
        *,
        is_patient: bool = False,
    ) -> None:
        """`go` lets hosts' changes take a way: COPY in a round, MIRROR from catching up on. One
        that `is_patient` tries for as long as it takes."""
        self.trouble = ""
        """Why it does not go on now; "" = it does."""
        self._is_patient = is_patient
        self.lead = lead
        self.other = other
        self._go = go
        self._pair = pair
        self._copies = workshop.copies
        self._settler = settler
        self._settings = workshop.settings
        self._pacer = pacer
        self._taken: RegionBitmap | None = None

    @property
    def left_bytes(self) -> int:
        """Bytes in regions that are still to be copied."""
        blocks = self.lead.layer.stale.changed_blocks
        if self._taken is not None:
            blocks += self._taken.changed_blocks
        return blocks * self.lead.volume.block_size

    @property
    def notes(self) -> tuple[str, ...]:
        """What an administrator should know."""
        return (f"copying is tried again: {self.trouble}",) if self.trouble else ()

    async def run(self) -> None:
        """Copy until nothing is stale and all of it is on stable storage; then writes go to both
        sides. Raises CopierFailed."""
        tries = 0
        while True:
            before = self.left_bytes
            try:
                await self._rounds()
                if self._is_patient:
                    await self.other.flush()  # no host waits for a side that is not there
                self._go(Way.MIRROR)
                # What was sent before goes to this side alone, and does not keep its region from
                # being copied: a copy that reads before it is done would leave it out.
                await landed(self.lead.layer.flights.begin())
                while self.lead.layer.stale.set_regions:
                    await self._catch_up()
                    await self._settler.settle(self.lead)
                if await self._settler.settle(self.lead):
                    return
            except (DeviceError, RoundFailed, OSError) as error:
                if self.left_bytes < before:
                    tries = 0  # it went on for a while
                if tries == len(self._settings.retry_seconds) and not self._is_patient:
                    raise CopierFailed(str(error)) from error
                self.trouble = str(error)
                if self._is_patient:
                    self._go(Way.COPY)  # nothing copies now, and no host waits for the other side
                await asyncio.sleep(self._settings.pause_after(tries))
                self.trouble = ""
                tries += 1

    # --- rounds ---------------------------------------------------------------------------------

    async def _rounds(self) -> None:
        settings = self._settings
        for _ in range(settings.rounds):
            before = self.left_bytes
            if before <= settings.catch_up_bytes:
                return
            await self._round()
            if self.left_bytes > before * settings.shrinks_to:
                return

    async def _round(self) -> None:
        layer, volume = self.lead.layer, self.lead.volume
        generations = volume.generations
        # While the region is copied past this layer, a write to it may not go to both sides.
        self._go(Way.COPY)
        self._taken, flights = layer.begin_round()
        ranges = list(self._taken.ranges())
        confirmed = self._copies.copy(
            self._pair, volume.name, self.other.volume.name, ranges, self._pacer.pace
        )
        try:
            await landed(flights)
            async for blocks in confirmed:
                await self.lead.flush()
                if volume.generations != generations:
                    raise RoundFailed(f"the connection to {volume.name} was lost and made anew")
                self._prove(blocks)
        finally:
            await confirmed.aclose()
            layer.end_round(self._taken)
            self._taken = None

    def _prove(self, blocks: RangeSet) -> None:
        """Take the marks of the regions that lie in `blocks` as a whole."""
        taken = self._taken
        assert taken is not None
        size = 1 << taken.shift
        for first, count in blocks:
            end = first + count
            last = taken.regions if end >= taken.blocks else end // size
            begin = -(-first // size)
            if begin < last:
                self.lead.layer.prove(taken, begin, last - 1)

    # --- catching up ----------------------------------------------------------------------------

    async def _catch_up(self) -> None:
        """Copy every region that is stale now, several at a time. Raises the first DeviceError."""
        stale = self.lead.layer.stale
        size = self.lead.volume.block_size << stale.shift
        most = max(1, self._settings.copy_bytes // size)
        async with InFlight(self._settings.copies_in_flight) as copies:
            for first, regions in list(stale.copy().runs()):
                for at in range(first, first + regions, most):
                    count = min(most, first + regions - at)
                    await self._pacer.wait(size * count)
                    copy = self.lead.layer.copy_regions
                    await copies.send(partial(copy, at, at + count - 1))
