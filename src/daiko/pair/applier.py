"""Brings what is in a journal to the secondaries, so that these are at every moment an earlier
state of the whole group.

It goes batch by batch. A batch is the oldest entries that were under way together: none of them was
asked for after another had been acknowledged. So whichever of them have arrived when the link, this
controller or its site is lost, the secondaries are as the primaries might have been found if they
had been lost then. A batch has to be on *stable storage* before the next one is sent: a secondary
whose cache loses power may lose writes of the last batch only. No two entries of a batch are for
the same blocks, since changes of the same blocks are never under way together.

Before a batch is sent, it is itself on stable storage here, and so is the checkpoint before it. So
what is applied again after a crash of any kind is that batch at most.

A secondary that cannot be reached is tried for as long as it takes; meanwhile the journal grows.

Of a secondary at another site a reset of what lies under it is told with the next command only. So
nothing counts as being on its stable storage before it has answered one more (a flush reads a block
by itself, `site_volume.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import structlog

from daiko.device.awaitable import read
from daiko.device.block import BlockDevice, Done
from daiko.device.error import DeviceError, Unreachable
from daiko.pair.in_flight import InFlight
from daiko.pair.journal import Journal
from daiko.pair.journal_file import Entry, Kind
from daiko.pair.settings import PairSettings
from daiko.pair.side import Side
from daiko.pair.surroundings import is_elsewhere
from daiko.pair.write_path import PairedDevice

log = structlog.get_logger(__name__)

Target = Callable[[bytes], tuple[Side, PairedDevice] | None]
"""The secondary of a stream, and the layer of its primary; None: nobody wants its entries."""


class Applier:
    """Of one journal."""

    def __init__(self, journal: Journal, target: Target, settings: PairSettings) -> None:
        self.journal = journal
        self.trouble = ""
        """Why the secondaries do not get anything now; "" = they do."""
        self.limit: int | None = None
        """The last sequence to apply; None: all."""
        self._target = target
        self._settings = settings
        self._work: asyncio.Task[None] | None = None
        self._is_paused = True
        self._wake = asyncio.Event()
        self._moved = asyncio.Event()
        self._hurry = asyncio.Event()
        journal.when_entered = self._wake.set

    def resume(self) -> None:
        """Apply, from now on."""
        self.limit = None
        self._is_paused = False
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run(), name="journal")

    async def pause(self) -> None:
        """Apply nothing more; returns when nothing is in flight."""
        self._is_paused = True
        self._wake.set()
        self._hurry.set()
        if self._work is not None:
            await asyncio.wait({self._work})

    def hurry(self) -> None:
        """A secondary is there again: try now."""
        self._hurry.set()

    async def reached(self, sequence: int) -> None:
        """Wait until everything up to this sequence has been applied."""
        while self.journal.applied < sequence:
            await self._moved.wait()

    async def drained(self) -> None:
        """Wait until nothing is left of a journal that takes no more entries."""
        while self.journal.ended and not self.journal.is_drained:
            await self._moved.wait()

    def begin_anew(self) -> str:
        """Let a journal that has ended take entries again; why that cannot be, "" where it can."""
        if self.journal.ended:
            try:
                self.journal.begin_anew()
            except OSError as error:
                return f"the journal cannot be written: {error}"
        return ""

    async def close(self, *, forget: bool = False) -> None:
        """Apply nothing more, and close the journal; or away with it."""
        await self.pause()
        try:
            if forget:
                self.journal.forget()
            else:
                await self.journal.close()
        except OSError as error:
            # Kept or not, it is nobody's, or the next controller finds it as after a crash.
            log.error("journal not closed", error=str(error))

    # --- inside -------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._apply_all()
        except Exception:
            # The edge of its work: nobody above could do more than go on without the journal.
            log.exception("journal ended by a defect")
            self.journal.end("a defect of this program; its log says more")
            self.journal.give_up()
            self._tell()

    async def _apply_all(self) -> None:
        tries = 0
        while not self._is_paused:
            self._wake.clear()
            batch = self.journal.batch(self._settings.journal_batch, self.limit)
            if not batch and not self.journal.has_unfreed:
                await self._wake.wait()
                continue
            try:
                if batch:
                    await self._apply(batch)
                else:
                    await self.journal.fetch([])
            except DeviceError as error:
                if not self.trouble:
                    log.warning("journal not applied", error=str(error))
                self.trouble = str(error)
                await self._rest(self._settings.pause_after(tries))
                tries += 1
            except OSError as error:
                log.error("journal cannot be read", error=str(error))
                self.journal.end(f"the journal cannot be read: {error}")
                self.journal.give_up()
                self._tell()
            else:
                self.trouble, tries = "", 0
                self._tell()

    async def _rest(self, seconds: float) -> None:
        """Until the time is over, or it is paused or to hurry; new entries are no reason to try
        again."""
        self._hurry.clear()
        if self._is_paused:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._hurry.wait()

    async def _apply(self, batch: list[Entry]) -> None:
        """Raises DeviceError, and OSError where the journal cannot be read."""
        if not any(self._target(entry.stream) for entry in batch):
            self.journal.has_applied(batch)
            await asyncio.sleep(0)  # there may be many of them
            return
        found = await self.journal.fetch(batch)
        work = [
            (entry, data, *target)
            for entry, data in zip(batch, found, strict=True)
            if (target := self._target(entry.stream)) is not None
        ]
        sides = list({side.volume.name: side for _, _, side, _ in work}.values())
        before = [side.volume.generations for side in sides]
        is_alone = len(work) == 1 and work[0][0].kind is Kind.DATA
        async with InFlight(max(1, len(work))) as requests:
            for entry, data, side, _ in work:
                await requests.send(partial(_send, side.volume.device, entry, data, is_alone))
        if not is_alone:
            await asyncio.gather(*(side.flush() for side in sides))
        elif is_elsewhere(sides[0].volume):
            await read(sides[0].volume.device, 0, 1)
        if [side.volume.generations for side in sides] != before:
            raise Unreachable("the connection was lost before what was sent was on stable storage")
        if self.journal.is_drained:  # it was given up meanwhile
            return
        self.journal.has_applied(batch)
        for entry, _, _, layer in work:
            layer.unproved.applied(entry.lba, entry.blocks)

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


def _send(device: BlockDevice, entry: Entry, data: bytes, is_alone: bool, done: Done) -> None:
    if entry.kind is Kind.SAME:
        device.write_same(entry.lba, entry.blocks, data, done)
    else:
        # Alone it comes to stable storage by itself: one request instead of two.
        device.write(entry.lba, data, done, is_alone)
