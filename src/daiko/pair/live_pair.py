"""One pair while the controller runs: its record, its two sides, and what works for it.

The store leads: a state is in the store before anything acts by it, so a controller that was
killed at any step finds a state that is true. What the bitmaps say is true at every moment by
itself (`write_path.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import structlog

from daiko.copy_manager.governor import Governor
from daiko.copy_manager.pace import Pace
from daiko.copy_manager.pacer import Limit, Pacer
from daiko.device.error import DeviceError, Unreachable
from daiko.pair.applier import Applier
from daiko.pair.copier import Copier, CopierFailed, Settler
from daiko.pair.journal_path import JournalPath
from daiko.pair.side import Side, stream_of
from daiko.pair.state import COPIES, USES, PairEvent, differing, use_of_primary
from daiko.pair.surroundings import OtherSites, SiteRefused, Workshop
from daiko.pair.write_path import Loss, Way
from daiko.state.pair_record import Fence, PairRecord, PairState

log = structlog.get_logger(__name__)

Happened = Callable[["LivePair", PairEvent, str], Coroutine[Any, Any, None]]
"""(pair, event, why): puts the state that follows into the store, for the whole group."""


@dataclass(frozen=True, slots=True)
class PairStatus:
    """A pair as it is now. Sizes in bytes."""

    record: PairRecord
    size: int
    left: int
    """Still to be copied; 0 unless it copies."""
    differs: int
    """In regions that may differ: what a resync would copy at most."""
    written_to_secondary: int
    """Of these: in regions that hosts wrote to on the secondary."""
    job: int | None
    """The job that copies for it now."""
    limited_by: Limit | None
    """What of the pace holds its own copying back now."""
    notes: tuple[str, ...]
    """What an administrator should know: a bitmap that was lost, say."""
    journal: JournalStatus | None = None
    """Of an asynchronous pair that is led here."""


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """The journal of a group, and how far the secondaries are behind. Sizes in bytes."""

    state: str
    size: int
    used: int
    behind_bytes: int
    """Data that the secondaries do not have yet, of the whole group."""
    behind_seconds: float
    """How long ago the oldest of it was written."""
    good_as_of: float | None
    """The secondary has everything that was acknowledged before, and nothing later of which
    anything before is missing; in seconds since the epoch. None: it is a mixture, or not known."""


class LivePair:
    """A pair at work."""

    def __init__(
        self,
        record: PairRecord,
        open_side: Callable[[PairRecord, str], Side],
        workshop: Workshop,
        happened: Happened,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`open_side(record, volume)` opens a side. Raises OSError, LookupError."""
        self.record = record
        self._workshop = workshop
        self.pacer = Pacer(Pace.parse(record.pace))
        self._happened = happened
        self._clock = clock
        self._sides = {record.primary: open_side(record, record.primary)}
        try:
            self._sides[record.secondary] = open_side(record, record.secondary)
        except BaseException:
            self.primary.abandon()
            raise
        self.primary.meet(self.secondary, self._lost)
        self.secondary.meet(self.primary, self._lost)
        self._settler = Settler(self.sides)
        self.applier: Applier | None = None
        """Of the group's journal; None where the pair is not asynchronous."""
        self.is_drained = False
        """Of a pair that is draining: all of the journal is on its secondary, and nothing keeps it
        from being copied to."""
        self.others_drained: Callable[[], Awaitable[None]] | None = None
        """Returns when that is so of all pairs of the group that are draining."""
        self._journal_path: JournalPath | None = None
        self._journal_settler: Settler | None = None
        self._copier: Copier | None = None
        self._work: asyncio.Task[None] | None = None
        self._losses: list[Loss] = []
        self._telling: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def primary(self) -> Side:
        return self._sides[self.record.primary]

    @property
    def secondary(self) -> Side:
        return self._sides[self.record.secondary]

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.primary, self.secondary

    @property
    def lead(self) -> Side:
        """The side that is copied from."""
        reverse = self.record.state is PairState.REVERSE_COPYING
        return self.secondary if reverse else self.primary

    @property
    def other(self) -> Side:
        """The side that is copied to."""
        reverse = self.record.state is PairState.REVERSE_COPYING
        return self.primary if reverse else self.secondary

    @property
    def has_losses(self) -> bool:
        """Whether requests left the sides different that hosts have not heard of yet."""
        return bool(self._losses)

    @property
    def is_equal(self) -> bool:
        """Whether nothing is known to need copying."""
        return not self._losses and not self.lead.layer.stale.set_regions

    def record_as_found(self, now: float) -> PairRecord:
        """The record, at rest; one that is paired and not the same counts as copying."""
        if self.record.state is PairState.PAIRED:
            if self.applier is not None and self.applier.journal.ended:
                return differing(self.record, now, reason=self.applier.journal.ended)
            if not self.is_equal:
                return differing(self.record, now, reason="the sides differ")
        return self.record

    @property
    def status(self) -> PairStatus:
        paired = self.record.state is PairState.PAIRED
        return PairStatus(
            self.record,
            size=self.primary.volume.blocks * self.primary.volume.block_size,
            left=0 if self._copier is None else self._copier.left_bytes,
            differs=0 if paired else self._differing(self._marked_here()),
            written_to_secondary=self.marked_bytes(self.secondary),
            job=self._workshop.copies.job_of(self.name),
            limited_by=None if self._copier is None else self.pacer.limited_by,
            notes=tuple(
                f"bitmap of {side.volume.name}: {side.note}" for side in self.sides if side.note
            )
            + (() if self._sites is None else self._sites.notes(self.record))
            + (() if self._copier is None else self._copier.notes),
            journal=None
            if self.applier is None
            else _journal_status(self.applier, self._clock(), self.good_as_of),
        )

    @property
    def good_as_of(self) -> float | None:
        """`JournalStatus.good_as_of`."""
        if self.applier is None or not self.record.term or not self.applier.journal.is_whole:
            return None
        return self.applier.journal.good_as_of or None

    def _marked_here(self) -> int:
        """Bytes in regions that are marked on either side."""
        both = self.primary.bitmap.regions.copy()
        both.update(self.secondary.bitmap.regions)
        return both.changed_blocks * self.primary.volume.block_size

    def _differing(self, known: int) -> int:
        """With what only another site knows of, which may be the same regions."""
        elsewhere = 0 if self._sites is None else self._sites.marked_bytes(self.record)
        return min(known + elsewhere, self.primary.volume.blocks * self.primary.volume.block_size)

    def marked_bytes(self, side: Side) -> int:
        """Bytes in regions that hosts wrote to on this side since both were the same; of a volume
        at another site by what that said last."""
        marked = side.marked_bytes
        return self._differing(marked) if side is self.secondary else marked

    @property
    def _sites(self) -> OtherSites | None:
        """Of a pair over two sites; else None."""
        return self._workshop.sites if self.record.site else None

    @property
    def other_has_taken_over(self) -> bool:
        """Whether the other site said last that its hosts use its volume, without us."""
        return self._sites is not None and self._sites.has_taken_over(self.record)

    # --- acting by the record -------------------------------------------------------------------

    def install(self) -> None:
        """Into the write paths; hosts' changes are held until `act`."""
        for side in self.sides:
            side.install()

    def release(self) -> Side:
        """Of a pair over two sites, at rest: the pair is led from here no more. Returns our side,
        which holds hosts back."""
        self.secondary.forget()
        self.primary.part()
        return self.primary

    async def keep_what_was_found(self) -> None:
        """Where a bitmap had gone, everything was marked in a new one: bring that to stable
        storage, before a power cut can make it look as if nothing differed. Raises OSError."""
        for side in self.sides:
            if side.is_gone:
                await side.bitmap.sync()

    async def act(self, record: PairRecord) -> None:
        """Act by a record that is in the store: let hosts use the sides as its state says, and
        copy if it copies. Nothing works for the pair when this is called."""
        self.record = record
        is_equal = record.state is PairState.PAIRED
        if is_equal and self.applier is not None:
            await self._join(self.applier)
        elif record.state in COPIES or is_equal:
            await self.lead.take_over(self.other)
            self.lead.layer.begin(is_equal=is_equal)
        self.answer_losses()
        fenced = record.state is PairState.SPLIT_BY_ERROR and record.fence is Fence.DATA
        self.secondary.use(USES[record.state].secondary)
        self.primary.use(use_of_primary(record), fenced=fenced)
        if record.state in COPIES:
            self._copier = Copier(
                self.name,
                self.lead,
                self.other,
                self._workshop,
                self._settler,
                self.pacer,
                self._go,
                is_patient=self.applier is not None,
            )
            self._work = asyncio.create_task(self._copy(self._copier), name=f"pair {self.name}")
        elif is_equal:
            self._work = asyncio.create_task(self._stay_equal(), name=f"pair {self.name}")

    async def _join(self, applier: Applier) -> None:
        """Let changes go by way of the journal; with what it has of ours from before. Raises
        OSError."""
        stream, layer = stream_of(self.record), self.primary.layer
        path = self._journal_path
        if path is not None and path.stream == stream and layer.journaled is path:
            return  # it never left
        await self.primary.take_over(self.secondary)
        layer.begin(is_equal=True)
        for entry in applier.journal.waiting:
            if entry.stream == stream:
                layer.unproved.entered(entry.lba, entry.blocks)
        name = self.primary.volume.name
        self._journal_path = JournalPath(layer, applier.journal, stream, name)
        self.secondary.layer.journaled = None
        layer.journaled = self._journal_path
        self._journal_settler = Settler((self.primary,))

    def _go(self, way: Way) -> None:
        """The copier's wish; in reverse hosts use neither side, and nothing changes for them. Nor
        does it while the pair holds them back."""
        if (
            self.record.state is not PairState.REVERSE_COPYING
            and self.primary.layer.way != Way.HOLD
        ):
            self.primary.layer.go(way)

    async def rest(self) -> None:
        """Stop what works for the pair; returns when nothing is in flight for it."""
        work, self._work = self._work, None
        if work is not None and work is not asyncio.current_task():
            work.cancel()
            await asyncio.wait({work})
        self._copier = None
        self.is_drained = False

    async def settle(self) -> None:
        """Bring both sides to stable storage, and take the marks of what is the same. What cannot
        be proved stays marked: no more is copied again for it than that."""
        try:
            await self._settler_now.settle(self.lead)
        except DeviceError as error:
            log.warning("pair not settled", pair=self.name, error=str(error))

    async def is_proved(self) -> bool:
        """Bring both sides to stable storage. Is all that was written to both proved to be the
        same?"""
        try:
            return await self._settler.settle(self.lead)
        except DeviceError as error:
            log.warning("pair not settled", pair=self.name, error=str(error))
            return False

    @property
    def _settler_now(self) -> Settler:
        """Of a pair that is paired."""
        return self._settler if self._journal_settler is None else self._journal_settler

    def hold(self) -> None:
        """Keep hosts' changes back on both sides until `act`."""
        for side in self.sides:
            side.hold()

    async def drained(self) -> None:
        """Wait until everything that was sent to either side has come back."""
        for side in self.sides:
            await side.drained()

    async def close(self) -> None:
        """The controller stops."""
        await self.rest()
        self.answer_losses(Unreachable("the controller stops"))
        if self.applier is not None and self.record.state is PairState.PAIRED:
            # What is marked when the journal is found again is in the journal, and nothing else.
            self.hold()
            await self.drained()
            await self.settle()
            if not self.is_equal:
                self.applier.journal.end("the sides differ")
        for side in self.sides:
            await side.close()

    async def forget(self) -> None:
        """The pair is no more."""
        await self.rest()
        self.hold()
        await self.drained()
        for side in self.sides:
            side.forget()

    # --- what works for it ----------------------------------------------------------------------

    async def use_pace(self, record: PairRecord) -> None:
        """Copy at the pace that the record says, which is in the store, from now on."""
        self.record = record
        pace = Pace.parse(record.pace)
        self.pacer.use(pace)
        await self._workshop.copies.set_pace(self.name, pace)

    async def _copy(self, copier: Copier) -> None:
        places = [side.volume.name for side in self.sides]
        governor = Governor(self.pacer, self._workshop.measure, places)
        governing = asyncio.create_task(governor.run(), name=f"pace of pair {self.name}")
        event = PairEvent.EQUAL
        try:
            if self.applier is not None:
                await self.applier.drained()
            await self._enter(copier)
            if self.record.is_draining:
                # Before anything is copied over a secondary that is whole now.
                await self.primary.flush()
                self.is_drained = True
                event = PairEvent.DRAINED
            if self.others_drained is not None:
                await self.others_drained()
            if event is not PairEvent.DRAINED:
                await copier.run()
        except DeviceError as error:
            await self._happened(self, PairEvent.FAIL, f"{self.primary.volume.name}: {error}")
        except (CopierFailed, SiteRefused, OSError) as failure:
            await self._happened(self, PairEvent.FAIL, str(failure))
        except Exception:
            # The edge of the pair's work: nobody above could do more than say that it failed.
            log.exception("pair ended by a defect", pair=self.name)
            await self._happened(
                self, PairEvent.FAIL, "a defect of this program; its log says more"
            )
        else:
            await self._happened(
                self, event, self.record.reason if event is PairEvent.DRAINED else ""
            )
        finally:
            governing.cancel()

    async def _enter(self, copier: Copier) -> None:
        """Before a copy between two sites: the other one holds its hosts back, and what it has
        marked is copied as well. Its marks are kept there until both sides are the same. Raises
        OSError (the differential bitmap); SiteRefused, but of an asynchronous pair, where it is
        tried for as long as it takes."""
        if self._sites is None:
            return
        tries = 0
        while True:
            self._hurry.clear()
            try:
                marks = await self._sites.enter(self.record)
                break
            except SiteRefused as refused:
                if self.applier is None:
                    raise
                copier.trouble = str(refused)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._workshop.settings.pause_after(tries)):
                    await self._hurry.wait()
            tries += 1
        copier.trouble = ""
        await self.lead.bitmap.mark_regions(marks)
        self.lead.layer.stale.update(marks)

    def hurry(self) -> None:
        """The other site is there again: what is tried again is tried now."""
        self._hurry.set()
        if self.applier is not None:
            self.applier.hurry()

    async def _stay_equal(self) -> None:
        event, reason = PairEvent.DIFFER, "a connection was lost before a flush over it"
        is_equal = True
        while is_equal:
            await asyncio.sleep(self._workshop.settings.settle_seconds)
            try:
                is_equal = await self._settler_now.settle(self.lead)
            except Unreachable as error:
                is_equal, event, reason = False, PairEvent.FAIL, str(error)
            except DeviceError as error:  # it is there, and may have lost what was written
                is_equal, reason = False, str(error)
        if self.applier is not None:
            # What the journal holds goes to the other side first.
            self.applier.journal.end(reason)
            event = PairEvent.DIFFER
        await self._happened(self, event, reason)

    def _lost(self, loss: Loss) -> None:
        """From the data path: a request left the sides different, and hosts wait."""
        self._losses.append(loss)
        self.hold()
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell(), name=f"loss of pair {self.name}")

    async def _tell(self) -> None:
        lost = next((loss for loss in self._losses if loss.of_other_side), None)
        if lost is not None:
            # An asynchronous pair is copied again for as long as it takes.
            event = PairEvent.FAIL if self.applier is None else PairEvent.DIFFER
            await self._happened(self, event, f"{self.other.volume.name}: {lost.error}")
        elif self._losses:
            # Paired, the other side is whole, and may be needed now: nothing is copied to it.
            is_paired = self.record.state is PairState.PAIRED
            event = PairEvent.FAIL if is_paired else PairEvent.DIFFER
            await self._happened(self, event, f"{self.lead.volume.name}: {self._losses[0].error}")

    def answer_losses(self, refusal: DeviceError | None = None) -> None:
        """Hosts may hear how the requests ended that left the sides different: the store knows."""
        if self.record.fence is Fence.DATA and refusal is None:
            refusal = Unreachable(f"{self.record.secondary} is lost, and the fence is `data`")
        losses, self._losses = self._losses, []
        for loss in losses:
            loss.then(refusal)


def _journal_status(applier: Applier, now: float, good_as_of: float | None) -> JournalStatus:
    journal = applier.journal
    state = journal.ended or applier.trouble or "applying"
    if journal.ended and applier.trouble and not journal.is_drained:
        state = f"{journal.ended}; {applier.trouble}"
    oldest = next(iter(journal.waiting), None)
    return JournalStatus(
        state,
        size=journal.capacity,
        used=journal.used,
        behind_bytes=journal.behind_bytes,
        behind_seconds=0.0 if oldest is None else max(0.0, now - oldest.time),
        good_as_of=good_as_of,
    )
