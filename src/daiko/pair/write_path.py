"""One side of a pair in the write path of its volume.

Which way a request that changes blocks takes is one number, set by the pair (`LivePair`):

- TRACK: marked in the differential bitmap, then passed on. The data path of a pair that is split.
- COPY: as TRACK, and *stale* as well: while a round copies what was stale when it began, what is
  written meanwhile is for the next round.
- MIRROR: to both sides. A region that is still stale gets its writes on this side alone, until
  `copy_regions` has made it the same; from then on they go to both. So what is left to copy only
  shrinks, however busy the hosts are. A write and the copying of its region exclude each other, and
  so do two writes to the same blocks: else the two sides might see them in different orders.
- JOURNAL: to this side, and then into the journal of the group (`journal_path.py`), from which it
  comes to the other side later.
- PROTECT: refused. The side that is copied to.
- PASS: passed on as it is. The pair is no more, and what it held goes on.
- HOLD: kept back, to go another way when the pair has taken its next state. This is how a
  split of several volumes is of one instant, and how nothing is acknowledged before the store knows
  that a side is lost.

**Marked and stale.** A region that is *marked* (in the bitmap, which outlives the process) may
differ; one that is *stale* (in memory) is known to need copying. Marked but not stale are the
regions that writes went to on both sides, which nobody has proved to be on stable storage yet:
settling flushes both sides, and only then takes their marks away, unless they were written to
again. A region is marked in the same turn of the event loop in which its write is sent, so no mark
can be taken away in between.

**Flights.** Whoever wants to know that all earlier writes have ended (a round before it reads,
settling before it flushes, whoever lets writes go to both sides) begins a new flight and waits for
all those before it.

The reads and the geometry are those of the volume's device. `held_by` leaves reads alone, so a copy
may read past this layer; none may write past it (`copy_from` and `sanitize` are refused: then
blocks are written one by one, through here).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Final

from daiko.device.block import BlockDevice, Buffer, Done
from daiko.device.error import DeviceError, Miscompare, WriteProtected
from daiko.device.layer.overlay import Overlay
from daiko.device.range_lock import RangeLock
from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.differential_bitmap import DifferentialBitmap
from daiko.pair.operation import (
    Change,
    CompareAndWrite,
    OrWrite,
    Unmap,
    Write,
    WriteSame,
    copy_blocks,
)
from daiko.pair.unproved import Unproved


class Way(IntEnum):
    """Which way a change takes; see above."""

    TRACK = 0
    COPY = 1
    MIRROR = 2
    PROTECT = 3
    HOLD = 4
    PASS = 5
    JOURNAL = 6


_TRACK: Final = int(Way.TRACK)
_COPY: Final = int(Way.COPY)
_MIRROR: Final = int(Way.MIRROR)
_PROTECT: Final = int(Way.PROTECT)
_HOLD: Final = int(Way.HOLD)
_PASS: Final = int(Way.PASS)
_JOURNAL: Final = int(Way.JOURNAL)

Journaled = Callable[[int, Change, Done], None]
"""Carries a change from a block on out by way of the journal."""


class Loss:
    """A request on a mirrored volume that left the two sides different. The pair is told of it, and
    the host hears nothing before the pair has answered."""

    __slots__ = ("error", "of_other_side", "then")

    def __init__(
        self, error: DeviceError, of_other_side: bool, then: Callable[[DeviceError | None], None]
    ) -> None:
        self.error = error
        self.of_other_side = of_other_side
        """Whether it was the other side that failed; else the side that hosts use did."""
        self.then = then
        """Ends the host's request: well (None) or with an error. The pair calls it when its new
        state is in the store."""


class Flight:
    """Requests that were sent to the devices and have not come back."""

    __slots__ = ("_then", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self._then: Callable[[], None] | None = None

    def enter(self, done: Done) -> Done:
        """Count a request; the completion to give to the device."""
        self.requests += 1

        def finished(error: DeviceError | None) -> None:
            done(error)
            self.leave()

        return finished

    def leave(self) -> None:
        """A request has come back."""
        self.requests -= 1
        if not self.requests and self._then is not None:
            then, self._then = self._then, None
            then()

    def landed(self, then: Callable[[], None]) -> None:
        """Call `then` when all have come back; at once if none is out."""
        if self.requests:
            self._then = then
        else:
            then()


class Flights:
    """The flight that requests enter now, and those before it."""

    __slots__ = ("_older", "now")

    def __init__(self) -> None:
        self.now = Flight()
        self._older: list[Flight] = []

    def begin(self) -> tuple[Flight, ...]:
        """Requests from now on are another flight; returns those with all that were sent before
        and have not come back."""
        self._older = [flight for flight in (*self._older, self.now) if flight.requests]
        self.now = Flight()
        return tuple(self._older)


class PairedDevice(Overlay):
    """The device below, as one side of a pair."""

    def __init__(
        self, below: BlockDevice, bitmap: DifferentialBitmap, lost: Callable[[Loss], None]
    ) -> None:
        """`lost` is called in MIRROR when a request left the sides different; by then the way is
        HOLD."""
        super().__init__(below)
        self.bitmap = bitmap
        self.peer: PairedDevice | None = None
        """The other side; its device gets what is mirrored."""
        self.stale: RegionBitmap = bitmap.regions.copy()
        """Regions that are to be copied to the other side."""
        self.way: int = _HOLD
        self.journaled: Journaled | None = None
        """The way JOURNAL; it comes back to `change` where it cannot be taken any more."""
        self.flights = Flights()
        self.lock = RangeLock()
        """Of the blocks that changes have for themselves alone."""
        self.lost = lost
        """Told when a request left the sides different."""
        self._shift: int = bitmap.regions.shift
        self.unproved = Unproved(self._shift)
        self._held: deque[Callable[[], None]] = deque()

    # --- what hosts send ------------------------------------------------------------------------

    def write(self, lba: int, data: Buffer, done: Done, fua: bool = False) -> None:
        blocks = len(data) // self.block_size
        if self.way == _TRACK and self.bitmap.mark(lba, blocks):
            self.below.write(lba, data, self.flights.now.enter(done), fua)
        else:
            self.change(lba, Write(data, blocks, fua=fua), done)

    def write_atomic(self, lba: int, data: Buffer, done: Done) -> None:
        self.change(lba, Write(data, len(data) // self.block_size, atomic=True), done)

    def unmap(self, lba: int, blocks: int, done: Done) -> None:
        self.change(lba, Unmap(blocks, self.block_size), done)

    def write_same(self, lba: int, blocks: int, pattern: Buffer, done: Done) -> None:
        self.change(lba, WriteSame(blocks, pattern), done)

    def compare_and_write(self, lba: int, compare: Buffer, data: Buffer, done: Done) -> None:
        change = CompareAndWrite(compare, data, len(data) // self.block_size)
        self.change(lba, change, done)

    def or_write(self, lba: int, data: Buffer, done: Done) -> None:
        self.change(lba, OrWrite(data, len(data) // self.block_size), done)

    def flush(self, done: Done) -> None:
        if self.way == _HOLD:
            self._held.append(lambda: self.flush(done))
        elif self.way == _MIRROR and self.peer is not None:
            _MirroredFlush(self, self.peer, done).begin()
        else:
            self.below.flush(done)

    def held_by(self, lba: int, blocks: int) -> tuple[BlockDevice, int] | None:
        return self.below.held_by(lba, blocks)

    # --- which way ------------------------------------------------------------------------------

    def change(self, lba: int, change: Change, done: Done) -> None:
        """Send a change on its way; again from here whenever it had to wait."""
        way = self.way
        if not change.blocks:
            done(None)
        elif way == _HOLD:
            self._held.append(lambda: self.change(lba, change, done))
        elif way == _PASS:
            change.perform(self.below, lba, done)
        elif way == _PROTECT:
            done(WriteProtected("the volume is one side of a pair, and copied to"))
        elif way == _MIRROR:
            self.lock.wait_exclusive(
                lba, change.blocks, lambda ticket: self._mirror(ticket, lba, change, done)
            )
        elif way == _JOURNAL and self.journaled is not None:
            self.journaled(lba, change, done)
        elif self.is_marked(lba, change, done):
            if way == _COPY:
                self.stale.mark(*self._regions(lba, change.blocks))
                self._alone(lba, change, self.flights.now.enter(done))
            else:
                change.perform(self.below, lba, self.flights.now.enter(done))

    def is_marked(self, lba: int, change: Change, done: Done) -> bool:
        """Mark the regions of a change. False: it has to wait, and comes again by itself."""
        if self.bitmap.mark(lba, change.blocks):
            return True

        def marked(error: OSError | None) -> None:
            if error is None or self.way == _PASS:  # the pair is no more: nothing needs its mark
                self.change(lba, change, done)
            else:
                done(WriteProtected(f"the differential bitmap cannot be written: {error}"))

        self.bitmap.when_marked(lba, change.blocks, marked)
        return False

    def _alone(self, lba: int, change: Change, done: Done) -> None:
        """On this side, in a region that will be copied. Where what an UNMAP leaves may read
        differently each time, it is made of zeros."""
        if self.capabilities.unmapped_reads_zero:
            change.perform(self.below, lba, done)
        else:
            change.lead(self.below, lba, done)

    def _mirror(self, ticket: int, lba: int, change: Change, done: Done) -> None:
        """With the blocks for itself alone."""
        peer = self.peer
        if self.way != _MIRROR or peer is None or not self.is_marked(lba, change, done):
            self.lock.leave(ticket)
            if self.way != _MIRROR or peer is None:
                self.change(lba, change, done)
            return
        first, last = self._regions(lba, change.blocks)
        if self.stale.any_in(first, last):
            self.stale.mark(first, last)

            def finished(error: DeviceError | None) -> None:
                done(error)
                self.lock.leave(ticket)

            self._alone(lba, change, self.flights.now.enter(finished))
            return
        self.unproved.regions.update(range(first, last + 1))
        flight = self.flights.now
        flight.requests += 1
        _Mirrored(self, peer, flight, ticket, lba, change, done).begin()

    def _regions(self, lba: int, blocks: int) -> tuple[int, int]:
        return lba >> self._shift, (lba + blocks - 1) >> self._shift

    def mirrored(
        self,
        mirrored: _Mirrored,
        error: DeviceError | None,
        other_error: DeviceError | None,
    ) -> None:
        """Both sides have ended a request."""
        if other_error is None and (error is None or isinstance(error, Miscompare)):
            # The host first: it hears of writes to the same blocks in the order in which they were.
            mirrored.done(error)
            self.lock.leave(mirrored.ticket)
        else:
            self.stale.mark(*self._regions(mirrored.lba, mirrored.change.blocks))
            cause = other_error or error
            assert cause is not None
            if other_error is not None:
                self.lose(Loss(cause, True, lambda refusal: mirrored.done(error or refusal)))
            else:
                self.lose(Loss(cause, False, lambda _: mirrored.done(error)))
            # Last: who waits for the blocks finds that changes are held.
            self.lock.leave(mirrored.ticket)
        mirrored.flight.leave()

    def lose(self, loss: Loss) -> None:
        """The sides differ: nothing more goes to both before the pair has seen to it."""
        if self.way == _MIRROR:
            self.way = _HOLD
        self.lost(loss)

    # --- what the pair does ---------------------------------------------------------------------

    def go(self, way: Way) -> None:
        """Let changes take this way from now on; those that were held take it as well."""
        self.way = int(way)
        if way is not Way.HOLD:
            held, self._held = self._held, deque()
            for again in held:
                again()

    def begin(self, *, is_equal: bool) -> None:
        """What is marked is to be copied; or (the sides are equal) it is only to be proved."""
        regions = self.bitmap.regions
        self.stale = RegionBitmap(regions.blocks, regions.shift) if is_equal else regions.copy()
        self.unproved.begin(
            {at for first, count in regions.runs() for at in range(first, first + count)}
            if is_equal
            else set()
        )

    def begin_round(self) -> tuple[RegionBitmap, tuple[Flight, ...]]:
        """Take what is stale now, to copy it: what is written from now on is stale again. It may
        be read when the flights have landed."""
        taken = self.stale
        self.stale = RegionBitmap(taken.blocks, taken.shift)
        return taken, self.flights.begin()

    def prove(self, taken: RegionBitmap, first: int, last: int) -> None:
        """Of the regions taken for a round these were copied, and are proved to be on stable
        storage on both sides; but for those written to since."""
        for at, count in taken.runs(first):
            if at > last:
                return
            end = min(at + count - 1, last)
            taken.clear(at, end)
            self._take_marks(at, end)

    def end_round(self, taken: RegionBitmap) -> None:
        """What was taken and is not proved has to be copied again."""
        self.stale.update(taken)

    def copy_regions(self, first: int, last: int, done: Done) -> None:
        """Make stale regions the same on the other side; no host writes there meanwhile. They are
        proved by the next `settle`."""
        peer = self.peer
        assert peer is not None
        lba = first << self._shift
        blocks = min((last + 1) << self._shift, self.blocks) - lba

        def begin(ticket: int) -> None:
            def finished(error: DeviceError | None) -> None:
                if error is None:
                    self.stale.clear(first, last)
                    self.unproved.regions.update(range(first, last + 1))
                self.lock.leave(ticket)
                done(error)

            copy_blocks(self.below, peer.below, lba, blocks, self.flights.now.enter(finished))

        self.lock.wait_exclusive(lba, blocks, begin)

    def differ(self, lba: int, blocks: int) -> None:
        """What was sent to these blocks will not come to the other side but by copying."""
        self.stale.mark(*self._regions(lba, blocks))

    def end_settling(self, taken: set[int], proved: bool) -> None:
        """What was taken of the unproved regions is proved, but for those written to again; or (the
        connection to a side was lost in between) they have to be copied again."""
        if not proved:
            for region in taken:
                self.stale.mark(region, region)
            return
        for region in self.unproved.proved(taken):
            self._take_marks(region, region)

    def _take_marks(self, first: int, last: int) -> None:
        """Of regions that are proved; those that are stale again keep theirs."""
        if not self.stale.any_in(first, last):
            self.bitmap.clear(first, last)
            return
        at = first
        for begin, count in self.stale.runs(first):
            if begin > last:
                break
            if begin > at:
                self.bitmap.clear(at, begin - 1)
            at = begin + count
        if at <= last:
            self.bitmap.clear(at, last)


class _Mirrored:
    """One change under way on both sides."""

    __slots__ = (
        "_error",
        "_left",
        "_other_error",
        "change",
        "done",
        "flight",
        "layer",
        "lba",
        "peer",
        "ticket",
    )

    def __init__(
        self,
        layer: PairedDevice,
        peer: PairedDevice,
        flight: Flight,
        ticket: int,
        lba: int,
        change: Change,
        done: Done,
    ) -> None:
        self.layer = layer
        self.peer = peer
        self.flight = flight
        self.ticket = ticket
        self.lba = lba
        self.change = change
        self.done = done
        self._error: DeviceError | None = None
        self._other_error: DeviceError | None = None
        self._left = 2

    def begin(self) -> None:
        self.change.lead(self.layer.below, self.lba, self._led)
        if self.change.is_known:
            self._follow()

    def _follow(self) -> None:
        self.change.follow(self.layer.below, self.peer.below, self.lba, self._followed)

    def _led(self, error: DeviceError | None) -> None:
        self._error = error
        if self.change.is_known:
            self._ended()
        elif error is None:
            self._left -= 1
            self._follow()
        else:
            self.layer.mirrored(self, error, None)

    def _followed(self, error: DeviceError | None) -> None:
        self._other_error = error
        self._ended()

    def _ended(self) -> None:
        self._left -= 1
        if not self._left:
            self.layer.mirrored(self, self._error, self._other_error)


class _MirroredFlush:
    """A flush of both sides."""

    __slots__ = ("_done", "_error", "_layer", "_left", "_other_error", "_peer")

    def __init__(self, layer: PairedDevice, peer: PairedDevice, done: Done) -> None:
        self._layer = layer
        self._peer = peer
        self._done = done
        self._error: DeviceError | None = None
        self._other_error: DeviceError | None = None
        self._left = 2

    def begin(self) -> None:
        self._layer.below.flush(self._here)
        self._peer.below.flush(self._there)

    def _here(self, error: DeviceError | None) -> None:
        self._error = error
        self._ended()

    def _there(self, error: DeviceError | None) -> None:
        self._other_error = error
        self._ended()

    def _ended(self) -> None:
        self._left -= 1
        if self._left:
            return
        layer, error, lost = self._layer, self._error, self._other_error
        if lost is not None:
            # Nobody knows which writes a flush that failed has lost.
            layer.stale.update(layer.bitmap.regions)
            layer.lose(Loss(lost, True, lambda refusal: self._done(error or refusal)))
        else:
            self._done(error)
