"""One migration while the controller runs: a volume, its new place, and what copies.

The volume is led by its old place, as the primary of a pair is; the new place is the side that is
copied to, and no host sees it. When both are the same, hosts' commands are held for a moment: the
new mapping goes into the store together with the end of the migration, and the volume goes on
there. The store leads: killed before that transaction, the controller finds a migration that goes
on with what is marked; killed after it, a volume that lies in its new place.

What fails at the new place never reaches a host: the migration has failed then, and the volume goes
on as it was. A write that is mirrored is answered when both places have answered, as long as the
patience with the new place's controller lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from daiko.copy_manager.governor import Governor
from daiko.copy_manager.pace import Pace
from daiko.copy_manager.pacer import Limit, Pacer
from daiko.device.error import DeviceError, Unreachable
from daiko.mapping.region_bitmap import RegionBitmap
from daiko.pair.copier import Copier, CopierFailed, Settler
from daiko.pair.side import Side
from daiko.pair.state import Use
from daiko.pair.surroundings import PairVolume, Workshop
from daiko.pair.write_path import Loss, Way
from daiko.state.migration_record import MigrationRecord, MigrationState
from daiko.state.store import StoreError

log = structlog.get_logger(__name__)

HOLD_SECONDS = 5.0
"""That hosts are held for the switch at most; it is tried again later."""


class MovingVolume(PairVolume, Protocol):
    """A volume that moves."""

    async def settled(self) -> None:
        """Wait until no command is under way that came before the volume was put to move."""
        ...

    async def hold_reads(self) -> None:
        """Keep reads back, and wait until none is under way."""
        ...

    def let_reads_go(self) -> None:
        """Let them go on."""
        ...


class SwitchRefused(Exception):
    """A volume cannot be switched to its new place now; the message says what it waits for."""


@dataclass(frozen=True, slots=True)
class Places:
    """What a migration works on."""

    volume: MovingVolume
    new: PairVolume


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration as it is now. Sizes in bytes."""

    record: MigrationRecord
    size: int
    """Of what moves."""
    left: int
    """Of that what has still to be copied."""
    job: int | None
    """The job that copies for it now."""
    limited_by: Limit | None
    """What of the pace holds its own copying back now."""
    waits_for: str
    """Why it has not switched though all is copied; "" = nothing."""
    notes: tuple[str, ...] = ()


class LiveMigration:
    """A migration that has not ended."""

    def __init__(
        self,
        record: MigrationRecord,
        places: Places,
        lead: Callable[[Callable[[Loss], None]], Side],
        other: Callable[[Callable[[Loss], None]], Side],
        workshop: Workshop,
        keep: Callable[[MigrationRecord], Awaitable[None]],
        switch: Callable[[MigrationRecord], Awaitable[None]],
        clock: Callable[[], float],
    ) -> None:
        """`lead` and `other` open the two sides. `keep` puts a state into the store, `switch` the
        last one with the new mapping of the volume, which it has taken up when that returns; it
        raises SwitchRefused. Both raise StoreError. Raises OSError (the bitmap)."""
        self.record = record
        self.lead = lead(self._lost)
        self.other = other(self._lost)
        self.lead.layer.peer = self.other.layer
        self.pacer = Pacer(Pace.parse(record.pace))
        self._volume = places.volume
        self._workshop = workshop
        self._keep = keep
        self._switch = switch
        self._clock = clock
        self._settler = Settler((self.lead, self.other))
        self._copier: Copier | None = None
        self._work: asyncio.Task[None] | None = None
        self._losses: list[Loss] = []
        self._telling: asyncio.Task[None] | None = None
        self._waits_for = ""
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()

    @property
    def volume(self) -> str:
        """Its name."""
        return self.record.volume

    @property
    def status(self) -> MigrationStatus:
        block_size = self.lead.volume.block_size
        size = sum(blocks for _, blocks in self.record.moved) * block_size
        copier = self._copier
        left = self.lead.marked_bytes if copier is None else copier.left_bytes
        return MigrationStatus(
            self.record,
            size=size,
            left=min(left, size),
            job=self._workshop.copies.job_of(self.volume),
            limited_by=None if copier is None else self.pacer.limited_by,
            waits_for=self._waits_for,
            notes=(f"bitmap: {self.lead.note}",) if self.lead.note else (),
        )

    async def changed(self) -> None:
        """Wait until the state changes."""
        await self._changed.wait()

    # --- acting by the record -------------------------------------------------------------------

    def install(self) -> None:
        """Into the write path; hosts' changes are held until `act`."""
        for side in (self.lead, self.other):
            side.install()

    async def mark_moved(self) -> None:
        """All that moves is to be copied. Raises OSError."""
        regions = self.lead.bitmap.regions
        wanted = RegionBitmap(regions.blocks, regions.shift)
        for first, blocks in self.record.moved:
            wanted.mark(first >> regions.shift, (first + blocks - 1) >> regions.shift)
        await self.lead.bitmap.mark_regions(wanted)
        await self.lead.bitmap.sync()

    async def keep_what_was_found(self) -> None:
        """`LivePair.keep_what_was_found`."""
        if self.lead.is_gone:
            await self.lead.bitmap.sync()

    def act(self, record: MigrationRecord) -> None:
        """Act by an open record that is in the store. Nothing works for it when this is called."""
        self.record = record
        moving = record.state is MigrationState.MOVING
        self.lead.layer.begin(is_equal=False)
        self._answer_losses()
        self.lead.use(Use.COPIED if moving else Use.TRACKED)
        if moving:
            self._copier = Copier(
                self.volume,
                self.lead,
                self.other,
                self._workshop,
                self._settler,
                self.pacer,
                self._go,
            )
            self._work = asyncio.create_task(
                self._move(self._copier), name=f"migration of {self.volume}"
            )

    async def resume(self) -> None:
        """After a failure. Raises StoreError."""
        async with self._lock:
            if self.record.state is MigrationState.FAILED:
                await self._come_to_rest()
                record = _moved_on(self.record, self._clock(), MigrationState.MOVING)
                try:
                    await self._keep(record)
                except StoreError:
                    self.act(self.record)
                    raise
                self.act(record)
                self._tell_change()

    async def cancel(self) -> bool:
        """Give the new place back. False: it has ended already. Raises StoreError."""
        async with self._lock:
            if not self.record.is_open:
                return False
            await self._come_to_rest()
            record = _moved_on(self.record, self._clock(), MigrationState.CANCELLED)
            try:
                await self._keep(record)
            except StoreError:
                self.act(self.record)
                raise
            self.end(record)
            return True

    async def set_pace(self, text: str) -> None:
        """As `copy_manager/pace.py` reads it. Raises StoreError."""
        async with self._lock:
            if self.record.is_open:
                record = self.record.model_copy(update={"pace": text})
                await self._keep(record)
                self.record = record
                pace = Pace.parse(text)
                self.pacer.use(pace)
                await self._workshop.copies.set_pace(self.volume, pace)

    async def close(self) -> None:
        """The controller stops."""
        async with self._lock:
            await self._rest()
            self._answer_losses(Unreachable("the controller stops"))
            await self.lead.close()

    # --- what works for it ----------------------------------------------------------------------

    def _go(self, way: Way) -> None:
        if self.lead.layer.way != Way.HOLD:
            self.lead.layer.go(way)

    async def _move(self, copier: Copier) -> None:
        governor = Governor(self.pacer, self._workshop.measure, [self.volume])
        governing = asyncio.create_task(governor.run(), name=f"pace of migration of {self.volume}")
        try:
            while True:
                await copier.run()
                await self._volume.settled()
                if await self._switched():
                    return
                # From here on everything is mirrored, and `run` only proves it.
                await asyncio.sleep(self._workshop.settings.settle_seconds)
        except (CopierFailed, OSError) as failure:
            await self._fail(str(failure))
        except Exception:
            # The edge of the migration's work: nobody above could do more than say that it failed.
            log.exception("migration ended by a defect", volume=self.volume)
            await self._fail("a defect of this program; its log says more")
        finally:
            governing.cancel()

    async def _switched(self) -> bool:
        """Let the volume go on in its new place, if nothing stands in the way now."""
        async with self._lock:
            if self._losses or not self.record.is_open:
                return not self.record.is_open
            self.lead.hold()
            try:
                if await self._is_equal_and_still():
                    record = _moved_on(self.record, self._clock(), MigrationState.DONE)
                    await self._switch(record)
                    self.end(record)
                    return True
            except SwitchRefused as refused:
                self._waits_for = str(refused)
            except StoreError as error:
                self._waits_for = f"the store: {error}"
                log.error("migration not switched, tried again", error=str(error))
            finally:
                self._volume.let_reads_go()
                if self.record.is_open and not self._losses:
                    self.lead.layer.go(Way.MIRROR)
            return False

    async def _is_equal_and_still(self) -> bool:
        """While changes are held: keep reads back as well, and prove that both places are the same.
        Where that takes too long for hosts, another time."""
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                await self.lead.drained()
                await self._volume.hold_reads()
                return await self._settler.settle(self.lead) and not self._losses
        except TimeoutError:
            self._waits_for = f"commands that took more than {HOLD_SECONDS:g} s"
        except DeviceError as error:
            self._waits_for = str(error)
        return False

    async def _fail(self, why: str) -> None:
        """In the store when this returns, however often that has to be tried: until then hosts
        wait, since a host that is answered may rely on one place only."""
        async with self._lock:
            if self.record.state is not MigrationState.MOVING:
                self._answer_losses()
                return
            await self._come_to_rest()
            record = _moved_on(self.record, self._clock(), MigrationState.FAILED, why)
            while True:
                try:
                    await self._keep(record)
                    break
                except StoreError as error:
                    log.error("state of migration not kept, tried again", error=str(error))
                await asyncio.sleep(self._workshop.settings.store_seconds)
            log.warning("migration failed", volume=self.volume, why=why)
            self.act(record)
            self._tell_change()

    def _lost(self, loss: Loss) -> None:
        """From the data path: a mirrored request left the places different, and a host waits."""
        if not self.record.is_open:
            loss.then(None)  # a flush that was under way when it ended: all was proved by then
            return
        self._losses.append(loss)
        self.lead.hold()
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell(), name=f"loss of {self.volume}")

    async def _tell(self) -> None:
        lost = next((loss for loss in self._losses if loss.of_other_side), None)
        if lost is not None:
            await self._fail(f"{self.record.to}: {lost.error}")
            return
        # The host hears of its own error; the blocks concerned are copied again.
        async with self._lock:
            if self.record.is_open:
                await self._come_to_rest()
                self.act(self.record)
            else:
                self._answer_losses()

    def _answer_losses(self, refusal: DeviceError | None = None) -> None:
        losses, self._losses = self._losses, []
        for loss in losses:
            loss.then(refusal)

    # --- inside ---------------------------------------------------------------------------------

    async def _rest(self) -> None:
        work, self._work = self._work, None
        if work is not None and work is not asyncio.current_task():
            work.cancel()
            await asyncio.wait({work})
        self._copier = None
        self._waits_for = ""

    async def _come_to_rest(self) -> None:
        """Nothing works for it, hosts' changes are held, none is under way."""
        await self._rest()
        self.lead.hold()
        await self.lead.drained()

    def end(self, record: MigrationRecord) -> None:
        """By a record that is not open, or never came into the store: out of the way; what was
        held goes on."""
        self.record = record
        self._copier = None
        self._answer_losses()
        for side in (self.other, self.lead):
            side.forget()
        self._tell_change()

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _moved_on(
    record: MigrationRecord, now: float, state: MigrationState, reason: str = ""
) -> MigrationRecord:
    return record.model_copy(update={"state": state, "reason": reason, "changed": now})
