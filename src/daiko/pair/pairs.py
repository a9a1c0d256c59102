"""All pairs of a controller: made, found again after a restart, asked for, taken away."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from daiko.backend.worker import Workers
from daiko.pair.error import NoSuchPair
from daiko.pair.group import After, Give, Group
from daiko.pair.journal import Journal
from daiko.pair.live_pair import LivePair
from daiko.pair.side import Side, no_loss
from daiko.pair.state import (
    COPIES,
    Answer,
    PairEvent,
    Verb,
    asked,
    carried_out,
    differing,
    moved,
)
from daiko.pair.surroundings import PairVolume, Workshop
from daiko.state.pair_record import PairRecord, PairState
from daiko.state.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a verb would do to the data of one pair. In bytes, by the bitmaps."""

    pair: str
    answer: Answer
    text: str
    """What it does, or why it does not."""
    volume: str = ""
    """That is written to."""
    overwritten: int = 0
    """At most so much of it."""
    discarded: int = 0
    """Of that: what hosts wrote there since the two were the same, and what will be lost."""


class Pairs:
    """The pairs, and the consistency groups that they are in."""

    def __init__(
        self,
        store: Store,
        volume: Callable[[str], PairVolume],
        workshop: Workshop,
        folder: Path | None,
        *,
        workers: Workers | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`volume(name)` raises LookupError. `folder` holds the bitmaps; None: they end with the
        process, as the store does. Whoever gives `workers` stops them."""
        self._store = store
        self._volume = volume
        self._workshop = workshop
        self._folder = folder
        self._workers = workers or Workers(2, name="bitmap")
        self._owns_workers = workers is None
        self._clock = clock
        self._groups: dict[tuple[str, str], Group] = {}
        self._new: set[str] = set()

    async def start(self) -> None:
        """Take up the pairs of the store; before any host can write. A pair that was paired and
        has marks (writes were under way when the process ended) copies these first."""
        records = []
        for record in self._store.list(PairRecord):
            if record.is_followed:
                continue
            pair = self._make(record)
            await pair.keep_what_was_found()
            if record.state is PairState.PAIRED and pair.applier is not None:
                if not pair.applier.journal.is_exact or any(side.note for side in pair.sides):
                    record = differing(record, self._clock(), reason="after a restart")
            elif record.state is PairState.PAIRED and any(side.marked_bytes for side in pair.sides):
                record = moved(record, PairState.COPYING, self._clock(), reason="after a restart")
            records.append(record)
        await self._keep(records, ())
        for record in records:
            await self.pair(record.name).act(record)
        for group in self._groups.values():
            group.resume()

    async def stop(self) -> None:
        """Bring the pairs to rest; hosts are gone."""
        for group in self._groups.values():
            await group.stop_journal()
        for pair in self.all():
            await pair.close()
        for group in self._groups.values():
            await group.close_journal()
        if self._owns_workers:
            self._workers.stop(lambda: None)

    # --- looking --------------------------------------------------------------------------------

    @property
    def is_kept(self) -> bool:
        """There is a folder for bitmaps and journals."""
        return self._folder is not None

    def all(self) -> list[LivePair]:
        """All pairs, by name."""
        found = [pair for group in self._groups.values() for pair in group.pairs.values()]
        return sorted(found, key=lambda pair: pair.name)

    def pair(self, name: str) -> LivePair:
        """Raises NoSuchPair."""
        for group in self._groups.values():
            if name in group.pairs:
                return group.pairs[name]
        raise NoSuchPair(name)

    def named(self, name: str) -> list[LivePair]:
        """The pair of this name, or those of the group. Raises NoSuchPair."""
        group = self._groups.get(("group", name))
        if group is not None:
            return sorted(group.pairs.values(), key=lambda pair: pair.name)
        return [self.pair(name)]

    def good_as_of(self, pair: LivePair) -> float | None:
        """`LivePair.good_as_of`; None also while something is copied to another secondary of its
        group: that is no earlier state."""
        group = self._group_of(pair).pairs.values()
        if any(other.record.state in COPIES and not other.record.term for other in group):
            return None
        return pair.good_as_of

    def effects(self, name: str, verb: Verb) -> list[Effect]:
        """What a verb would do, before it does. Raises NoSuchPair."""
        return [_effect(pair, verb) for pair in self.named(name)]

    async def changed(self, name: str) -> None:
        """Wait until the state of a pair, or of one of its group, changes. Raises NoSuchPair."""
        await self._group_of(self.named(name)[0]).changed()

    # --- asking ---------------------------------------------------------------------------------

    async def create(self, record: PairRecord) -> LivePair:
        """Make a pair of two volumes that are in none, and begin to copy. It is in the store when
        this returns. Raises LookupError (no such volume), OSError (the bitmaps cannot be made),
        StoreError."""
        self._new.add(record.name)
        try:
            pair = self._make(record)
        finally:
            self._new.discard(record.name)
        try:
            await pair.primary.mark_all()
            await self._keep([record], ())
        except BaseException:
            del self._group_of(pair).pairs[pair.name]
            await self._drop_empty()
            await pair.forget()
            raise
        await self._group_of(pair).begin(pair)
        return pair

    async def verb(self, name: str, verb: Verb, *, at_once: bool = False) -> list[LivePair]:
        """Do what is asked to a pair or a whole group; those to which anything was done. What is in
        a journal comes to the secondaries before, unless it has to be `at_once`. Raises NoSuchPair,
        VerbRefused, StoreError."""
        pairs = self.named(name)
        done = await self._group_of(pairs[0]).verb(
            [pair.name for pair in pairs], verb, at_once=at_once
        )
        if verb is Verb.REMOVE:
            await self._drop_empty()
        return done

    async def fail(self, name: str, why: str) -> None:
        """A side cannot be reached, or has left. Raises NoSuchPair."""
        pair = self.pair(name)
        await self._group_of(pair).happened(pair, PairEvent.FAIL, why)

    async def taken_over(self, record: PairRecord, why: str) -> None:
        """The other site has taken over, as it said when our record was this one. Raises
        NoSuchPair."""
        pair = self.pair(record.name)
        group = self._group_of(pair)
        await group.happened(pair, PairEvent.FAIL, why)
        await group.secondary_is_whole(pair, record.sequence + 1)

    async def set_pace(self, name: str, pace: str) -> None:
        """Let a pair, or those of a group, copy at another pace, as `copy_manager/pace.py` reads
        it. Raises NoSuchPair, StoreError."""
        pairs = self.named(name)
        await self._group_of(pairs[0]).set_pace([pair.name for pair in pairs], pace)

    # --- pairs whose lead changes between two sites ----------------------------------------------

    async def release(
        self, names: Sequence[str], after: After, give: Give, *, verb: Verb | None = None
    ) -> None:
        """Give pairs of one group away, as `Group.release`. Raises NoSuchPair."""
        await self._group_of(self.pair(names[0])).release(names, after, give, verb=verb)
        await self._drop_empty()

    def prepare(self, record: PairRecord, own: Side) -> LivePair:
        """Open a pair over two sites whose volume here has its side already, at rest; `begin` lets
        it act. Raises OSError, LookupError."""
        self._new.add(record.name)
        try:
            other = self._open_side((), record, record.secondary)
            try:
                return self._make(record, own, other)
            except BaseException:
                other.abandon()
                raise
        finally:
            self._new.discard(record.name)

    async def abandon(self, pair: LivePair) -> None:
        """What was prepared comes to nothing; our side stays, at rest."""
        del self._group_of(pair).pairs[pair.name]
        pair.release()
        await self._drop_empty()

    async def begin(self, pair: LivePair) -> None:
        """What was prepared acts by its record, which is in the store."""
        await self._group_of(pair).begin(pair)

    # --- inside ---------------------------------------------------------------------------------

    def _make(self, record: PairRecord, *opened: Side) -> LivePair:
        """`opened`: sides of it that are open already."""
        key = ("group", record.group) if record.group else ("pair", record.name)
        group = self._groups.get(key)
        if group is None:
            group = Group(self._keep, self._clock, self._workshop.settings)
            if record.is_async:
                group.use_journal(self._open_journal(record))
        try:
            pair = LivePair(
                record,
                partial(self._open_side, opened),
                self._workshop,
                group.happened,
                self._clock,
            )
        except BaseException:
            if not group.pairs and group.applier is not None:
                group.applier.journal.forget()
            raise
        pair.applier = group.applier
        if group.applier is not None:
            pair.others_drained = group.drained
        self._groups[key] = group
        group.pairs[record.name] = pair
        pair.install()
        return pair

    def _open_journal(self, record: PairRecord) -> Journal:
        """Of the group of a pair. Raises OSError."""
        if self._folder is None:
            raise OSError(errno.ENOTSUP, "a journal needs a folder, as a kept store has one")
        name = record.group or record.name
        told = f"{'group' if record.group else 'pair'}\0{name}"
        journal = Journal.open(
            self._folder / "journals" / name,
            identity=hashlib.blake2b(told.encode(), digest_size=16).digest(),
            capacity=record.journal,
            power_safe=record.power_safe,
            workers=self._workers,
            clock=self._clock,
        )
        if record.name in self._new:
            # Of a group that came to nothing, or that the other site came to lead.
            try:
                journal.empty()
            except BaseException:
                journal.forget()
                raise
        return journal

    async def _drop_empty(self) -> None:
        """A group is there as long as it has a pair."""
        for group in self._groups.values():
            if not group.pairs:
                await group.close_journal(forget=True)
        self._groups = {key: group for key, group in self._groups.items() if group.pairs}

    def _group_of(self, pair: LivePair) -> Group:
        return next(group for group in self._groups.values() if pair.name in group.pairs)

    def _open_side(self, opened: Sequence[Side], record: PairRecord, name: str) -> Side:
        for side in opened:
            if side.volume.name == name:
                return side
        volume: PairVolume
        if record.site and name == record.secondary:
            assert self._workshop.sites is not None
            volume = self._workshop.sites.volume(record)
        else:
            volume = self._volume(name)
        return Side.open(
            record,
            volume,
            self._folder,
            is_new=record.name in self._new,
            workers=self._workers,
            lost=no_loss,
        )

    async def _keep(self, records: Iterable[PairRecord], gone: Iterable[str]) -> None:
        records = list(records)
        left = [self.pair(name).record for name in gone]
        async with self._store.transaction() as change:
            for record in records:
                change.put(record)
            for record in left:
                change.delete(PairRecord, record.name)
        # While no host is let go on: whoever follows acts by the state before anybody here does.
        sites = self._workshop.sites
        if sites is not None:
            await asyncio.gather(
                *(sites.tell(record) for record in records if record.site),
                *(sites.leave(record) for record in left if record.site),
            )


def _effect(pair: LivePair, verb: Verb) -> Effect:
    record = pair.record
    cell = asked(record, verb)
    if cell.answer is not Answer.GOES or cell.state not in COPIES:
        return Effect(record.name, cell.answer, cell.text)
    after = carried_out(record, cell, 0.0)
    target = after.primary if after.state is PairState.REVERSE_COPYING else after.secondary
    side = next(side for side in pair.sides if side.volume.name == target)
    return Effect(
        record.name,
        cell.answer,
        cell.text,
        volume=target,
        overwritten=pair.status.differs,
        discarded=pair.marked_bytes(side),
    )
