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

from daiko.copy_manager.pacer import Pacer
from daiko.device.error import DeviceError
from daiko.mapping.range_set import RangeSet
from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.side import Side, landed
from daiko.pair.surroundings import RoundFailed, Workshop
from daiko.pair.write_path import Way


class CopierFailed(Exception):
    """It could not go on, after tries; the message says why."""


class Settler:
    """Proves that what was written to both sides of a pair is on stable storage there.

    A flush proves only what went over the connection that it went over itself. So it is noted by
    which connections the two are reached before anything is written that a later flush is to
    prove."""

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sides
        self._generations = self._now()

    async def settle(self, lead: Side, other: Side) -> bool:
        """Flush both sides, and take the marks of what was mirrored or copied before. False:
        something is stale, also because a connection was lost in between. Raises DeviceError."""
        if not lead.layer.has_unproved:
            self._generations = self._now()
            return not lead.layer.stale.set_regions
        before, self._generations = self._generations, self._now()
        recent, flight = lead.layer.begin_settling()
        try:
            await landed(flight)
            await asyncio.gather(lead.flush(), other.flush())
        except asyncio.CancelledError:
            # Nothing is known that was not before: the next settling has to prove it.
            self._generations = before
            lead.layer.give_up_settling(recent)
            raise
        except DeviceError:
            lead.layer.end_settling(recent, False)
            raise
        lead.layer.end_settling(recent, self._now() == before)
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
    ) -> None:
        """`go` lets hosts' changes take a way: COPY in a round, MIRROR from catching up on."""
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

    async def run(self) -> None:
        """Copy until nothing is stale and all of it is on stable storage; then writes go to both
        sides. Raises CopierFailed."""
        tries = 0
        while True:
            before = self.left_bytes
            try:
                await self._rounds()
                self._go(Way.MIRROR)
                # What was sent before goes to this side alone, and does not keep its region from
                # being copied: a copy that reads before it is done would leave it out.
                self.lead.layer.begin_flight()
                for flight in self.lead.layer.under_way[:-1]:
                    await landed(flight)
                while self.lead.layer.stale.set_regions:
                    await self._catch_up()
                    await self._settler.settle(self.lead, self.other)
                if await self._settler.settle(self.lead, self.other):
                    return
            except (DeviceError, RoundFailed, OSError) as error:
                if self.left_bytes < before:
                    tries = 0  # it went on for a while
                if tries == len(self._settings.retry_seconds):
                    raise CopierFailed(str(error)) from error
                await asyncio.sleep(self._settings.retry_seconds[tries])
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
        self._taken, flight = layer.begin_round()
        ranges = list(self._taken.ranges())
        confirmed = self._copies.copy(
            self._pair, volume.name, self.other.volume.name, ranges, self._pacer.pace
        )
        try:
            await landed(flight)
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
        under_way: set[asyncio.Future[None]] = set()
        try:
            for first, regions in list(stale.copy().runs()):
                for at in range(first, first + regions, most):
                    await self._pacer.wait(size * min(most, first + regions - at))
                    if len(under_way) == self._settings.copies_in_flight:
                        under_way = await _one_ended(under_way)
                    under_way.add(self._copy(at, min(at + most, first + regions) - 1))
            while under_way:
                under_way = await _one_ended(under_way)
        finally:
            await _all_ended(under_way)

    def _copy(self, first: int, last: int) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: DeviceError | None) -> None:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.lead.layer.copy_regions(first, last, done)
        return future


async def _one_ended(under_way: set[asyncio.Future[None]]) -> set[asyncio.Future[None]]:
    """Wait until at least one has ended; those that go on. Raises its DeviceError, when the others
    have ended as well."""
    done, rest = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
    failures = [error for future in done if (error := future.exception()) is not None]
    if failures:
        await _all_ended(rest)
        raise failures[0]
    return rest


async def _all_ended(under_way: set[asyncio.Future[None]]) -> None:
    """Wait until none is in flight any more, however they end."""
    if under_way:
        await asyncio.wait(under_way)
        for future in under_way:
            future.exception()
