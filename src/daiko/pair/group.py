"""Pairs that change their state as one: a consistency group, or a pair alone.

Every change of state goes the same way: what works for the pairs stops, hosts' changes are held,
what is in flight comes back, the new states go into the store together, and then each pair acts by
its own. So a split of several pairs is of one instant: a host that has seen a write acknowledged
finds it on the secondary, whichever volume it went to, and no later one.

When the secondary of one paired member is lost, all paired members split with it: otherwise the
secondaries that are left would go on to receive writes that depend on one that is missing.

Asynchronous pairs share a journal, and an applier (`applier.py`). A split of these is of the
instant at which it was asked for: what is in the journal then comes to the secondary, what hosts
write meanwhile does not, and then the state changes. When the journal ends, all that are paired
begin to copy what differs, all of them when the last entry of the journal has been applied and
nothing keeps any of them from being copied to: until then hosts can be sent to their secondaries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import structlog

from daiko.pair.applier import Applier
from daiko.pair.bring_up import bring_up, within
from daiko.pair.error import VerbRefused
from daiko.pair.journal import Journal
from daiko.pair.live_pair import LivePair
from daiko.pair.settings import PairSettings
from daiko.pair.side import Side, stream_of
from daiko.pair.state import (
    COPIES,
    EVENTS,
    Answer,
    Cell,
    PairEvent,
    Verb,
    asked,
    carried_out,
    differing,
    moved,
)
from daiko.pair.write_path import PairedDevice
from daiko.state.pair_record import PairRecord, PairState
from daiko.state.store import StoreError

log = structlog.get_logger(__name__)

After = Callable[[Mapping[str, PairRecord]], Mapping[str, PairRecord]]
"""Makes of the records of pairs at rest those that follow. Raises VerbRefused."""
Give = Callable[[Sequence[tuple[LivePair, PairRecord]]], Awaitable[None]]
"""Takes pairs at rest over, with their new records. Raises StoreError, OSError, VerbRefused; then
nothing was changed."""
Keep = Callable[[Iterable[PairRecord], Iterable[str]], Awaitable[None]]
"""Puts records into the store and takes those of these names out, in one transaction. Raises
StoreError."""


def going(records: Mapping[str, PairRecord], verb: Verb) -> dict[str, Cell]:
    """What the verb does to those pairs that it does anything to. Raises VerbRefused."""
    cells = {name: asked(record, verb) for name, record in records.items()}
    refusals = [
        (name, str(records[name].state), cell.text)
        for name, cell in cells.items()
        if cell.answer is Answer.REFUSED
    ]
    if refusals:
        raise VerbRefused(refusals)
    return {name: cell for name, cell in cells.items() if cell.answer is Answer.GOES}


def _going_here(records: Mapping[str, PairRecord], verb: Verb) -> dict[str, Cell]:
    """As `going`, where the other site does not come to lead by it (`exchange.py`)."""
    cells = going(records, verb)
    text = "it has come to this state just now, in which the roles would be exchanged: ask again"
    refusals = [
        (name, str(records[name].state), text)
        for name, cell in cells.items()
        if cell.exchanges_roles and records[name].site
    ]
    if refusals:
        raise VerbRefused(refusals)
    return cells


def _after(record: PairRecord, event: PairEvent, now: float, why: str) -> PairRecord:
    if event is PairEvent.DIFFER and record.state is PairState.PAIRED:
        return differing(record, now, reason=why)
    return moved(record, EVENTS[record.state][event], now, reason=why)


def _has_undrained(pairs: Iterable[LivePair]) -> bool:
    return any(pair.record.is_draining and not pair.is_drained for pair in pairs)


class Group:
    """One or more pairs, by name. Changed by `Pairs` alone."""

    def __init__(self, keep: Keep, clock: Callable[[], float], settings: PairSettings) -> None:
        self.pairs: dict[str, LivePair] = {}
        self._keep = keep
        self._clock = clock
        self._settings = settings
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self.applier: Applier | None = None
        """Of the journal; None of synchronous pairs."""
        self._ending: asyncio.Task[None] | None = None

    def use_journal(self, journal: Journal) -> None:
        """Let the pairs of this group, which are asynchronous, share a journal."""
        self.applier = Applier(journal, self._target, self._settings)
        journal.when_ended = self._journal_ended

    def resume(self) -> None:
        """Let what is in the journal come to the secondaries."""
        if self.applier is not None:
            self.applier.resume()

    async def pause(self) -> None:
        """Let nothing more of the journal come to the secondaries."""
        if self.applier is not None:
            await self.applier.pause()

    async def stop_journal(self) -> None:
        """The controller stops: what happens to the journal now is for the next one."""
        if self.applier is not None:
            await self.pause()
            self.applier.journal.when_ended = lambda why: None

    async def close_journal(self, *, forget: bool = False) -> None:
        """The controller stops, and the pairs are closed; or there are no pairs any more."""
        if self.applier is not None:
            await self.applier.close(forget=forget)

    async def changed(self) -> None:
        """Wait until the state of a pair has changed."""
        await self._changed.wait()

    async def verb(
        self, names: Sequence[str], verb: Verb, *, at_once: bool = False
    ) -> list[LivePair]:
        """Do what is asked to these pairs, to all as one; returns those to which anything was
        done: none where there was nothing to do. What is in the journal comes to the secondaries
        before, unless it has to be `at_once`. Raises VerbRefused, StoreError; then nothing was
        changed."""
        taken_over = {name for name in names if self.pairs[name].other_has_taken_over}
        async with self._lock:
            try:
                return await self._do(names, verb, taken_over, at_once=at_once)
            finally:
                self.resume()

    async def _do(
        self, names: Sequence[str], verb: Verb, taken_over: set[str], *, at_once: bool
    ) -> list[LivePair]:
        concerned = [
            self.pairs[name]
            for name in _going_here({name: self.pairs[name].record for name in names}, verb)
        ]
        if not at_once:
            await bring_up(self.applier, concerned, verb, self._settings)
        if verb is not Verb.SWAP:
            await self._pause_for(concerned)
        await self._stand_still(concerned)
        if verb is Verb.SWAP:
            await self._bring_up_last(concerned)
        now = self._clock()
        # A paired one may have turned out not to be the same (a disk has lost its cache).
        found = {pair.name: pair.record_as_found(now) for pair in concerned}
        try:
            cells = _going_here(found, verb)
        except VerbRefused:
            await self._go_on(concerned, found)
            raise
        records = {
            name: carried_out(found[name], cell, now, settles=name in taken_over)
            for name, cell in cells.items()
            if cell.state is not None
        }
        gone = [name for name in cells if name not in records]
        try:
            await self._keep(records.values(), gone)
        except StoreError:
            await self._go_on(concerned, found)
            raise
        await self._act([self.pairs[name] for name in records], records)
        for name in gone:
            await self.pairs.pop(name).forget()
        self._tell()
        return concerned

    async def release(
        self, names: Sequence[str], after: After, give: Give, *, verb: Verb | None = None
    ) -> None:
        """Bring these pairs to rest, and give them away; they are in this group no more when this
        returns. By a `verb`, what is in a journal comes to the secondaries before. Raises what
        `after` and `give` raise, and VerbRefused; then nothing was changed."""
        async with self._lock:
            try:
                await self._release(names, after, give, verb)
            finally:
                if self.pairs:
                    self.resume()

    async def _release(
        self, names: Sequence[str], after: After, give: Give, verb: Verb | None
    ) -> None:
        text = "it is led here no more: look again"
        gone = [(name, "followed", text) for name in names if name not in self.pairs]
        if gone:
            raise VerbRefused(gone)
        concerned = [self.pairs[name] for name in names]
        if verb is None:
            await self._pause_for(concerned)
        else:
            await bring_up(self.applier, concerned, verb, self._settings)
        await self._stand_still(concerned)
        if verb is not None:
            await self._bring_up_last(concerned)
        now = self._clock()
        found = {pair.name: pair.record_as_found(now) for pair in concerned}
        try:
            records = after(found)
            await give([(pair, records[pair.name]) for pair in concerned])
        except (VerbRefused, StoreError, OSError):
            await self._go_on(concerned, found)
            raise
        for name in names:
            del self.pairs[name]
        self._tell()

    async def begin(self, pair: LivePair) -> None:
        """A pair that has come into this group acts by its record, which is in the store."""
        await pair.act(pair.record)
        self.resume()

    async def set_pace(self, names: Sequence[str], pace: str) -> None:
        """Let these pairs copy at another pace. Raises StoreError."""
        async with self._lock:
            records = {
                name: self.pairs[name].record.model_copy(update={"pace": pace}) for name in names
            }
            await self._keep(records.values(), ())
            for name, record in records.items():
                await self.pairs[name].use_pace(record)

    async def happened(self, pair: LivePair, event: PairEvent, why: str) -> None:
        """Something happened to a pair: the states that follow are in the store when this
        returns, however often that has to be tried."""
        async with self._lock:
            is_known = event is PairEvent.DIFFER and pair.record.is_draining
            if is_known or event not in EVENTS[pair.record.state] or pair.name not in self.pairs:
                pair.answer_losses()
                return
            concerned = [pair]
            if event is PairEvent.DRAINED:
                if _has_undrained(self.pairs.values()):
                    await self._stand_still(concerned)
                    await self._act(concerned, {})  # it waits for the others
                    return
                concerned += [
                    other
                    for other in self.pairs.values()
                    if other is not pair and other.record.is_draining
                ]
            is_of_all = event is PairEvent.FAIL or pair.record.is_async
            if is_of_all and pair.record.state is PairState.PAIRED:
                concerned += [
                    other
                    for other in self.pairs.values()
                    if other is not pair and other.record.state is PairState.PAIRED
                ]
            if event is PairEvent.FAIL:
                await self._pause_for(concerned)
            await self._stand_still(concerned)
            if event is PairEvent.EQUAL and pair.applier is not None:
                if not await pair.is_proved() or self._is_ending:
                    await self._act([pair], {})  # it copies again, when the journal is drained
                    return
                if self.applier is not None and (failure := self.applier.begin_anew()):
                    event, why = PairEvent.FAIL, failure
            if event is PairEvent.EQUAL and not pair.is_equal:
                await self._act([pair], {})  # a write came in between that was lost
                return
            now = self._clock()
            records = {
                each.name: _after(
                    each.record,
                    event,
                    now,
                    why
                    if each is pair or each.record.is_async
                    else f"with pair {pair.name}: {why}",
                )
                for each in concerned
            }
            await self._insist(records.values())
            log.info("pair", pair=pair.name, state=str(pair.record.state), became=event, why=why)
            await self._act(concerned, records)
            self.resume()
            self._tell()

    async def secondary_is_whole(self, pair: LivePair, sequence: int) -> None:
        """The secondary is no mixture, though a state before this sequence was about to copy over
        it: the site that has it had not agreed to that."""
        async with self._lock:
            record = pair.record
            is_that = record.mixture == record.secondary and record.sequence <= sequence
            if not is_that or record.state in COPIES or pair.name not in self.pairs:
                return
            record = record.model_copy(update={"mixture": ""})
            await self._insist([record])
            pair.record = record
            self._tell()

    # --- the journal ----------------------------------------------------------------------------

    def _target(self, stream: bytes) -> tuple[Side, PairedDevice] | None:
        for pair in self.pairs.values():
            if pair.record.term and stream_of(pair.record) == stream:
                return pair.secondary, pair.primary.layer
        return None

    def _journal_ended(self, why: str) -> None:
        """From the data path: no more writes come to the secondaries in order."""
        self._ending = asyncio.create_task(self._end(why), name="end of journal")

    async def _end(self, why: str) -> None:
        for pair in list(self.pairs.values()):
            if pair.record.state is PairState.PAIRED:
                await self.happened(pair, PairEvent.DIFFER, why)

    async def drained(self) -> None:
        """Wait until every secondary that is an earlier state may be copied to. Until then none is,
        so that hosts can be sent to all of them."""
        self._tell()
        while _has_undrained(self.pairs.values()):
            await self.changed()

    @property
    def _is_ending(self) -> bool:
        """The journal takes no entries, and there are some that are waited for, or pairs that have
        yet to leave it."""
        journal = None if self.applier is None else self.applier.journal
        if journal is None or not journal.ended:
            return False
        are_in_it = any(pair.record.term for pair in self.pairs.values())
        return are_in_it or not journal.is_drained

    async def _pause_for(self, pairs: Sequence[LivePair]) -> None:
        if any(pair.record.term for pair in pairs):
            await self.pause()

    async def _bring_up_last(self, pairs: Sequence[LivePair]) -> None:
        """While hosts wait: the rest. Raises VerbRefused."""
        if self.applier is None or not any(pair.record.term for pair in pairs):
            return
        try:
            async with within(self._settings.swap_seconds, pairs, self.applier):
                await self.applier.reached(self.applier.journal.last)
        except VerbRefused:
            await self._act(pairs, {})
            raise
        await self.pause()
        for pair in pairs:
            await pair.settle()

    # --- changing -------------------------------------------------------------------------------

    async def _stand_still(self, pairs: Sequence[LivePair]) -> None:
        for pair in pairs:
            await pair.rest()
        for pair in pairs:
            pair.hold()
        for pair in pairs:
            await pair.drained()
        for pair in pairs:
            if pair.record.state is PairState.PAIRED and not pair.has_losses:
                await pair.settle()

    async def _act(self, pairs: Sequence[LivePair], records: Mapping[str, PairRecord]) -> None:
        for pair in pairs:
            record = records.get(pair.name, pair.record)
            is_new = record.state is PairState.PAIRED and record.term != pair.record.term
            if is_new and self.applier is not None:
                self.applier.journal.join()
            await pair.act(record)

    async def _go_on(self, pairs: Sequence[LivePair], found: Mapping[str, PairRecord]) -> None:
        """As they were found at rest: nothing was done to them. What turned out to differ goes into
        the store first."""
        changed = {pair.name: found[pair.name] for pair in pairs}
        changed = {n: record for n, record in changed.items() if record != self.pairs[n].record}
        if changed:
            await self._insist(changed.values())
        await self._act(pairs, changed)
        self._tell()

    async def _insist(self, records: Iterable[PairRecord]) -> None:
        """Until the store has them, hosts wait: what they would be told may not be true after a
        crash."""
        records = list(records)
        while True:
            try:
                await self._keep(records, ())
            except StoreError as error:
                log.error("states of pairs not kept, tried again", error=str(error))
                await asyncio.sleep(self._settings.store_seconds)
            else:
                return

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
